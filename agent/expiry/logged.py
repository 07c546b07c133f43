"""What sshd and sudo log of tenants: each forwarded connection and each command by sudo an event, counted in the grant's receipt.

The journal keeps their words while nobody reads them, so a restart of tidegated loses none: it goes on after the last one that
it wrote down. One that was told and not yet written down when it was killed is told twice.
"""

import logging
import shlex
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol

from agent.audit import AuditEvent, EventKind, Trail
from agent.errors import HostError, TidegateError
from agent.expiry import story
from agent.expiry.kept_steps import may_say
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host import journald, sshd_log, sudo_log
from agent.host.clock import Clock
from agent.host.contract import Reader
from agent.host.journald import Entry
from agent.host.threads import pool_of
from agent.journal import GrantState, Journal
from agent.model import Json

log = logging.getLogger("tidegate")
NOTE = "logged"
FORWARDS, SUDO = "forwards", "sudo"  # what is counted, each by itself
_RULE = "rule"  # in a step of sudo
REQUIRED = "required"  # in a step of ssh: what it forwards must be seen
TOLD_MAX = 1000  # events of one grant and kind; all are counted, and the lines themselves stay in the journal
_MARK_S = 3.0
_STARTS_MAX = 5  # journalctl that dies oftener between two marks is not started again
_US = 1000
_WORDS = "sshd's words are not in the journal: does journald.conf keep debug messages (MaxLevelStore=)?"


class Following(Protocol):
    """See :class:`agent.host.journald.Tail`."""

    def mark(self, timeout_s: float) -> str | None:
        """See Tail."""

    def stop(self) -> None:
        """See Tail."""


Hear = Callable[[Sequence[Entry]], None]
Follow = Callable[[Hear, Callable[[], None], Executor, str], Following]


def follow_journal(hear: Hear, gone: Callable[[], None], threads: Executor, after: str) -> Following:
    """The real one."""
    return journald.Tail((*sshd_log.NAMES, sudo_log.NAME), hear, gone, threads, after=after)


