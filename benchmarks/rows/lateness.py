"""From the deadline to the last process dead: Tidegate, the bare sequence, an at-script, the guest agent, on one host in turn.

Slots follow each other; in each slot every way has its own account, its processes and its deadline, one second apart. at(1) knows
minutes only, so several slots' jobs are queued for one minute, each sleeping the rest: its best.
"""

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from benchmarks.frame.row import OURS, Absent, Goal, Plot, Row, Run
from benchmarks.ground import Ground, standing
from benchmarks.peers import guest_agent
from benchmarks.peers.endings import Endings
from benchmarks.watching import SliceWatch
from tests.host.scene import account, public, ssh
from tests.hosts.errors import HostError
from tests.survival import bombs

BARE, AT, GUEST = "bare", "at", "guest"
WAYS = {
    OURS: "Tidegate",
    BARE: "the bare sequence in C",
    AT: "at + usermod, pkill, userdel",
    GUEST: "GCE's guest agent, told at T",
}
TWENTY, MANY, SHELL, MOBILE = "20 processes", "300 processes", "shell bomb", "mobile bomb"
CASES = (TWENTY, MANY, SHELL, MOBILE)
_MOBILE_AT, _SHELL_BOMB_AT, _ARMED_AT = "/usr/local/lib/mobile", "/usr/local/lib/shell-bomb", "/usr/local/lib/armed"
_SHELL_BOMB = b"#!/bin/bash\nb() { b | b & }\nb\nsleep 600\n"
# Seconds since the epoch, and what to run then.
_ARMED = b"""#!/bin/bash
left=$(awk -v due="$1" -v now="$EPOCHREALTIME" 'BEGIN { print due > now ? due - now : 0 }')
shift
sleep "$left"
exec "$@"
"""
_LEAD_S = 6.0  # of a slot, to make its accounts and processes, and for the logins' own work to be over
_APART_S = 1.0
_ARMED_S = 0.4  # a bomb goes off this long before its deadline
_PATIENCE_S = 0.85  # and whoever has not ended it by then is counted as not having done so in the time until the next one's turn
_GAP_S = 1.0
_A_MINUTE = 5  # slots
_MOST = 380  # processes of a shell bomb


@dataclass(slots=True)
class _Turn:
    """One way's part of a slot."""

    way: str
    login: str
    due_s: float
    uid: int = 0
    jti: str = ""


@dataclass(slots=True)
class _Slot:
    """``starts_s`` seconds since the epoch."""

    case: str
    starts_s: float
    turns: list[_Turn] = field(default_factory=list)

    @property
    def ends_s(self) -> float:
        """When the next may start."""
        return max(turn.due_s for turn in self.turns) + _GAP_S


def measure(run: Run) -> None:
    """Minute by minute, until every case has its number of slots."""
    with stage(run) as (ground, endings, agent):
        ways = [way for way in (OURS, BARE, AT, GUEST) if way not in run.absent]
        wanted = [case for _ in range(run.times(5, 1)) for case in (TWENTY, *CASES)]  # what ends most often, twice as often
        number = 0
        while number < len(wanted):
            batch = list(_batch(wanted[number : number + _A_MINUTE], ways, number))
            _prepare(ground, endings, batch)
            for place, slot in enumerate(batch):
                run.tell(f"{number + place + 1} of {len(wanted)}, {slot.case}")
                _play(run, ground, endings, agent, slot)
            number += len(batch)
            _receipts(run, ground, batch)


