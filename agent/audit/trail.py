"""The trail of events: NDJSON in the outbox, and journald. Emitting never raises, and no loss is silent.

Lines go to ``events.ndjson``; a full one becomes ``events.<number>.ndjson``, the number being the sequence of its last event
(12 digits, so names sort by age and are never used twice). Whoever carries them away takes numbered files only.
The folder may be writable by the courier: the file is opened without following links, must be a regular file of ours with
one link, and is looked at afresh at each call; one that was replaced, cut or torn is told as a loss.
"""

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.audit.event import AuditEvent, EventKind
from agent.audit.journald import Teller, teller
from agent.audit.lines import Lines
from agent.audit.objects import HostIdentity
from agent.audit.ocsf import to_ocsf
from agent.audit.tally import Tally
from agent.host.clock import Clock
from agent.model.text import one_line

_FILE_BYTES = 4 << 20
_TOTAL_BYTES = 64 << 20
_RESERVE_BYTES = 4096  # for the news of what was dropped
_FILES_NAMED = 16
_logger = logging.getLogger("tidegate.audit")


@dataclass(slots=True)
class _Loss:
    """Events that never reached the disk, and why the last of them did not."""

    count: int = 0
    first: int = 0
    last: int = 0
    code: str = ""
    reason: str = ""


class Trail:
    """Where events go. Safe to call from any thread; blocks for one write and one fdatasync.

    Args:
        file_bytes: a file is rotated before it would grow past this.
        total_bytes: all files together; the oldest go first, and an ``audit.dropped`` event says what went.
        tell: where each event goes beside the disk; journald or stderr by default.
    """

    def __init__(
        self,
        outbox: Path,
        identity: HostIdentity,
        clock: Clock,
        *,
        file_bytes: int = _FILE_BYTES,
        total_bytes: int = _TOTAL_BYTES,
        tell: Teller | None = None,
    ) -> None:
        self._identity = identity
        self._clock = clock
        self._teller = tell if tell is not None else teller()
        self._lines = Lines(outbox, file_bytes=file_bytes, total_bytes=total_bytes)
        self._lock = threading.Lock()
        self.tally = Tally(clock)
        self._sequence = 0
        self._loss = _Loss()

    @property
    def lost(self) -> int:
        """How many events are not on the disk and not yet told as lost there."""
        return self._loss.count

    def emit(self, events: Sequence[AuditEvent]) -> None:
        """Write and tell these events, in order. Never raises; what the disk would not take is counted, and told later."""
        if not events:
            return
        with self._lock:
            try:
                self._emit(events)
            except Exception as error:  # the last net: a teardown goes on whatever happens here
                shown = one_line(f"{type(error).__name__}: {error}")
                _logger.error("audit failed: %s", shown)
                self._loss = self._more_lost(len(events), "audit_failed", type(error).__name__)

    def _emit(self, events: Sequence[AuditEvent]) -> None:
        told: list[_Numbered] = []
        try:
            with self._lines as lines:
                self._sequence = max(self._sequence, lines.last_sequence)
                head = [self._number(event) for event in self._told_first(lines.trouble)]
                told = [self._number(event) for event in events]
                tail = self._write(lines, head + told)
            told = [*head, *told, *tail]
            self._loss = _Loss()
            self.tally.written(len(told))
        except OSError as error:
            told = told or [self._number(event) for event in events]
            self._disk_failed(len(events), error)
        for numbered in told:
            self._tell(numbered.event, numbered.ocsf)

    def _tell(self, event: AuditEvent, ocsf: dict[str, object]) -> None:
        self.tally.note(event)
        self._teller(event, ocsf)

    def _write(self, lines: Lines, batch: Sequence["_Numbered"]) -> Sequence["_Numbered"]:
        """One write of all of them, and of what had to be dropped for it, which is returned."""
        lines.make_room(sum(len(numbered.line) for numbered in batch) + _RESERVE_BYTES)
        dropped = lines.dropped
        tail: list[_Numbered] = []
        if dropped.files:
            detail = {"count": dropped.count, "bytes": dropped.bytes, "files": list(dropped.files[:_FILES_NAMED])}
            reason = "the oldest events were deleted to keep the trail within its bound"
            now = self._clock.wall_ns()
            tail.append(self._number(AuditEvent(EventKind.AUDIT_DROPPED, now, code="trail_full", reason=reason, detail=detail)))
        lines.append(b"".join(numbered.line for numbered in [*batch, *tail]), self._sequence)
        return tail

    def _told_first(self, trouble: str) -> list[AuditEvent]:
        """What must stand before the new events: losses since the last success, and a file that is not as it was left."""
        told: list[AuditEvent] = []
        if self._loss.count:
            told.append(self._loss_event())
        if trouble:
            reason = "the events file is not as it was left"
            told.append(AuditEvent(EventKind.AUDIT_LOST, self._clock.wall_ns(), code=trouble, reason=reason, ok=False))
        return told

    def _loss_event(self) -> AuditEvent:
        loss = self._loss
        detail = {"count": loss.count, "first_sequence": loss.first, "last_sequence": loss.last}
        now = self._clock.wall_ns()
        return AuditEvent(EventKind.AUDIT_LOST, now, code=loss.code, reason=loss.reason, detail=detail, ok=False)

    def _number(self, event: AuditEvent) -> "_Numbered":
        """Give it the next number and its line. One that can't be written down at all becomes the news of that."""
        self._sequence += 1
        try:
            ocsf = to_ocsf(event, self._identity, self._sequence)
            line = _json_line(ocsf)
        except Exception as error:
            reason = f"an event of kind {event.kind} could not be written down: {type(error).__name__}"
            event = AuditEvent(EventKind.AUDIT_LOST, self._clock.wall_ns(), code="unmappable", reason=reason, ok=False)
            ocsf = to_ocsf(event, self._identity, self._sequence)
            line = _json_line(ocsf)
        return _Numbered(event, ocsf, line)

    def _disk_failed(self, count: int, error: OSError) -> None:
        """Count the loss; the first of a row is told at once where it can be, off the disk."""
        new = self._loss.count == 0
        self._loss = self._more_lost(count, "disk_failed", error.strerror or type(error).__name__)
        if new:
            event = self._loss_event()
            self._tell(event, to_ocsf(event, self._identity))

    def _more_lost(self, count: int, code: str, reason: str) -> _Loss:
        self.tally.lost(count)
        first = self._loss.first or max(1, self._sequence - count + 1)
        return _Loss(self._loss.count + count, first, self._sequence, code, reason)


@dataclass(frozen=True, slots=True)
class _Numbered:
    """An event on its way: as it happened, as OCSF, as a line."""

    event: AuditEvent
    ocsf: dict[str, object]
    line: bytes


def _json_line(ocsf: dict[str, object]) -> bytes:
    return json.dumps(ocsf, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
