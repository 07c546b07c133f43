"""What the tenants of a grant ran: followed while it stands, summed up in its receipt, and the first of it told as events.

Nothing here keeps a grant from opening or ending: where nothing is captured, the receipt says so, and why.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.audit import AuditEvent, EventKind, Trail
from agent.errors import HostError, TidegateError
from agent.expiry import story
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host.clock import Clock
from agent.journal import GrantState, Journal
from agent.model import Json
from agent.sessions.execs.book import Book
from agent.sessions.execs.capture import Capture
from agent.sessions.execs.kernel import Kernel

log = logging.getLogger("tidegate")
NOTE = "executions"
_TOTAL_BYTES = 512 << 20  # of all files; the oldest of ended grants go first


class Executions:
    """Thread-safe; nothing here raises."""

    def __init__(
        self, kernel: Kernel, folder: Path, uids: tuple[int, int], clock: Clock, journal: Journal, ledger: Ledger, trail: Trail
    ) -> None:
        self._capture = Capture(kernel, uids, self._heard)
        self._folder, self._clock, self._journal, self._ledger, self._trail = folder, clock, journal, ledger, trail

    def ready(self) -> None:
        """From now on it is done; grants that stand already are followed from here."""
        self._capture.ready()
        if self._capture.absent:
            return  # which was said once, for all of them
        for live in self._ledger.all():
            if live.state is not GrantState.PENDING and not live.shutting:
                self.begin(live)

    def begin(self, live: LiveGrant) -> None:
        """Before its first step: no exec of its accounts may be missed."""
        if not live.uids:
            return
        record = live.record
        about = {"jti": record.jti, "iss": record.iss, "sub": record.sub, "reason": record.reason, "ticket": record.ticket}
        about["accounts"] = ", ".join(f"{login} {uid}" for login, uid in sorted(live.uids.items()))
        try:
            self._capture.follow(str(live.id), self._path(live), live.tenants, about)
        except HostError as error:
            log.info("what grant %s runs is not captured: %s", record.jti, error.reason)

    def finish(self, shuts: Sequence[Shut]) -> None:
        """Into the notes of each whose processes are dead, for its receipt. Waits some 0.1 s, and a few seconds at most."""
        grants = [shut.live for shut in shuts if NOTE not in shut.live.notes]
        try:
            found = self._capture.finish([str(live.id) for live in grants])
            why = self._capture.absent or "nobody read it when it ended"
        except HostError as error:
            found, why = {}, error.reason
        except Exception:
            log.exception("what %d grants ran is not summed up", len(grants))
            found, why = {}, "it could not be summed up"
        self._keep_bound()
        limits: list[Json] = [*self._capture.limits()] if found else []
        for live in grants:
            summary = found.get(str(live.id))
            if summary is None and not live.steps and not self._path(live).exists():
                continue  # it never opened
            self._note(live, {"absent": "", **_json(summary), "limits": limits} if summary else self._unread(live, why))

    def state(self) -> dict[str, Json]:
        """For ``status``: why nothing is captured (empty when it is), and what may hide some of it."""
        return {"absent": self._capture.absent, "limits": [*self._capture.limits()]}

    def stop(self) -> None:
        """The daemon stops: its rules leave the kernel. What stands is followed again at the next start, after a gap."""
        self._capture.stop()

    def _unread(self, live: LiveGrant, why: str) -> dict[str, Json]:
        """Nobody reads now; what was written before is summed up all the same."""
        path = self._path(live)
        if not path.exists():
            return {"absent": why}
        try:
            return {"absent": f"not to the end: {why}", **_json(Book(path).close(self._clock.wall_ns()))}
        except HostError as error:
            return {"absent": f"{why}; {error.reason}"}

    def _keep_bound(self) -> None:
        """Delete the oldest files of ended grants, as many as it takes, and say so."""
        mine = {self._path(live) for live in self._ledger.all()}
        try:
            sizes = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self._folder.glob("execs-*.ndjson"))
        except OSError as error:
            log.error("%s: %s", self._folder, error.strerror)
            return
        over = sum(size for _, size, _ in sizes) - _TOTAL_BYTES
        for _, size, path in sizes:
            if over > 0 and path not in mine:
                path.unlink(missing_ok=True)
                over -= size
                detail: dict[str, object] = {"bytes": size, "file": path.name}
                reason = "what tenants ran is kept within its bound: the oldest file was deleted"
                now_ns = self._clock.wall_ns()
                self._trail.emit([AuditEvent(EventKind.AUDIT_DROPPED, now_ns, code="execs_full", reason=reason, detail=detail)])

    def _path(self, live: LiveGrant) -> Path:
        return self._folder / f"execs-{live.record.jti}-{live.record.digest[:8]}.ndjson"  # a jti is one issuer's

    def _heard(self, said: Mapping[str, object]) -> None:
        """From the reader; all texts in it are of one line already, and go through the trail's own care again."""
        if said["tell"] == "failed":
            log.error("what grant %s runs is not written down: %s", said["key"], said["why"])
            return
        events: list[AuditEvent] = []
        rows = said["execs"] if said["tell"] == "execs" else [said]
        for row in rows if isinstance(rows, list) else []:
            live = self._ledger.get(int(row.pop("key")))
            if live is not None:
                events.append(_launched(live, row) if said["tell"] == "execs" else self._unseen(live, row))
        self._trail.emit(events)

    def _unseen(self, live: LiveGrant, row: Mapping[str, object]) -> AuditEvent:
        detail = {"why": row["why"], "count": row["lost"]}
        return story.event(live, EventKind.PROCESS_UNSEEN, self._clock.wall_ns(), ok=False, **detail)

    def _note(self, live: LiveGrant, value: dict[str, Json]) -> None:
        live.notes[NOTE] = value
        try:
            self._journal.note(live.id, NOTE, value)
        except TidegateError as error:
            log.error("what grant %s ran could not be noted: %s", live.record.jti, error)


def _launched(live: LiveGrant, row: dict[str, object]) -> AuditEvent:
    at_ns, auid, ok = row.pop("at_ns"), row.pop("auid"), row.pop("success")
    uid = auid if isinstance(auid, int) else None
    return story.by_tenant(live, EventKind.PROCESS_LAUNCHED, at_ns if isinstance(at_ns, int) else 0, uid, row, ok=ok is True)


def _json(found: Mapping[str, object]) -> dict[str, Json]:
    """The members of a summary."""
    return {name: value for name, value in found.items() if isinstance(value, str | int)}
