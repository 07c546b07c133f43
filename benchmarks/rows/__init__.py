"""The rows of the table, in its order: one file for each subject."""

from benchmarks.frame.row import Row
from benchmarks.rows import echo, logins, memory, throughput

ROWS: tuple[Row, ...] = (memory.ROW, logins.ROW, throughput.ROW, echo.ROW)
