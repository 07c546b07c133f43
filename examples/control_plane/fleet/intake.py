"""What hosts send by NATS, taken in by the code that takes it over https; acknowledged at the broker once it is durable here.

The host has its acknowledgement already, from the broker. So what can't be taken is not sent back, as https does it: it is dropped
and told. Leaving it there would let one host's rubbish stand before everybody's receipts.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Iterable

from agent.model.text import one_line
from agent.sessions.recording.catalogue import IDENT
from examples.control_plane.api.limits import Limiter
from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.hosts import identity, records
from examples.control_plane.hosts.identity import Caller
from examples.control_plane.hosts.records import Record
from examples.control_plane.hosts.taking import Taking
from examples.control_plane.nats import Batch, Fleet
from examples.control_plane.nats_intake import TakenPiece, TakenRecord
from examples.control_plane.plane import Plane
from examples.control_plane.store import audit

NAME = "control-plane"
AGAIN_S = 1.0
_log = logging.getLogger("tidegate.control_plane")


class Taker:
    """One at a time, in the order in which it was sent: a piece that comes behind a gap is then behind one for good."""

    def __init__(self, plane: Plane, taking: Taking) -> None:
        self._plane, self._taking = plane, taking
        self._telling = Limiter(1, 60.0)  # in the trail, of one host and code: the log has them all

    async def run(self, fleet: Fleet) -> None:
        """Until the connection is lost."""
        async for batch in fleet.intake(NAME, alone=True):
            while not await self._taken(batch):
                await asyncio.sleep(AGAIN_S)
            await batch.ack()

    async def _taken(self, batch: Batch) -> bool:
        """Whether all of it is durable (or will never be taken). The database or the disk failing is no reason to drop anything."""
        try:
            hosts = dict.fromkeys((*(record.host for record in batch.records), *(piece.host for piece in batch.pieces)))
            for token in hosts:
                lines = [record for record in batch.records if record.host == token]
                pieces = [piece for piece in batch.pieces if piece.host == token]
                host = await identity.known(self._plane, token)
                if host is None:
                    await self._dropped(token, token, "client_certificate", len(lines) + len(pieces))
                    continue
                await self._records(host, lines)
                for piece in pieces:
                    await self._piece(host, piece)
        except (sqlite3.Error, OSError):
            _log.exception("nats: what hosts sent can't be kept now; tried again")
            return False
        return True

    async def _records(self, host: Caller, taken: Iterable[TakenRecord]) -> None:
        found: list[Record] = []
        for each in taken:
            try:
                parsed, refused = records.parse(each.line)
            except Problem as problem:
                await self._dropped(host.token, host.name, problem.code, 1)
                continue
            found += parsed
            for one in refused:
                await self._dropped(host.token, host.name, one["code"], 1)
        said, told = [one for one in found if one.kind != "event"], [one for one in found if one.kind == "event"]
        for part in (said, told):  # apart: too many events are no reason to drop a receipt
            for start in range(0, len(part), records.LINES_MAX):
                some = part[start : start + records.LINES_MAX]
                try:
                    await self._taking.records(host, some)
                except Problem as problem:
                    await self._dropped(host.token, host.name, problem.code, len(some))

    async def _piece(self, host: Caller, piece: TakenPiece) -> None:
        """Add what is new of it; the size that is durable here says what that is."""
        if not IDENT.fullmatch(piece.ident):
            await self._dropped(host.token, host.name, "not_found", 1)
            return
        known = await self._plane.read(lambda db: self._taking.recordings.size(db, host.token, piece.ident))
        news = piece.data[max(0, known.size - piece.offset) :]
        if not news and (known.complete or not piece.complete):
            return  # it came before
        at = known.size if piece.offset <= known.size else piece.offset
        try:
            await self._taking.piece(host, piece.ident, at, news, complete=piece.complete)
        except Problem as problem:
            await self._dropped(host.token, host.name, problem.code, 1)

    async def _dropped(self, token: str, name: str, code: str, count: int) -> None:
        _log.warning("nats: dropped %d of host %s [%s]", count, one_line(name), code)
        if self._telling.take(f"{token} {code}"):
            reason = f"what this host sent by NATS was dropped: {count} and perhaps more; the log has each"
            detail = {"entity": name, "count": count}
            await self._plane.write(lambda db: audit.note(db, Kind.RECORD_REFUSED, code=code, reason=reason, detail=detail))
