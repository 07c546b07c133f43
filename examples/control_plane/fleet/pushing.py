"""The outbox, seen to be at the broker: what is there and should not be is taken away, what is not and should be is pushed.

Nothing is remembered between two looks. So a crash between the database and the broker, a broker that was away or was put back from
a backup, and a token that was taken back are all the same: the difference is made good, in the order of ids.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Collection

from agent.model.text import one_line
from examples.control_plane.events.kinds import Kind
from examples.control_plane.fleet.tasks import first
from examples.control_plane.nats import Fleet, PushError
from examples.control_plane.plane import Plane
from examples.control_plane.store import audit
from examples.control_plane.workflow import outbox

WORKERS = 16
LOOK_EVERY_S = 600.0  # at all hosts: what has expired is taken away from the broker
AGAIN_S = 5.0  # for a host whose tokens could not be pushed
_MANY = 1000
_TOLD_AT = 2
_TOPIC = "outbox:"
_HOST = "host:"
_log = logging.getLogger("tidegate.control_plane")


class Pusher:
    """All hosts, each by one worker at a time."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._due: dict[str, None] = {}  # host tokens, the longest due first
        self._busy: set[str] = set()
        self._failing: dict[str, int] = {}  # tries that failed in a row
        self._news = asyncio.Condition()
        self._waking: set[asyncio.Task[None]] = set()

    def told(self, topics: frozenset[str]) -> None:
        """What a commit touched; called in the loop (:meth:`examples.control_plane.plane.Hub.tapped`)."""
        hosts = [topic.partition(":")[2] for topic in topics if topic.startswith((_TOPIC, _HOST))]
        if hosts:
            self._mark(hosts)

    async def run(self, fleet: Fleet) -> None:
        """Until the connection is lost. Begins with a look at every host: that is what makes good what was missed."""
        self._busy.clear()
        await first(*(self._work(fleet) for _ in range(WORKERS)), self._look())

    async def _look(self) -> None:
        while True:
            self._mark(await self._plane.read(_hosts))
            await asyncio.sleep(LOOK_EVERY_S)

    def _mark(self, hosts: Collection[str]) -> None:
        self._due.update(dict.fromkeys(hosts))
        waking = asyncio.get_running_loop().create_task(self._wake())
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _wake(self) -> None:
        async with self._news:
            self._news.notify_all()

    def _next(self) -> str | None:
        for host in self._due:
            if host not in self._busy:
                return host
        return None

    async def _work(self, fleet: Fleet) -> None:
        while True:
            async with self._news:
                while (host := self._next()) is None:
                    await self._news.wait()
                del self._due[host]
                self._busy.add(host)
            try:
                await self._settle(fleet, host)
                self._failing.pop(host, None)
            except (PushError, sqlite3.Error) as error:
                await self._failed(host, error)
            finally:
                self._busy.discard(host)
                await self._wake()

    async def _settle(self, fleet: Fleet, host: str) -> None:
        held = await fleet.held(host)
        wanted = await self._plane.read(lambda db: outbox.idents(db, host, self._plane.now()))
        gone = sorted(held - set(wanted))
        if len(gone) > _MANY:  # room first: a host has so many tokens at most
            await self._expire(fleet, host, gone)
            gone = []
        for ident in wanted:
            if ident in held:
                continue
            token = await self._plane.read(lambda db, ident=ident: outbox.token(db, ident))  # type: ignore[misc]  # the default binds it
            if token is not None:  # else it was taken back a moment ago
                await fleet.push(host, ident, token.encode("ascii"))
        await self._expire(fleet, host, gone)

    async def _expire(self, fleet: Fleet, host: str, idents: Collection[int]) -> None:
        for ident in idents:
            await fleet.expire(host, ident)

    async def _failed(self, host: str, error: Exception) -> None:
        """Tried again by itself; told at the second try, once: the first may have failed because the connection was lost."""
        asyncio.get_running_loop().call_later(AGAIN_S, self._mark, [host])
        self._failing[host] = self._failing.get(host, 0) + 1
        if self._failing[host] != _TOLD_AT:
            return
        why = one_line(str(error))
        _log.warning("nats: host %s: %s; tried again every %.0f s", host, why, AGAIN_S)

        def note(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT name FROM host WHERE token = ?", (host,)).fetchone()
            audit.note(db, Kind.NATS_UNPUSHED, reason=why, detail={"entity": row["name"] if row else host})

        try:
            await self._plane.write(note)
        except sqlite3.Error:
            _log.exception("nats: that could not be written down")


def _hosts(db: sqlite3.Connection) -> list[str]:
    return [str(row["token"]) for row in db.execute("SELECT token FROM host ORDER BY token")]
