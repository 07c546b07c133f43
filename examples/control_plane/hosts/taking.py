"""What hosts send, however it comes: one set of checks and quotas for https and NATS."""

from collections.abc import Sequence
from dataclasses import dataclass

from examples.control_plane.api.limits import Budget
from examples.control_plane.api.problems import Problem
from examples.control_plane.hosts import records
from examples.control_plane.hosts.identity import Caller
from examples.control_plane.hosts.records import Record
from examples.control_plane.plane import Plane
from examples.control_plane.recordings.taking import Recordings, Size


@dataclass(frozen=True, slots=True)
class Taking:
    """``budget``: bytes of events that each host may tell in an hour."""

    plane: Plane
    recordings: Recordings
    budget: Budget

    @classmethod
    def of(cls, plane: Plane, recordings: Recordings) -> "Taking":
        """With the budget of the configuration."""
        return cls(plane, recordings, Budget(plane.settings.caps.event_bytes_an_hour, 3600.0))

    async def records(self, host: Caller, found: Sequence[Record]) -> dict[str, list[object]]:
        """Keep each that is new; durable when this returns.

        Raises:
            Problem: ``quota_exceeded``: none was taken.
        """
        told = sum(record.size for record in found if record.kind == "event")
        if told and not self.budget.take(host.token, told):
            raise Problem("quota_exceeded", "this host tells more than it may in an hour: keep it, and try again later")
        return await self.plane.write(lambda db: records.take(self.plane, db, host, list(found)))

    async def piece(self, host: Caller, ident: str, offset: int, data: bytes, *, complete: bool) -> Size:
        """Add a piece of a recording. Raises Problem, as :meth:`examples.control_plane.recordings.taking.Recordings.append`."""
        return await self.plane.run(self.recordings.append, self.plane, host, ident, offset, data, complete=complete)
