"""Ending every process of the tenants whose time is up, all of them together, until none is left.

The order is the one that was measured to win against fork bombs: the whole user slice at once, then everything the uid may
signal, then a walk of /proc for what neither can see, its cgroups frozen while they are cleared so nothing runs ahead of it.
Who dies is noted first, for the receipt: a slice's by the kernel's list of it, which takes no walk, everybody else by one.
"""

import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from agent.host.cgroups import Cgroups
from agent.host.lent import Lent
from agent.host.processes import Process, ProcessTable

_KILLED_LISTED = 64
_GROUPS_LISTED = 256  # of a slice: the kill waits for no more
PATIENCE_S = 5.0
_EMPTY_HELD, _EMPTY_LOOSE = 2, 4  # walks in a row that find nobody, where new processes kept coming
_PEOPLE = "/user.slice/"
_FEW = 4  # processes of one tenant: a bomb's are too many to be signalled one by one
_DYING_S, _DYING_LOOK_S = 0.05, 0.0005  # what was killed whole is given so long to be gone before anybody walks
_PAUSES_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)


@dataclass(slots=True)
class Severed:
    """How it went for one tenant. ``killed`` names at most 64 processes; ``killed_count`` counts those that were seen and died."""

    uid: int
    killed: list[str] = field(default_factory=list)
    killed_count: int = 0
    survivors: list[str] = field(default_factory=list)
    empty_wall_ns: int = 0
    errors: list[str] = field(default_factory=list)

    def failed(self, error: Exception) -> None:
        """Note what went wrong, once."""
        self.note(f"{type(error).__name__}: {error}")

    def note(self, message: str) -> None:
        """Note an error, once."""
        if message not in self.errors:
            self.errors.append(message)


def sever(
    tenants: dict[int, str],
    table: ProcessTable,
    cgroups: Cgroups,
    wall_ns: Callable[[], int],
    *,
    patience_s: float = PATIENCE_S,
    lent: Sequence[Lent] = (),
    disarm: Callable[[], object] = lambda: None,
) -> dict[int, Severed]:
    """Kill until nothing of any tenant (uid → login) lives, nor anything that holds what was lent; returns what was seen, by uid.

    Never raises. Whoever still lives after ``patience_s`` stands in ``survivors``: the caller keeps the grant open as not ended
    and tries again. A walk that fails proves nothing: until one succeeds everybody counts as alive. ``disarm`` is called when a
    tenant's program is seen run by another, whom we don't kill.
    """
    results = {uid: Severed(uid) for uid in (*tenants, *(each.uid for each in lent))}
    attempt = _Attempt(tenants, table, cgroups, results, lent, disarm, targets=set(tenants))
    attempt.kill_slices()
    attempt.look()
    attempt.kill_few()
    give_up = time.monotonic() + patience_s
    for number in itertools.count():
        if number:
            attempt.kill_slices()
        busy = attempt.strike()
        now = wall_ns()
        for uid, result in attempt.results.items():
            result.empty_wall_ns = 0 if uid in busy else result.empty_wall_ns or now
        late = time.monotonic() > give_up
        if not busy or late:
            attempt.conclude(busy)
            break
        time.sleep(_PAUSES_S[min(number, len(_PAUSES_S) - 1)])
    return attempt.results


