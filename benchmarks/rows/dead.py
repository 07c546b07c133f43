"""From the deadline to the last process dead while tidegated is dead: what systemd's timer behind each grant takes."""

import re
import time
from datetime import UTC, datetime

from benchmarks.frame.row import OURS, Absent, Goal, Plot, Row, Run
from benchmarks.ground import Ground, standing
from benchmarks.watching import SliceWatch
from tests.host.scene import UNIT, account, public, ssh

_CASE = "20 processes, tidegated dead"
_APART_S = 3
_SET_UP_S = 1.5
_PATIENCE_S = 2.5
_STARTS = re.compile(r"^(\w+ +\d+ [\d:.]+) .*systemd\[1\]: Starting tidegate-backstop@(\d+)-", re.MULTILINE)


def measure(run: Run) -> None:
    """Grants that end one after the other, all opened before the daemon is killed and kept from starting."""
    with standing(run) as ground:
        count = run.times(20, 3)
        first_s = int(time.time() + _SET_UP_S * count + 4)
        due = {f"jit-dead{number}": first_s + number * _APART_S for number in range(count)}
        uids = {login: _open(ground, login, due_s) for login, due_s in due.items()}
        ground.host.run(f"systemctl mask --runtime --quiet {UNIT}; systemctl kill -s KILL {UNIT}")
        for number, (login, due_s) in enumerate(due.items()):
            run.tell(f"{number + 1} of {count}")
            watch = SliceWatch(ground.host, uids[login])
            if time.time() > due_s - 0.05:
                run.tell(f"{login}: its deadline came before its turn")
                continue
            dead_ns = watch.dead_ns(due_s, _PATIENCE_S) if watch.populated else 0
            if dead_ns is None:
                run.never(_CASE, OURS, "ms", _PATIENCE_S)
            elif dead_ns < due_s * 10**9:
                raise RuntimeError(f"{login} was ended before its time")
            else:
                run.add(_CASE, OURS, "ms", dead_ns / 1e6 - due_s * 1e3)
        _parts(run, ground, due)


def _open(ground: Ground, login: str, due_s: int) -> int:
    ground.scene.open(account(login), ssh(login, public(ground.key)), exp=due_s, sub=f"{login}@example.com")
    done = ground.host.ssh(login, ground.key, "for n in $(seq 20); do setsid sleep 600 >/dev/null 2>&1 </dev/null & done; exit 0")
    if done.returncode != 0:
        raise Absent(f"{login} does not get in: {done.stderr[-200:]}")
    return int(next(grant["uids"][login] for grant in ground.scene.status()["grants"] if login in grant["uids"]))


def _parts(run: Run, ground: Ground, due: dict[str, int]) -> None:
    """By systemd's own log: when it started the program; and what an interpreter with nothing in it takes until it is there."""
    for _ in range(9):
        entering = _took_ms(ground, ["true"])
        started = _took_ms(ground, ["nice", "-n", "-10", "python3", "-I", "-S", "-c", "import _sqlite3"])
        run.part(_CASE, "the bare interpreter, with sqlite and no code of ours", "ms", max(0.0, started - entering))
    journal = ground.host.run("journalctl --sync; journalctl --boot --no-pager --utc --output short-precise _PID=1").stdout
    year = datetime.now(UTC).year
    for stamp, second in _STARTS.findall(journal):
        if int(second) in due.values():
            at = datetime.strptime(f"{year} {stamp} +0000", "%Y %b %d %H:%M:%S.%f %z").timestamp()
            run.part(_CASE, "from the deadline to systemd's starting of the backstop", "ms", (at - int(second)) * 1000)


def _took_ms(ground: Ground, argv: list[str]) -> float:
    began = time.monotonic()
    ground.host.run(argv)
    return (time.monotonic() - began) * 1000


ROW = Row(
    name="dead",
    title="Lateness with tidegated dead",
    about="tidegated is killed and kept from starting again; then grants end, one every few seconds, each with 20 processes"
    " that an ssh session left behind. The figure is the moment when nothing lives in the tenant's user slice any "
    "more. Nothing else that was measured ends access while its agent is dead, so there is nothing beside it.",
    measure=measure,
    goals=(Goal(_CASE, "p99", 150),),
    ways={OURS: "Tidegate's timers of systemd"},
    plots=(Plot("spread", "From the deadline to the last process dead, with tidegated dead", (_CASE,)),),
)