@contextlib.contextmanager
def stage(run: Run) -> Iterator[tuple[Ground, Endings, guest_agent.GuestAgent | None]]:
    """A host with all peers on it; what can't be had here is left out."""

    def also(root: Path) -> None:
        guest_agent.prepare(root)
        programs = {_MOBILE_AT: bombs.mobile(), _SHELL_BOMB_AT: _SHELL_BOMB, _ARMED_AT: _ARMED}
        for path, content in programs.items():
            place = root / path.lstrip("/")
            place.write_bytes(content)
            place.chmod(0o755)

    with contextlib.ExitStack() as stack:
        try:
            ground = stack.enter_context(standing(run, packages=guest_agent.PACKAGES, also=also))
        except HostError as error:
            run.leave_out(GUEST, error)
            ground = stack.enter_context(standing(run, also=also))
        endings, agent = Endings(ground.host, ground.folder), None
        if endings.no_bare:
            run.leave_out(BARE, endings.no_bare)
        if GUEST not in run.absent:
            try:
                agent = guest_agent.GuestAgent(ground.host)
            except (Absent, HostError) as error:
                run.leave_out(GUEST, error)
        yield ground, endings, agent


def _batch(cases: Sequence[str], ways: Sequence[str], number: int) -> Iterator[_Slot]:
    """Slots from the next full minute on for which there is time to get ready. The first in one is the last in the next.

    Whoever is first ends soonest after everybody's logins, so that each has to be as often.
    """
    starts_s = math.ceil((time.time() + 3 + len(cases) * 0.25) / 60) * 60.0
    for place, case in enumerate(cases):
        slot = _Slot(case, starts_s)
        first = (number + place) // _A_MINUTE % len(ways)
        for turn, way in enumerate([*ways[first:], *ways[:first]]):
            slot.turns.append(_Turn(way, f"{_login(way)}{number + place}", starts_s + _LEAD_S + turn * _APART_S))
        yield slot
        starts_s = slot.ends_s


def _login(way: str) -> str:
    return {OURS: "jit-late", BARE: "bare", AT: "at", GUEST: "guest"}[way]


def _prepare(ground: Ground, endings: Endings, batch: Sequence[_Slot]) -> None:
    """Before the minute comes: at's accounts and jobs, the bare sequence's accounts."""
    key = public(ground.key)
    for slot in batch:
        for turn in slot.turns:
            if turn.way in {AT, BARE}:
                turn.uid = endings.account(turn.login, key)
            if turn.way == AT:
                endings.queue([turn.login], batch[0].starts_s, turn.due_s - batch[0].starts_s)
    time.sleep(max(0.0, batch[0].starts_s - time.time()))


def _play(run: Run, ground: Ground, endings: Endings, agent: guest_agent.GuestAgent | None, slot: _Slot) -> None:
    """One slot: everybody's processes, then one deadline after the other."""
    time.sleep(max(0.0, slot.starts_s - time.time()))
    with ThreadPoolExecutor(len(slot.turns)) as pool:
        set_up = list(pool.map(lambda turn: _set_up(run, ground, agent, slot, turn), slot.turns))
    ready = [turn for turn, well in zip(slot.turns, set_up, strict=True) if well]
    for turn in slot.turns:
        watch = SliceWatch(ground.host, turn.uid)
        if turn not in ready or not _alive(slot, turn, watch):
            _discard(ground, endings, agent, turn, watch)
            continue
        if turn.way == BARE:
            endings.bare(turn.login, turn.uid, int(turn.due_s * 1e9))
        timer = threading.Timer(turn.due_s - time.time(), agent.take, [turn.login]) if agent and turn.way == GUEST else None
        if timer:
            timer.start()
        dead_ns = watch.dead_ns(turn.due_s, _PATIENCE_S)
        if dead_ns is None:
            run.never(slot.case, turn.way, "ms", _PATIENCE_S)
        else:
            run.add(slot.case, turn.way, "ms", dead_ns / 1e6 - turn.due_s * 1e3)
        if timer:
            timer.join()
        _discard(ground, endings, agent, turn, watch)