class Logged:
    """Thread-safe. Reads the journal only while a grant stands that gives port forwarding or sudo to accounts of its own."""

    def __init__(
        self, reader: Reader, clock: Clock, journal: Journal, ledger: Ledger, trail: Trail, follow: Follow = follow_journal
    ) -> None:
        self._reader, self._clock, self._journal, self._ledger, self._trail = reader, clock, journal, ledger, trail
        self._follow = follow
        self._lock = threading.RLock()  # of the follower and of whom it is about; never held while waiting for it to hear
        self._tail: Following | None = None
        self._threads: Executor | None = None
        self._followed: set[int] = set()
        self._cursor = ""
        self._starts = 0

    def ready(self) -> None:
        """From now on; grants that stand already are followed from where the last daemon stopped. Never raises."""
        self._threads = self._threads or pool_of(1, "journal")
        for live in self._ledger.all():
            if live.state is not GrantState.PENDING and not live.shutting:
                self.begin(live)

    def begin(self, live: LiveGrant) -> None:
        """Before its first step; again is once. Never raises. Waits until the journal is surely read, where that must be known."""
        kinds = _kinds(live)
        if not kinds:
            return
        why = self._go_on([live], surely=FORWARDS in kinds)
        note = self._note_of(live)
        note["absent"] = why
        with self._lock:
            note["cursor"] = note["cursor"] or self._cursor
        note["at_us"] = note["at_us"] or self._clock.wall_ns() // _US
        self._write(live)
        if why:
            log.warning("what sshd and sudo log of grant %s is not seen: %s", live.record.jti, why)

    def insist(self, live: LiveGrant) -> None:
        """Raises HostError ``forwards_unseen`` where its connections must be seen, and are not."""
        note = live.notes.get(NOTE)
        if _kinds(live).get(FORWARDS) == REQUIRED and isinstance(note, dict) and note["absent"]:
            raise HostError("forwards_unseen", f"what it forwards must be seen, and is not: {note['absent']}")

    def finish(self, shuts: Sequence[Shut]) -> None:
        """For their receipts: what was logged until now is heard first. Never raises; waits some milliseconds."""
        grants = [shut.live for shut in shuts if NOTE in shut.live.notes]
        why = self._go_on(grants, surely=True) if grants else ""
        for live in grants:
            if why:
                self._note_of(live)["absent"] = f"not to the end: {why}"
            with self._lock:
                self._followed.discard(live.id)
            self._write(live)
        self._rest_if_idle()

    def state(self) -> dict[str, Json]:
        """For ``status``: why nothing of it is seen on this host; empty when it can be."""
        return {"absent": journald.why_not(self._reader)}

    def stop(self) -> None:
        """The program stops: a thread that reads on would keep it."""
        with self._lock:
            self._followed.clear()
        self._rest_if_idle()
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    def _go_on(self, grants: Sequence[LiveGrant], *, surely: bool) -> str:
        """Follow these, and hear all that was logged by now (``surely``, or where it has just begun). Why not, if not."""
        if why := journald.why_not(self._reader):
            return why
        try:
            with self._lock:
                self._followed.update(live.id for live in grants)
                tail = self._running()
                if self._cursor and not surely:
                    return ""
            cursor = tail.mark(_MARK_S)
        except HostError as error:
            return error.reason
        except Exception as error:  # nothing of this keeps a grant from ending
            log.exception("the journal can't be followed")
            return f"{type(error).__name__}: {error}"
        with self._lock:
            if cursor:
                self._starts, self._cursor = 0, self._cursor or cursor
        return "" if cursor else _WORDS

    def _running(self) -> Following:
        if self._tail is None:
            if self._starts >= _STARTS_MAX:
                raise HostError("forwards_unseen", "journalctl ended too often")
            self._starts += 1
            self._cursor = self._cursor or self._noted_cursor()
            # What is read now is not read again, so it is read for everybody.
            self._followed.update(live.id for live in self._ledger.all() if NOTE in live.notes)
            self._threads = self._threads or pool_of(1, "journal")
            self._tail = self._follow(self._hear, self._gone, self._threads, self._cursor)
        return self._tail

    def _noted_cursor(self) -> str:
        """All before the latest that was written down had been heard, whosever it was."""
        notes = [note for live in self._ledger.all() if isinstance(note := live.notes.get(NOTE), dict)]
        latest = max(notes, key=lambda note: int(str(note.get("at_us", 0))), default={})
        return str(latest.get("cursor", ""))

    def _rest_if_idle(self) -> None:
        with self._lock:
            if self._followed or self._tail is None:
                return
            tail, self._tail, self._cursor, self._starts = self._tail, None, "", 0
        tail.stop()

    def _gone(self) -> None:
        """journalctl ended: another goes on. A place that is not in the journal any more ends it at once, and is given up."""
        with self._lock:
            self._tail = None
            if not self._followed:
                return
            if self._starts > 1:
                self._cursor = ""
                for live in self._ledger.where(lambda record: record.id in self._followed):
                    self._note_of(live)["cursor"] = ""
                self._unseen("journalctl ended, and what it had not read is lost")
            try:
                self._running()
            except HostError as error:
                self._unseen(error.reason)

    def _hear(self, entries: Sequence[Entry]) -> None:
        events: list[AuditEvent] = []
        touched: dict[int, LiveGrant] = {}
        with self._lock:
            followed = [live for live in self._ledger.all() if live.id in self._followed]
            for entry in entries:
                self._cursor = str(entry.get("__CURSOR", "")) or self._cursor
                if entry.get("MESSAGE_ID") == journald.SUPPRESSED:
                    self._unseen(f"journald: {str(entry.get('MESSAGE'))[:200]}")
                    continue
                found = _sudo(entry, followed) if entry.get("SYSLOG_IDENTIFIER") == sudo_log.NAME else _forward(entry, followed)
                if found is not None:
                    live, event = found
                    touched[live.id] = live
                    events += [event] if self._count(live, entry, event) else []
        for live in touched.values():
            self._write(live)
        self._trail.emit(events)

    def _count(self, live: LiveGrant, entry: Entry, event: AuditEvent) -> bool:
        """Whether it is one of the first, which are told."""
        kind = FORWARDS if event.kind is EventKind.CONNECTION_FORWARDED else SUDO
        note = self._note_of(live)
        noted = note.get(kind)
        counted = noted if isinstance(noted, dict) else {"count": 0, "refused": 0, "told": 0}
        count = _whole(counted["count"]) + 1
        refused = _whole(counted["refused"]) + (not event.ok)
        note[kind] = {"count": count, "refused": refused, "told": min(count, TOLD_MAX)}
        note |= {"cursor": self._cursor, "at_us": journald.number(entry, "__REALTIME_TIMESTAMP")}
        return count <= TOLD_MAX

    def _unseen(self, why: str) -> None:
        """Some may have passed unseen: of every grant that is followed, since nobody can tell whose."""
        events = []
        for live in self._ledger.all():
            if live.id in self._followed:
                note = self._note_of(live)
                note["gaps"] = _whole(note.get("gaps")) + 1
                self._write(live)
                events.append(story.event(live, EventKind.LOG_UNSEEN, self._clock.wall_ns(), ok=False, why=why))
        self._trail.emit(events)

    def _note_of(self, live: LiveGrant) -> dict[str, Json]:
        noted = live.notes.get(NOTE)
        if not isinstance(noted, dict):
            noted = {"absent": "", "gaps": 0, "cursor": "", "at_us": 0}
            noted |= {kind: {"count": 0, "refused": 0, "told": 0} for kind in _kinds(live)}
            live.notes[NOTE] = noted
        return noted

    def _write(self, live: LiveGrant) -> None:
        try:
            self._journal.note(live.id, NOTE, self._note_of(live))
        except TidegateError as error:
            log.error("what sshd and sudo logged of grant %s could not be noted: %s", live.record.jti, error)


