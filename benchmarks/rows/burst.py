"""A hundred and a thousand grants that end in one second: when each one's doors were shut and its process was dead."""

import math
import time
from collections.abc import Callable, Sequence

from benchmarks.frame.row import OURS, Goal, Plot, Row, Run
from benchmarks.ground import Ground, of_uids, standing
from benchmarks.peers.endings import Endings
from benchmarks.rows.lateness import AT
from benchmarks.watching import Deaths, Unlinked
from tests.host.scene import account, public, ssh
from tests.hosts.errors import HostError

_HUNDRED, _THOUSAND = 100, 1000
_FIRST_GUESS_S = 0.15  # for each grant, until it is open
_SLOWER, _STARTING_S = 1.6, 0.03  # beside more of them; and each one's process
_PATIENCE_S = {_HUNDRED: 10.0, _THOUSAND: 60.0}
_OVER_S = 900.0  # homes and accounts go one after the other, and a receipt comes with each
_SPREAD_S = 60.0  # at knows minutes only
_QUEUED_S = 0.04  # for each job and process, until it stands


def measure(run: Run) -> None:
    """One crowd after the other, each with a process of its own."""
    with standing(run) as ground:
        endings = Endings(ground.host, ground.folder)
        took: list[float] = [_FIRST_GUESS_S]
        ways: dict[str, Callable[[], None]] = {OURS: lambda: took.append(_ours(run, ground, _HUNDRED, took[-1]))}
        if not run.quick:  # a minute has to come for at
            ways[AT] = lambda: _at(run, ground, endings, _HUNDRED)
        run.turns(2, 1, ways, "100 at once")
        if not run.quick:
            run.tell("1,000 at once")
            _ours(run, ground, _THOUSAND, took[-1])
            run.tell("1,000 at once, at")
            _at(run, ground, endings, _THOUSAND)


def _ours(run: Run, ground: Ground, count: int, opening_s: float) -> float:
    """``opening_s``: what opening one took the last time. Returns what it took now."""
    scene, key = ground.scene, public(ground.key)
    logins = [f"jit-b{number}" for number in range(count)]
    due_s = int(time.time() + 10 + count * (opening_s * _SLOWER + _STARTING_S))
    claims = [
        scene.claims(account(login), ssh(login, key), sub=f"{login}@example.com", exp=due_s, nbf=int(time.time()))
        for login in logins
    ]
    began = time.monotonic()
    for each in claims:
        scene.drop(scene.sign(each))
    while _opening(ground) and time.time() < due_s - 5:
        time.sleep(0.25)
    took = (time.monotonic() - began) / count
    live = scene.status()["grants"]
    uids = [uid for grant in live if grant["state"] == "open" for uid in grant["uids"].values()]
    if len(uids) < count:
        raise HostError(f"only {len(uids)} of {count} grants were open in time")
    _crowd(ground, logins)
    doors = Unlinked([ground.inside(f"/run/tidegate/keys/{login}") for login in logins])
    _watch(run, OURS, count, due_s, Deaths(of_uids(ground.host, uids)), doors)
    ground.host.wait_for(lambda: not scene.ask("grants")["grants"], _OVER_S, "all grants are over")
    _parts(run, ground, count, claims[:: max(1, count // 10)])
    return took


def _opening(ground: Ground) -> bool:
    """Looked at in the inbox, which costs the daemon nothing."""
    return any(path.suffix == ".jwt" for path in ground.scene.inbox.iterdir())


def _at(run: Run, ground: Ground, endings: Endings, count: int) -> None:
    """Queued for one full minute; accounts by useradd."""
    logins = [f"at{count}x{number}" for number in range(count)]
    uids = endings.accounts(logins, public(ground.key))
    due_s = math.ceil((time.time() + count * _QUEUED_S + 5) / _SPREAD_S) * _SPREAD_S
    endings.queue(logins, due_s, 0)
    _crowd(ground, logins)
    doors = Unlinked([ground.inside(f"/home/{login}/.ssh/authorized_keys") for login in logins])
    _watch(run, AT, count, due_s, Deaths(of_uids(ground.host, uids)), doors)
    if count < _THOUSAND:  # after the thousand the host is given up
        time.sleep(2)
        for login, uid in zip(logins, uids, strict=True):
            endings.remove(login, uid)


def _crowd(ground: Ground, logins: Sequence[str]) -> None:
    """A process for each, outside of any session."""
    script = "while read login; do setsid runuser -u $login -- sleep 900 >/dev/null 2>&1 </dev/null & done; sleep 2"
    ground.host.run(script, input="".join(f"{login}\n" for login in logins), timeout=120)


def _watch(run: Run, way: str, count: int, due_s: float, deaths: Deaths, doors: Unlinked) -> None:
    if time.time() > due_s:
        raise HostError(f"{count} at once: setting up took until the deadline")
    until_s = due_s + _PATIENCE_S[count]
    deaths.wait(until_s)
    doors.wait(until_s)
    for case, found, alive in ((_dead(count), deaths.died_ns, deaths.left), (_doors(count), doors.gone_ns, doors.left)):
        run.add(case, way, "ms", *(at / 1e6 - due_s * 1e3 for at in found.values()))
        for _ in range(alive):
            run.never(case, way, "ms", _PATIENCE_S[count])


def _parts(run: Run, ground: Ground, count: int, claims: Sequence[dict[str, object]]) -> None:
    """By the receipts of some of them, milliseconds."""
    for each in claims:
        late = ground.scene.receipt(str(each["jti"]))["lateness_ms"]
        if late["doors"] is not None:
            run.part(_doors(count), "by the daemon's own receipt, its doors shut after", "ms", late["doors"])
        if late["last_process"] is not None:
            run.part(_dead(count), "by the daemon's own receipt, proved dead after", "ms", late["last_process"])


def _doors(count: int) -> str:
    return f"{count:,} grants, doors shut"


def _dead(count: int) -> str:
    return f"{count:,} grants, last process dead"


ROW = Row(
    name="burst",
    title="Many grants that end in one second",
    about="All with the same deadline, each with an account, a key and a process. A value for each grant: when its key file"
    " was unlinked (inotify), and when its process died (pidfd), after the deadline. The at-script has a job for each"
    " account, all queued for the same minute.",
    measure=measure,
    goals=(
        Goal(_doors(_HUNDRED), "max", 50),
        Goal(_dead(_HUNDRED), "max", 500),
        Goal(_doors(_THOUSAND), "max", 300),
        Goal(_dead(_THOUSAND), "max", 3000),
    ),
    ways={OURS: "Tidegate", AT: "at + usermod, pkill, userdel"},
    plots=(
        Plot(
            "spread",
            "From the deadline, for each of the grants",
            tuple(name(count) for count in (_HUNDRED, _THOUSAND) for name in (_doors, _dead)),
        ),
    ),
)
