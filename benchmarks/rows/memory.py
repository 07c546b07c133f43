"""What an idle recorded terminal takes of memory: the share of the recorder's, and of every helper's that stays with it."""

import contextlib
import time
from collections.abc import Callable

from benchmarks.frame.row import OURS, Absent, Goal, Row, Run
from benchmarks.ground import outer_pid, pss_kib
from benchmarks.peers import log_server
from benchmarks.rows.sessions_bed import BY_SCRIPT, PLAIN, SUDO, TLOG, WAYS, bed, by_sudo, typing
from tests.sessions.bed import Bed, Person

_CASE, _ITSELF = "each idle terminal", "the recorder itself, with no session"
_SCRIPT = "script"
_UNIT = "tidegate-recorder.service"
_OURS = f"cat /sys/fs/cgroup$(systemctl show -p ControlGroup --value {_UNIT})/cgroup.procs; pgrep -f '^tidegate-(session|window)'"


def measure(run: Run) -> None:
    """Open several of each way at once, and divide by their number what they have added."""
    with bed(run) as (host, people):
        ways: dict[str, tuple[Person, str, str]] = {
            OURS: (people[OURS], "", _OURS),
            _SCRIPT: (people[PLAIN], BY_SCRIPT, "pgrep -x script"),
        }
        ways |= {TLOG: (people[TLOG], "", "pgrep tlog-rec")} if TLOG in people else {}
        ways |= run.had({SUDO: lambda: (by_sudo(host), log_server.AROUND, log_server.PROCESSES)})
        run.add(_ITSELF, OURS, "MiB", _pss(host, _OURS) / 1024)
        run.turns(3, 1, {way: _one(run, host, way, *how) for way, how in ways.items()})


def _one(run: Run, host: Bed, way: str, someone: Person, around: str, which: str) -> Callable[[], None]:
    def act() -> None:
        count = run.times(20, 8)
        before = _pss(host, which)
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(typing(someone, around))
            time.sleep(0.5)
            run.add(_CASE, way, "KiB", (_pss(host, which) - before) / count)
            if way == OURS:
                run.part(
                    _CASE, "its waiter, and its share of what tells of windows", "KiB", _pss(host, which.split("; ")[1]) / count
                )
        end = time.monotonic() + 20
        while _sessions(host, which) and time.monotonic() < end:
            time.sleep(0.1)
        if _sessions(host, which):
            raise Absent("its processes stay when the session is over")

    return act


def _sessions(host: Bed, which: str) -> bool:
    """Whether any process of a session is left (the recorder's own stays)."""
    return bool(host.host.run(which.rsplit("; ", maxsplit=1)[-1], check=False).stdout.split())


def _pss(host: Bed, which: str) -> int:
    pids = {int(pid) for pid in host.host.run(which, check=False).stdout.split()}
    return pss_kib([outer_pid(host.host, pid) for pid in pids])


ROW = Row(
    name="memory",
    title="Memory of a recorded session",
    about="PSS (proc(5), smaps_rollup) of the recorder and of what stays beside the session, with several idle terminals "
    "less without, by their number. The shell itself is in none of it.",
    measure=measure,
    goals=(Goal(_CASE, "median", 307.2),),
    ways={**WAYS, _SCRIPT: "script(1)"},
)
