"""The program that reads what the kernel's audit sends, and writes it down. Started by tidegated (agent.sessions.execs.capture).

Its own process: a tenant that starts thousands of programs a second keeps this busy, and nobody who ends grants. It gets its
sockets from tidegated, open, with what has come in meanwhile; should it die, the next one goes on reading from them. It ends when
tidegated does. Waits in poll(2) alone; nothing polls.

Orders come as JSON over a socket pair, one message each; ``finish`` alone is answered. What it says by itself has a ``tell``.
"""

import json
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":  # run by its path, with no package around it
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from agent.errors import HostError
from agent.host.clock import rfc3339
from agent.host.kaudit import exits, netlink
from agent.host.kaudit.records import Assembler, Exec
from agent.host.kaudit.serials import Serials
from agent.model.text import one_line
from agent.sessions.execs import lines
from agent.sessions.execs.book import Book
from agent.sessions.execs.sorting import Sorting

_CONFIG_CHANGE = 1305
_BATCH = 256  # datagrams between two looks at anything else
_DATAGRAM = 1 << 16
_SYNC_NS = 1_000_000_000
_LOST_NS = 5_000_000_000  # between two looks at the kernel's own counter, while something happens
_GAPS_NS = 1_000_000_000  # between two lines of gaps, so that a flood is no flood of gaps too
_TELL_MAX = 8  # execs in one message, which must fit a datagram
_RULES_NS = 1_000_000_000  # between two words that somebody changed audit's rules
_QUIET_S, _DRAIN_S = 0.1, 10.0  # at a grant's end: until nothing has come for so long, and at most
_SHOWN = 400
NS = 1_000_000_000


