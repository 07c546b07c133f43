"""Execs, ends of processes and gaps, sorted to the grants whose they are. What it writes goes to books; nothing here waits.

An exec is its grant's by the login uid, which only root can change, and whose accounts are one grant's alone. ``ses`` in it is
the kernel's number of the login, which stays through sudo, su and setsid.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.host.kaudit.exits import Exit
from agent.host.kaudit.records import Exec
from agent.sessions.execs import lines
from agent.sessions.execs.book import Book

_RUNNING_MAX = 65536
_EXIT_WAIT_NS = 1_000_000_000  # audit's records come by a thread of the kernel's own, so after the connector's news
_EXITS_MAX = 65536
_SAME_NS = 50_000_000  # audit's times are of the last tick, and two clocks are compared
_NS = 1_000_000_000
TOLD_BURST, TOLD_EVERY_S, TOLD_MAX = 100, 2, 2000


@dataclass(slots=True)
class Followed:
    """One grant. ``told``: how many execs became events; they are few, so that no tenant pushes others out of the trail."""

    key: str
    book: Book
    uids: Mapping[int, str]
    told: int = 0
    tokens: float = TOLD_BURST
    filled_ns: int = 0


@dataclass(slots=True)
class Sorting:
    """``mono_to_wall`` turns a monotonic time into wall clock. ``tell`` gets (key, exec) of those that become events."""

    mono_to_wall: Callable[[int], int]
    tell: Callable[[str, Exec], None] = lambda _key, _found: None
    tell_gap: Callable[[str, str, int | None], None] = lambda _key, _why, _lost: None
    unknown: int = 0  # execs of tenants that no grant is followed for
    _grants: dict[str, Followed] = field(default_factory=dict)
    _by_uid: dict[int, Followed] = field(default_factory=dict)
    _running: "OrderedDict[int, tuple[Exec, Followed]]" = field(default_factory=OrderedDict)  # pid → its last exec, whose
    _exits: "deque[Exit]" = field(default_factory=deque)

    def follow(self, key: str, book: Book, uids: Mapping[int, str]) -> None:
        """From now on what these uids run is this grant's."""
        found = self._grants[key] = Followed(key, book, dict(uids))
        self._by_uid.update(dict.fromkeys(uids, found))

    def leave(self, key: str) -> Book | None:
        """It is over; its book, to be closed."""
        found = self._grants.pop(key, None)
        if found is None:
            return None
        for uid in [uid for uid, whose in self._by_uid.items() if whose is found]:
            del self._by_uid[uid]
        for pid in [pid for pid, (_, whose) in self._running.items() if whose is found]:
            del self._running[pid]
        return found.book

    def knows(self, uid: int) -> bool:
        """Whether it is some grant's."""
        return uid in self._by_uid

    @property
    def books(self) -> list[Book]:
        """Of all that are followed."""
        return [found.book for found in self._grants.values()]

    def exec(self, found: Exec, now_ns: int) -> None:
        """Write it down. ``now_ns``: monotonic."""
        whose = self._by_uid.get(found.auid)
        if whose is None:
            self.unknown += 1
            return
        whose.book.write(lines.of_exec(found))
        if found.success:
            self._running[found.pid] = found, whose
            self._running.move_to_end(found.pid)
            if len(self._running) > _RUNNING_MAX:
                self._running.popitem(last=False)
        if self._may_tell(whose, now_ns):
            self.tell(whose.key, found)

    def exit(self, found: Exit) -> None:
        """A process has ended; whose it was is looked up a second later."""
        self._exits.append(found)
        if len(self._exits) > _EXITS_MAX:
            self._look_up(self._exits.popleft())

    def settle(self, now_ns: int, *, wait: bool = True) -> None:
        """Look up the ends that have waited long enough; without ``wait`` all of them."""
        while self._exits and (not wait or now_ns - self._exits[0].at_ns >= _EXIT_WAIT_NS):
            self._look_up(self._exits.popleft())

    @property
    def waiting(self) -> bool:
        """Whether an end waits to be looked up."""
        return bool(self._exits)

    def gap(self, why: str, lost: int | None, now_ns: int, **more: object) -> None:
        """Something may be missing: nobody knows whose, so everybody is told."""
        at_ns = self.mono_to_wall(now_ns)
        for found in self._grants.values():
            found.book.write(lines.of_gap(at_ns, why, lost, **more), kind=lines.GAP, lost=lost or 0)
            if self._may_tell(found, now_ns):
                self.tell_gap(found.key, why, lost)

    def _look_up(self, found: Exit) -> None:
        known = self._running.get(found.pid)
        if known is None:
            return
        ran, whose = known
        at_ns = self.mono_to_wall(found.at_ns)
        if ran.at_ns <= at_ns + _SAME_NS:  # else the number was given anew meanwhile, and this end is its former holder's
            del self._running[found.pid]
            whose.book.write(lines.of_exit(found, ran.serial, at_ns), kind=lines.EXIT)

    def _may_tell(self, whose: Followed, now_ns: int) -> bool:
        whose.tokens = min(TOLD_BURST, whose.tokens + (now_ns - (whose.filled_ns or now_ns)) / (TOLD_EVERY_S * _NS))
        whose.filled_ns = now_ns
        if whose.tokens < 1 or whose.told >= TOLD_MAX:
            return False
        whose.tokens -= 1
        whose.told += 1
        return True
