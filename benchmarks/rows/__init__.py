"""The rows of the table, in its order: one file for each subject."""

from benchmarks.frame.row import Row
from benchmarks.rows import doors, echo, lateness, logins, memory, throughput

ROWS: tuple[Row, ...] = (doors.ROW, lateness.ROW, memory.ROW, logins.ROW, throughput.ROW, echo.ROW)