class Reader:
    """``audit`` and ``ends`` (None: not to be had) are the kernel's sockets, ``orders`` tidegated's."""

    def __init__(self, orders: socket.socket, audit: socket.socket, ends: socket.socket | None, uids: tuple[int, int]) -> None:
        self._orders, self._audit, self._ends = orders, audit, ends
        self._assembler = Assembler(*uids)
        self._serials = Serials()
        self._sorting = Sorting(lambda mono: mono + time.time_ns() - time.monotonic_ns(), self._tell, self._tell_gap)
        self._told: list[dict[str, object]] = []
        self._changed, self._changed_told_ns = False, 0
        self._overrun: set[str] = set()
        self._gaps_ns = 0
        self._going = False  # until all that is followed is known
        self._synced_ns = self._asked_ns = self._heard_ns = time.monotonic_ns()
        self._kernel_lost: int | None = None
        self._look_at_counter()

    def run(self) -> None:
        """Until tidegated is gone. Orders come before records: an exec of a grant that nobody follows yet would be nobody's."""
        while not self._going:
            if not self._obey():
                return
        waiting = select.poll()
        for found in (self._orders, self._audit, self._ends):
            if found is not None:
                waiting.register(found, select.POLLIN)
        while True:
            ready = {fd for fd, _ in waiting.poll(self._patience_ms())}
            if self._orders.fileno() in ready and not self._obey():
                break
            drained = self._take_records()
            self._take_exits()
            self._tick(drained)
        self._drain()
        for book in self._sorting.books:  # not closed: the next start goes on with them
            book.flush(time.time_ns())
            book.sync()

    # The kernel's side

    def _take_records(self) -> bool:
        """A batch of records; whether there were no more."""
        now_ns = time.monotonic_ns()
        came = drained = False
        for _ in range(_BATCH):
            try:
                data = self._audit.recv(_DATAGRAM)
            except BlockingIOError:
                drained = True
                break
            except OSError:  # ENOBUFS, and only once: the buffer was full, and nobody knows of what
                self._overrun.add("the reader was too slow: its buffer was full")
                came = True
                continue
            came = True
            kind, text = netlink.record(data)
            self._changed |= kind == _CONFIG_CHANGE
            serial, found = self._assembler.take(kind, text, now_ns)
            if serial is not None:
                self._serials.see(serial, now_ns)
            if found is not None:
                if not self._sorting.knows(found.auid):
                    self._obey_waiting()  # its grant's order came after the last look, and before the exec
                self._sorting.exec(found, now_ns)
        if came:
            self._heard_ns = now_ns
        return drained

    def _take_exits(self) -> None:
        if self._ends is None:
            return
        for _ in range(_BATCH):
            try:
                found = exits.read(self._ends.recv(_DATAGRAM))
            except BlockingIOError:
                return
            except OSError:
                self._overrun.add("ends of processes were missed: the buffer was full")
                continue
            if found is not None:
                self._sorting.exit(found)

    def _tick(self, drained: bool) -> None:
        """``drained``: nothing waits in the kernel, so what is missing by now does not come."""
        now_ns = time.monotonic_ns()
        if drained:
            for found in self._assembler.late(now_ns):
                self._sorting.exec(found, now_ns)
            self._sorting.settle(now_ns)
        if now_ns - self._gaps_ns >= _GAPS_NS:
            self._gaps_ns = now_ns
            self._tell_gaps(self._serials.lost(now_ns))
        if now_ns - self._asked_ns >= _LOST_NS and self._heard_ns > self._asked_ns:
            self._look_at_counter()
        if self._changed and now_ns - self._changed_told_ns >= _RULES_NS:
            self._changed, self._changed_told_ns = False, now_ns
            self._mention({"tell": "rules"})
        sync = now_ns - self._synced_ns >= _SYNC_NS
        for book in self._sorting.books:
            book.flush(time.time_ns())
            if sync:
                book.sync()
        if sync:
            self._synced_ns = now_ns
        self._say_told()

    def _tell_gaps(self, holes: list[tuple[int, int]]) -> None:
        for why in sorted(self._overrun):
            self._gap(why, None)
        self._overrun.clear()
        if holes:
            lost = sum(last - first + 1 for first, last in holes)
            self._gap("events of the kernel's audit never came", lost, first=holes[0][0], last=holes[-1][1])

    def _gap(self, why: str, lost: int | None, **more: object) -> None:
        self._sorting.gap(why, lost, time.monotonic_ns(), **more)

    def _look_at_counter(self) -> None:
        """What the kernel could not even number."""
        self._asked_ns = time.monotonic_ns()
        try:
            with netlink.Audit() as audit:
                lost = audit.status().lost
        except HostError:
            return
        if self._kernel_lost is not None and lost > self._kernel_lost:
            self._gap("the kernel's audit lost records", lost - self._kernel_lost)
        self._kernel_lost = lost

    def _patience_ms(self) -> int | None:
        """How long nothing need be looked at; None: until something comes."""
        missing = self._assembler.waiting or self._serials.waiting or self._sorting.waiting or self._overrun
        to_do = self._told or self._changed or any(book.dirty for book in self._sorting.books)
        busy = missing or to_do or self._heard_ns > self._asked_ns
        return 250 if busy else None

    def _drain(self) -> None:
        """Records come by a thread of the kernel's own: wait until it has nothing more."""
        ends = time.monotonic() + _DRAIN_S
        quiet = select.poll()
        quiet.register(self._audit, select.POLLIN)
        while time.monotonic() < ends and quiet.poll(int(_QUIET_S * 1000)):
            self._take_records()
            self._take_exits()
        if time.monotonic() >= ends:
            self._overrun.add("not all was read when it ended")
        self._take_exits()
        now_ns = time.monotonic_ns() + _SYNC_NS
        for found in self._assembler.late(now_ns):
            self._sorting.exec(found, now_ns)
        self._tell_gaps(self._serials.lost(now_ns, wait=False))
        self._look_at_counter()
        self._sorting.settle(now_ns, wait=False)

    # tidegated's side

    def _obey_waiting(self) -> None:
        waiting = select.poll()
        waiting.register(self._orders, select.POLLIN)
        while waiting.poll(0) and self._obey():
            pass

    def _obey(self) -> bool:
        """One order; False when tidegated is gone."""
        try:
            data = self._orders.recv(_DATAGRAM)
        except OSError:
            return False
        if not data:
            return False
        order = json.loads(data)
        match order["op"]:
            case "follow":
                self._follow(
                    order["key"], Path(order["path"]), {int(uid): login for uid, login in order["uids"].items()}, order["about"]
                )
            case "finish":
                self._finish(order["keys"])
            case "go":
                self._going = True
            case "gap":
                self._gap(order["why"], None)
        return True

    def _follow(self, key: str, path: Path, uids: Mapping[int, str], about: object) -> None:
        try:
            book = Book(path)
        except HostError as error:
            self._say({"tell": "failed", "key": key, "why": error.reason})
            return
        now_ns = time.time_ns()
        if book.new:
            book.write(lines.line(lines.BEGIN, at=rfc3339(now_ns), exits=self._ends is not None, grant=about), kind=lines.BEGIN)
        self._sorting.follow(key, book, uids)
        if book.recovered:
            book.write(lines.of_gap(now_ns, "nobody read until here since the last line", None), kind=lines.GAP)
        book.flush(now_ns)
        book.sync()

    def _finish(self, keys: list[str]) -> None:
        self._drain()
        self._say_told()  # before the answer: who has it may hang up
        found: dict[str, object] = {}
        for key in keys:
            book = self._sorting.leave(key)
            if book is not None:
                found[key] = book.close(time.time_ns())
        self._say({"finished": found})

    def _tell(self, key: str, found: Exec) -> None:
        self._told.append(
            {
                "key": key, "at_ns": found.at_ns, "pid": found.pid, "session": str(found.ses), "auid": found.auid, "uid": found.uid,
                "euid": found.euid, "path": one_line(found.exe, _SHOWN), "cwd": one_line(found.cwd, _SHOWN),
                "command": one_line(" ".join(found.argv) or found.file, _SHOWN), "success": found.success, "serial": found.serial,
            }
        )  # fmt: skip
        if len(self._told) >= _TELL_MAX:
            self._say_told()

    def _say_told(self) -> None:
        if self._told:
            told, self._told = self._told, []
            self._mention({"tell": "execs", "execs": told})

    def _tell_gap(self, key: str, why: str, lost: int | None) -> None:
        self._mention({"tell": "gap", "key": key, "why": why, "lost": lost})

    def _mention(self, value: Mapping[str, object]) -> None:
        """What nobody asked for; it waits for nobody, and the file has it all the same."""
        self._say(value, socket.MSG_DONTWAIT)

    def _say(self, value: Mapping[str, object], flags: int = 0) -> None:
        try:
            self._orders.send(json.dumps(value).encode("ascii"), flags)
        except OSError:
            return  # it is gone, and the next look at its orders says so; or it is busy


def main(argv: list[str]) -> None:
    """``reader.py ORDERS AUDIT ENDS UID_FIRST UID_LAST``: three descriptors (ENDS may be -1), and the tenants' UIDs."""
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # the daemon goes before others; this is as busy as tenants make it
    orders, audit, ends, first, last = map(int, argv[1:6])
    sockets = [socket.socket(fileno=fd) if fd >= 0 else None for fd in (orders, audit, ends)]
    if sockets[0] is None or sockets[1] is None:
        sys.exit("reader.py is started by tidegated")
    Reader(sockets[0], sockets[1], sockets[2], (first, last)).run()


if __name__ == "__main__":
    main(sys.argv)