@dataclass(slots=True)
class _Attempt:
    """One call of :func:`sever`: whom it is about, and what it has seen."""

    tenants: dict[int, str]
    table: ProcessTable
    cgroups: Cgroups
    results: dict[int, Severed]
    lent: Sequence[Lent]
    disarm: Callable[[], object]
    seen: dict[tuple[int, int], Process] = field(default_factory=dict)
    listed: dict[int, int] = field(default_factory=dict)  # pid → uid of who was in a slice as that was killed
    at_first: frozenset[int] = frozenset()
    left: list[Process] = field(default_factory=list)
    targets: set[int] = field(default_factory=set)  # the tenants that are to be killed whole
    whole: set[int] = field(default_factory=set)  # of these, whose slice was killed at once: what is left there is dying
    hold: bool = False  # all that users run stands still while we look
    empties: int = 0  # walks in a row that found nobody
    lately: set[int] = field(default_factory=set)  # of whom the last walk that found anybody found something

    def kill_slices(self) -> None:
        """Each tenant's whole slice, at once; who was in it is noted as the kernel lists it."""
        self.whole = set()
        for uid in self.targets:
            group = self.cgroups.user_slice(uid)
            pids = self._listed(uid, group)
            if self.cgroups.kill(group):
                self.whole.add(uid)
                self.listed |= dict.fromkeys(pids, uid)

    def look(self) -> None:
        """Who is there outside the slices before they are signalled, or inside where those could not be killed."""
        try:
            self._note(self.table.of(self.tenants, self.lent, self.listed))
        except Exception as error:
            self._failed(error)
        self.at_first = frozenset({*self.listed, *(pid for _, pid in self.seen)})

    def kill_few(self) -> None:
        """Outside their slices most have a process or two, a job of cron's or at's: those at once, by number.

        Becoming one uid after the other takes a millisecond each, and the hundredth waited for ninety-nine. It comes all the same:
        it alone gets whatever runs ahead of a look. Whom that might not reach, a tenant's program run by another, is left for the
        strike, which takes its set-id bits wherever it lies. So is whoever holds what was lent: its children are known by it alone.
        """
        tenants = [each for each in self.seen.values() if each.mark == "uid" and each.tenant_uid in self.tenants]
        own = [each for each in tenants if each.uid == each.tenant_uid and not each.cgroup.startswith(_PEOPLE)]
        number = Counter(each.tenant_uid for each in own)
        for process in own:
            if number[process.tenant_uid] <= _FEW:
                self._kill(process)

    def strike(self) -> set[int]:
        """Kill everything else once; returns the uids of which something may still live."""
        self._signal_all()
        self.targets = set(self.tenants)
        self._await_deaths()
        try:
            with self._held() as held:
                before = self.table.newest()
                self.left = self._walk()
                settled = before == self.table.newest() != -1
                self._note(self.left)
                self._kill_strays()
            busy = {process.tenant_uid for process in self.left if self._counts(process)}
        except Exception as error:
            self._failed(error)
            self.left = []
            self.empties = 0
            return set(self.results)
        if any(process.mark == "uid" and self._is_outside(process) for process in self.left):
            self._disarm()
        busy |= {uid for uid in self.tenants if self.cgroups.populated(self.cgroups.user_slice(uid))}
        self.lately = busy or self.lately
        self.targets = busy & set(self.tenants)
        return busy or self._unproved(settled, held)

    def conclude(self, busy: set[int]) -> None:
        """Name who lives, and who died."""
        alive = {(process.tenant_uid, process.pid) for process in self.left if process.tenant_uid in busy}
        for uid in busy:
            result = self.results[uid]
            named = [f"{process.name}[{process.pid}]" for process in self.left if process.tenant_uid == uid]
            unnamed = "; ".join(result.errors) or f"something in {self.cgroups.user_slice(uid)}"
            result.survivors = named[:_KILLED_LISTED] or [unnamed]
        for key, process in self.seen.items():
            self.listed.pop(process.pid, None)
            if key not in alive:
                result = self.results[process.tenant_uid]
                result.killed_count += 1
                if len(result.killed) < _KILLED_LISTED:
                    result.killed.append(f"{process.name}[{process.pid}] uid={process.uid} by={process.mark}")
        for uid in self.listed.values():
            self.results[uid].killed_count += 1

    def _walk(self) -> list[Process]:
        return self.table.of(self.tenants, self.lent)

    def _unproved(self, settled: bool, held: bool) -> set[int]:
        """Whom an empty walk does not prove dead: what forks as it goes may have run ahead of it.

        Nothing can have, if no number was given out meanwhile. Else we look again, with everything of the users' held still;
        what is left then is a service's, whose forks made the numbers move.
        """
        self.empties += 1
        if settled or self.empties >= (_EMPTY_HELD if held else _EMPTY_LOOSE):
            return set()
        self.hold = True
        return self.lately or set(self.results)

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """Everything that users run stands still, for one walk; True when it does. It is thawed whatever happens."""
        if not self.hold:
            yield False
            return
        with contextlib.ExitStack() as stack:
            groups = self.cgroups.of_people()
            still = [stack.enter_context(self.cgroups.frozen(group)) for group in groups]  # every one, also after one that fails
            yield bool(still) and all(still)

    def _counts(self, process: Process) -> bool:
        """Whether it keeps the end from being reached.

        sshd names its process after the login before anyone has authenticated. The doors are shut by now, so a later one never
        will: it is killed as well, but whoever goes on knocking from the network does not keep the grant from ending.
        """
        return process.mark != "sshd" or process.pid in self.at_first

    def _is_outside(self, process: Process) -> bool:
        """Whether it is where the slice's own kill does not reach."""
        return not process.cgroup.startswith(self.cgroups.user_slice(process.tenant_uid) + "/")

    def _listed(self, uid: int, group: str) -> list[int]:
        """Who is in a slice that is about to be killed. As many are named as a receipt names: the kill waits for no more."""
        pids: list[int] = []
        try:
            pids = self.cgroups.pids(group, _GROUPS_LISTED)
            self._note(self.table.among(sorted(pids)[:_KILLED_LISTED], self.tenants))
        except Exception as error:
            self._failed(error)
        return pids

    def _await_deaths(self) -> None:
        """Until the slices that were killed whole are empty. A walk before that only takes the dying's time, and is no proof."""
        give_up = time.monotonic() + _DYING_S
        for uid in self.whole:
            while self.cgroups.populated(self.cgroups.user_slice(uid)) and time.monotonic() < give_up:
                time.sleep(_DYING_LOOK_S)

    def _signal_all(self) -> None:
        try:
            for uid, message in self.table.kill_all_of(self.targets).items() if self.targets else ():
                self.results[uid].note(message)
        except Exception as error:
            self._failed(error)

    def _kill_strays(self) -> None:
        """What the two atomic kills did not reach: freeze the cgroups it is in, look again, kill, thaw."""
        strays = [each for each in self.left if self._is_outside(each) or each.tenant_uid not in self.whole]
        if any(self._counts(process) for process in self.left):
            self.empties = 0
        self.hold |= any(self._counts(process) for process in strays)
        with contextlib.ExitStack() as stack:
            groups = dict.fromkeys(process.cgroup for process in strays)
            frozen = {group for group in groups if stack.enter_context(self.cgroups.frozen(group))}
            hits = [process for process in self._walk() if process.cgroup in frozen] if frozen else []
            for process in [*hits, *(process for process in strays if process.cgroup not in frozen)]:
                self._kill(process)

    def _kill(self, process: Process) -> None:
        try:
            self.table.kill(process, self.tenants)
        except Exception as error:
            self.results[process.tenant_uid].failed(error)

    def _disarm(self) -> None:
        try:
            self.disarm()
        except Exception as error:
            self._failed(error)

    def _note(self, processes: list[Process]) -> None:
        for process in processes:
            self.seen.setdefault((process.tenant_uid, process.pid), process)

    def _failed(self, error: Exception) -> None:
        for result in self.results.values():
            result.failed(error)
