"""What being recorded adds to ``ssh host true``: the whole of a session that does nothing."""

import time
from collections.abc import Callable

from benchmarks.frame.row import Absent, Goal, Plot, Row, Run
from benchmarks.rows.sessions_bed import PLAIN, WAYS, bed
from tests.sessions.bed import Person

_CASE = "ssh host true"
_WARM = 3


def measure(run: Run) -> None:
    """In turn, each from the client's start to its end."""
    with bed(run) as (_, people):
        for _ in range(_WARM):
            for someone in people.values():
                someone.ssh("true")
        run.turns(40, 5, {way: _one(run, way, someone) for way, someone in people.items()})


def _one(run: Run, way: str, someone: Person) -> Callable[[], None]:
    def act() -> None:
        began = time.monotonic()
        done = someone.ssh("true")
        took = (time.monotonic() - began) * 1000
        if done.returncode != 0:
            raise Absent(f"{someone.login} does not get in: {done.stderr[-200:]!r}")
        run.add(_CASE, way, "ms", took)

    return act


ROW = Row(
    name="logins",
    title="A recorded command",
    about="`ssh host true` from the client's start to its end: by a tenant whose sessions are recorded, by one whose are "
    "not, by an ordinary account with a key in its home, and by one whose login shell is tlog.",
    measure=measure,
    goals=(Goal(_CASE, "ratio", 1.10, against=PLAIN),),
    ways=WAYS,
    limits={_CASE: (PLAIN,)},
    plots=(Plot("spread", "ssh host true", (_CASE,)),),
)