def _kinds(live: LiveGrant) -> dict[str, str]:
    """What of its tenants is logged, as its steps say; of ``forwards`` whether they must be seen (``required``)."""
    found: dict[str, str] = {}
    if not any(may_say(live.steps, name) for name in (FORWARDS, _RULE)):
        return found
    for _, step in live.steps:
        rule = step.data.get(_RULE)
        if step.enforcer == "ssh" and isinstance(asked := step.data.get(FORWARDS), str):
            found[FORWARDS] = asked
        if step.enforcer == "sudo" and isinstance(rule, dict) and rule.get("own") is True:
            found[SUDO] = "told"
    return found


def _whose(entry: Entry, followed: Sequence[LiveGrant], kind: str, programs: Sequence[str]) -> LiveGrant | None:
    """The grant of the tenant that these programs speak of: both log with the uid of whom they work for."""
    uid = journald.number(entry, "_UID")
    live = next((live for live in followed if uid in live.tenants and kind in _kinds(live)), None)
    return live if live is not None and journald.is_by(entry, programs) else None


def _forward(entry: Entry, followed: Sequence[LiveGrant]) -> tuple[LiveGrant, AuditEvent] | None:
    """A connection that a tenant's sshd speaks of, and whose it is."""
    live = _whose(entry, followed, FORWARDS, sshd_log.NAMES)
    found = sshd_log.read(journald.message(entry)) if live is not None else None
    if live is None or found is None:
        return None
    detail: dict[str, object] = {"kind": found.kind, "host": found.host, "port": found.port, "origin": found.origin}
    detail |= {"words": found.words} if found.words else {}
    return live, _event(EventKind.CONNECTION_FORWARDED, live, entry, detail)


def _sudo(entry: Entry, followed: Sequence[LiveGrant]) -> tuple[LiveGrant, AuditEvent] | None:
    """A command that a tenant asked sudo for, and whose it is."""
    live = _whose(entry, followed, SUDO, (sudo_log.NAME,))
    found = sudo_log.read(journald.message(entry)) if live is not None else None
    if live is None or found is None or found.login != live.tenants[journald.number(entry, "_UID")]:
        return None
    detail: dict[str, object] = {"command": shlex.join(found.argv), "path": found.path, "run_as": found.run_as, "cwd": found.cwd}
    detail |= {"tty": found.tty, "why": found.reason}
    return live, _event(EventKind.PRIVILEGE_USED, live, entry, detail, ok=found.allowed)


def _event(kind: EventKind, live: LiveGrant, entry: Entry, detail: dict[str, object], *, ok: bool = True) -> AuditEvent:
    at_ns, session = journald.number(entry, "__REALTIME_TIMESTAMP") * _US, str(entry.get("_SYSTEMD_SESSION", ""))
    return story.by_tenant(live, kind, at_ns, journald.number(entry, "_UID"), {**detail, "session": session}, ok=ok)


def _whole(value: Json) -> int:
    return value if isinstance(value, int) else 0
