"""The rows of the table, in its order: one file for each subject."""

from benchmarks.frame.row import Row
from benchmarks.rows import burst, dead, doors, echo, filling, idle, judging, lateness, logins, memory, opening, throughput, users

ROWS: tuple[Row, ...] = (
    doors.ROW,
    lateness.ROW,
    burst.ROW,
    dead.ROW,
    opening.ROW,
    filling.ROW,
    users.ROW,
    idle.ROW,
    memory.ROW,
    logins.ROW,
    throughput.ROW,
    echo.ROW,
    judging.ROW,
)
