"""The daemon's side of the search for what is left: one process at a time, shared by all whose end waits for it."""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.errors import HostError
from agent.host import command, searcher
from agent.host.found import Found, Progress, Search

log = logging.getLogger("tidegate")
_START_S = 10.0  # for the process to start, and to write its answer
_TELL_S = 10.0  # a search that takes longer says so, and again each time it has taken as long


@dataclass(slots=True, eq=False)
class _Ticket:
    order: Search
    found: list[Found] | None = None
    error: Exception | None = None


@dataclass(slots=True)
class Searching:
    """Runs searches one after the other. Who comes while one runs waits for the next, which looks for all of them at once.

    A search that began before a tenant's last process died proves nothing about it, so nobody joins one that is under way.
    """

    run: Callable[[Search, Callable[[bytes], None]], list[Found]] = field(default_factory=lambda: run_searcher)
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _waiting: list[_Ticket] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _progress: Progress | None = None
    _stopped: bool = False

    def search(self, order: Search) -> list[Found]:
        """What is found of these uids, and what concerns all who were looked for. Raises HostError."""
        ticket = _Ticket(order)
        with self._guard:
            self._waiting.append(ticket)
        with self._turn:
            if ticket.found is None and ticket.error is None:
                self._run_all()
        if ticket.error is not None:
            raise ticket.error
        return ticket.found or []

    def progress(self) -> Progress | None:
        """How far the search that runs now is; None while none does, or it has only begun."""
        return self._progress

    def stop(self) -> None:
        """End the search that runs, and begin no other: the daemon stops, and the next start looks again."""
        self._stopped = True

    def _run_all(self) -> None:
        with self._guard:
            tickets, self._waiting = self._waiting, []
        for like in {_manner(ticket.order): ticket.order for ticket in tickets}.values():
            mine = [ticket for ticket in tickets if _manner(ticket.order) == _manner(like)]
            try:
                found = self._run(_joined([ticket.order for ticket in mine]))
            except Exception as error:
                for ticket in mine:
                    ticket.error = error
            else:
                for ticket in mine:
                    ticket.found = [each for each in found if each.uid is None or each.uid in ticket.order.uids]

    def _run(self, order: Search) -> list[Found]:
        began = told = time.monotonic()

        def hear(said: bytes) -> None:
            nonlocal told
            if self._stopped:
                raise HostError("search_stopped", "the agent stops; the search begins anew at its next start")
            words = said.decode(errors="replace").rstrip("\n").rpartition("\n")[2].split(" ", 1)
            if len(words) == 2 and words[0].isdigit():
                now = time.monotonic()
                self._progress = Progress(int(words[0]), words[1][:200], now - began)
                if now - told >= _TELL_S:
                    told = now
                    log.info("looking for what is left: %s entries in %.0f s, now in %s", words[0], now - began, words[1][:200])

        if self._stopped:
            raise HostError("search_stopped", "the agent stops; the search begins anew at its next start")
        try:
            return self.run(order, hear)
        finally:
            self._progress = None


def run_searcher(order: Search, hear: Callable[[bytes], None]) -> list[Found]:
    """One search in a process of its own. Raises HostError ``search_failed`` and what command.run raises."""
    passes = 2 if order.archives else 1
    result = command.run(
        [sys.executable, "-I", searcher.__file__],
        stdin=_order_text(order).encode(),
        timeout_s=_START_S + passes * order.patience_s,
        hear=hear,
    )
    try:
        answer = json.loads(result.stdout) if result.ok else None
        return [Found(*each) for each in answer["found"]]  # type: ignore[index]  # None is a TypeError like all else
    except (ValueError, KeyError, TypeError) as error:
        said = (result.stderr.strip().splitlines() or ["nothing"])[-1]
        raise HostError("search_failed", f"the search for what is left ended with {result.returncode}: {said[:300]}") from error


def _order_text(order: Search) -> str:
    return json.dumps(
        {
            "uids": sorted(order.uids),
            "archives": {str(uid): str(path) for uid, path in order.archives.items()},
            "setgid": [[found.gid, found.owner, found.since_ns] for found in order.setgid],
            "keep": list(map(str, order.keep)),
            "whole": order.whole,
            "remove": order.remove,
            "acls": order.acls,
            "patience_s": order.patience_s,
        }
    )


def _manner(order: Search) -> tuple[bool, bool]:
    """Orders that differ in this can't be one search."""
    return order.whole, order.remove


def _joined(orders: list[Search]) -> Search:
    return replace(
        orders[0],
        uids=frozenset().union(*(order.uids for order in orders)),
        archives={uid: path for order in orders for uid, path in order.archives.items()},
        setgid=tuple(dict.fromkeys(found for order in orders for found in order.setgid)),
        keep=tuple(dict.fromkeys(path for order in orders for path in order.keep)),
        acls=any(order.acls for order in orders),
        patience_s=max(order.patience_s for order in orders),
    )