def _set_up(run: Run, ground: Ground, agent: guest_agent.GuestAgent | None, slot: _Slot, turn: _Turn) -> bool:
    """Its account where it has none yet, and its processes, by a real login that ends again. False: not in time."""
    key = public(ground.key)
    if turn.way == OURS:
        entries = account(turn.login), ssh(turn.login, key)
        turn.jti = ground.scene.open(*entries, exp=int(turn.due_s), sub=f"{turn.login}@example.com")
        turn.uid = next(grant["uids"][turn.login] for grant in ground.scene.status()["grants"] if turn.login in grant["uids"])
    elif turn.way == GUEST and agent is not None:
        try:
            agent.give(turn.login, key)
        except Absent as absent:
            run.tell(str(absent))
            return False
        turn.uid = int(ground.host.run(f"id -u {turn.login}").stdout)
    done = ground.host.ssh(turn.login, ground.key, _load(slot.case, turn.due_s))
    if done.returncode != 0:
        run.tell(f"{turn.login}: {done.stderr[-200:]}")
    return done.returncode == 0 and time.time() < slot.starts_s + _LEAD_S - _ARMED_S


def _load(case: str, due_s: float) -> str:
    """What runs until the deadline, left behind by a session that has ended. Bombs are bounded in number, and go off late."""
    quiet = ">/dev/null 2>&1 </dev/null"
    if case in {TWENTY, MANY}:
        count = int(case.split(maxsplit=1)[0])
        return f"for n in $(seq {count}); do setsid sleep 600 {quiet} & done; exit 0"
    bomb = _SHELL_BOMB_AT if case == SHELL else _MOBILE_AT
    return f"ulimit -u {_MOST}; setsid {_ARMED_AT} {due_s - _ARMED_S:.3f} {bomb} {quiet} & exit 0"


def _alive(slot: _Slot, turn: _Turn, watch: SliceWatch) -> bool:
    """Whether just before its deadline runs what has to."""
    time.sleep(max(0.0, turn.due_s - 0.15 - time.time()))
    least = int(slot.case.split()[0]) if slot.case in {TWENTY, MANY} else 1
    return time.time() < turn.due_s and watch.count() >= least


def _discard(ground: Ground, endings: Endings, agent: guest_agent.GuestAgent | None, turn: _Turn, watch: SliceWatch) -> None:
    """So that the next turn is undisturbed."""
    watch.kill()
    if agent and turn.way == GUEST:
        agent.take(turn.login)
    if turn.way != OURS and turn.uid:
        endings.remove(turn.login, turn.uid)


def _receipts(run: Run, ground: Ground, batch: Sequence[_Slot]) -> None:
    """What Tidegate's own part was made of, by its receipts (microseconds)."""
    for slot in batch:
        for turn in slot.turns:
            if turn.jti:
                found = ground.scene.receipt(turn.jti)
                moments = ("deadline", "began", "doors_closed", "last_process_dead")
                at = [_ms(found[name]) for name in moments if found[name]]
                names = ("from the deadline to the first thing done", "shutting the doors", "ending all, until that is proved")
                for what, since, until in zip(names, at, at[1:], strict=False):
                    run.part(slot.case, what, "ms", until - since)


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


ROW = Row(
    name="lateness",
    title="Lateness: the last process dead",
    about="From the deadline to the moment when nothing lives in the tenant's user slice any more, by the kernel's own "
    "word, looked at from outside the host every third of a millisecond. The processes were left behind by an ssh "
    "session that has ended. Each bomb goes off shortly before the deadline, bounded in number. An at job sleeps from"
    " the full minute to its deadline. The guest agent is told by the metadata server at the deadline itself. What "
    "lives on is killed from outside before the next one's turn; whose turn is first changes from round to round.",
    measure=measure,
    goals=(
        Goal(TWENTY, "median", 25),
        Goal(TWENTY, "p99", 60),
        *(Goal(case, "median", 100) for case in (MANY, SHELL, MOBILE)),
        Goal(TWENTY, "ratio", 1.0, against=AT),
    ),
    ways=WAYS,
    limits=dict.fromkeys(CASES, (BARE,)),
    plots=(Plot("spread", "From the deadline to the last process dead", CASES),),
)
