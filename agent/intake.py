"""What comes into the inbox, taken file by file: from bytes to an answer in the outbox.

Files that a trusted key signed go before all others, so that a flood of junk costs its own handling and a real grant waits
for the few files that are in hand. The name in an event is a hint, and events get lost (the kernel's queue is bounded): so
the folder itself is looked through too.
"""

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent import orders, trust
from agent.audit import AuditEvent, EventKind
from agent.errors import HostError, RefusedError, UnenforceableError
from agent.expiry.shut import Shut
from agent.journal.records import Refusal
from agent.model import fields
from agent.pipeline import Pipeline
from agent.spool import shown

log = logging.getLogger("tidegate")

_HINTS_MAX = 16_384  # what more there is, is found in the folder
_SORTED_AT_ONCE = 64
_PEEKED_AT_ONCE = 16
_ORDERS_AT_ONCE = 64
_ORDERS = frozenset({trust.TYP_EVENT, trust.TYP_BULLETIN})
_REVOKED_NAMED = 256
_SIGNED_AT_ONCE = 16
_OTHERS_AT_ONCE = 32
_LOOK_AGAIN_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class _Refused:
    """A file that is refused, not yet told to anybody."""

    name: str
    error: RefusedError
    jti: str
    sub: str

    def entry(self, at_ns: int) -> Refusal:
        """For the journal."""
        return Refusal(at_ns, shown(self.name), self.error.code, self.error.reason, self.error.field or "", self.jti, self.sub)

    def event(self, at_ns: int) -> AuditEvent:
        """For the audit trail."""
        code, why, detail = self.error.code, str(self.error), {"source": shown(self.name)}
        return AuditEvent(
            EventKind.GRANT_REFUSED, at_ns, jti=self.jti, sub=self.sub, code=code, reason=why, ok=False, detail=detail
        )


class Intake:
    """The queue before the pipeline. ``hint`` may be called from any thread, all else from the one that takes."""

    def __init__(self, pipeline: Pipeline, clear: Callable[[Sequence[Shut]], object] | None = None) -> None:
        """``clear`` gets what is owed after an order has cut grants off: the daemon has threads for that."""
        self._pipeline = pipeline
        self._cleared_by = clear
        self._lock = threading.Lock()
        self._hints: dict[str, None] = {}  # dicts as ordered sets: the same name often comes twice
        self._orders: dict[str, None] = {}  # revocations and bulletins: before everything else
        self._signed: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._refused: list[_Refused] = []
        self._left_over: set[str] = set()
        self._look = True  # into the folder, for what no hint names
        self._looked_ns = 0
        self.stuck: dict[str, HostError] = {}  # files that could not be taken out, and why; not tried again before retry()

    def _clear(self, shuts: Sequence[Shut]) -> None:
        (self._cleared_by or self._pipeline.clear)(shuts)

    def begin(self) -> None:
        """At start: what lies there now may be what a crash left between the journal and the unlinking."""
        self._pipeline.inbox.bring_back()
        with contextlib.suppress(HostError):  # work() tells that it can't be read
            self._left_over = set(self._pipeline.inbox.names())

    def hint(self, name: str) -> None:
        """There may be a file of that name."""
        with self._lock:
            if len(self._hints) < _HINTS_MAX:
                self._hints[name] = None
            self._look = True

    def retry(self) -> None:
        """Look at everything again, also at what could not be taken out before."""
        self.stuck.clear()
        self._look = True

    def work(self) -> bool:
        """Take a few files; True when more wait. Little at a time: a pending grant's opening waits in the same thread.

        Raises:
            JournalError: nothing can be written down now; every file that was not answered stays for later.
            HostError: ``inbox_unreadable``.
        """
        self._sort()
        queue, most = (self._signed, _SIGNED_AT_ONCE) if self._signed or self._hints else (self._others, _OTHERS_AT_ONCE)
        if self._orders:
            queue, most = self._orders, _ORDERS_AT_ONCE
        for name in list(itertools.islice(queue, most)):
            del queue[name]
            self._take(name)
        self._tell_refusals()
        return bool(self._orders or self._signed or self._others or self._hints or self._look)

    def _take(self, name: str) -> None:
        """One file, to its answer or to the list of those to be refused."""
        token = b""
        try:
            token = self._pipeline.inbox.take(name)
            answer = self._take_token(name, token)
        except RefusedError as error:
            if error.code != "file_absent":  # two events for one file; the first has answered it
                self._refused.append(_Refused(name, error, *self._named(token)))
        except HostError as error:
            self._refused.append(_Refused(name, UnenforceableError(error.code, error.reason), *self._named(token)))
        else:
            self._answer("accepted", name, **answer)
            self._discard(name)

    def _take_token(self, name: str, token: bytes) -> dict[str, Any]:
        """Carried out; returns what its answer says. A token of no known kind is refused by what takes grants."""
        kind = self._kind(token)
        if kind == trust.TYP_EVENT:
            return _answer_of(orders.take_event(self._pipeline, token, self._clear))
        if kind == trust.TYP_BULLETIN:
            again = name in self._left_over
            self._left_over.discard(name)
            return _answer_of(orders.take_bulletin(self._pipeline, token, self._clear, again=again))
        return {"jti": self._left_by_a_crash(name, token) or self._pipeline.open(token).record.jti}

    def _tell_refusals(self) -> None:
        """Journal, answer and tell the refused files together: a flood would keep the disk from what has to be shut."""
        refused, self._refused = self._refused, []
        if not refused:
            return
        at_ns = self._pipeline.clock.wall_ns()
        self._pipeline.journal.refused(*(found.entry(at_ns) for found in refused))
        for found in refused:
            error = found.error
            self._answer("refused", found.name, code=error.code, reason=error.reason, field=error.field or "", jti=found.jti)
        self._pipeline.trail.emit([found.event(at_ns) for found in refused])
        for found in refused:
            self._discard(found.name)

    def _discard(self, name: str) -> None:
        try:
            self._pipeline.inbox.discard(name)
        except HostError as error:
            self.stuck[name] = error

    def _sort(self) -> None:
        """Look at the next few names: who signed decides only who is first; all is verified again when its turn comes."""
        with self._lock:
            if not self._hints and self._time_to_look():
                self._look = False
                self._hints = dict.fromkeys(self._pipeline.inbox.names())
            names = list(itertools.islice(self._hints, _SORTED_AT_ONCE))
            for name in names:
                del self._hints[name]
        for name in names:
            known = name in self._orders or name in self._signed or name in self._others or name in self.stuck
            if not known and not self._pipeline.inbox.busy(name):  # busy: its close will be told
                kind = self._signed_kind(name)
                (self._orders if kind in _ORDERS else self._signed if kind else self._others)[name] = None
                self._look = True  # once more when these are done
        self._peek()

    def _peek(self) -> None:
        """At the latest few names too: an order is not to wait until all that came before it was looked at."""
        with self._lock:
            latest = list(itertools.islice(reversed(self._hints), _PEEKED_AT_ONCE))
        for name in latest:
            if not self._pipeline.inbox.busy(name) and self._signed_kind(name) in _ORDERS:
                self._orders[name] = None
                self._look = True

    def _time_to_look(self) -> bool:
        """Into the folder itself: when nothing else is left, and now and then in a flood, which loses events."""
        now_ns = self._pipeline.clock.boot_ns()
        if not self._look or ((self._signed or self._others) and now_ns < self._looked_ns + _LOOK_AGAIN_NS):
            return False
        self._looked_ns = now_ns
        return True

    def _signed_kind(self, name: str) -> str:
        """The typ of a file that a trusted key signed; empty for any other."""
        try:
            token = self._pipeline.inbox.take(name)
            kind = trust.claimed_typ(token)
            trust.verify(token, self._pipeline.ring(), typ=kind)
        except RefusedError:
            return ""
        return kind

    def _kind(self, token: bytes) -> str:
        try:
            return trust.claimed_typ(token)
        except RefusedError:
            return ""

    def _left_by_a_crash(self, name: str, token: bytes) -> str | None:
        """The jti, when a crash came between accepting this very file and answering it: then that answer is due."""
        if name not in self._left_over:
            return None
        self._left_over.discard(name)
        return self._pipeline.journal.knows_leftover(token)

    def _named(self, token: bytes) -> tuple[str, str]:
        """jti and subject of a refused grant, where its signer may say them: so that who sent it knows which one is meant."""
        jti = sub = ""
        try:
            verified = trust.verify(token, self._pipeline.ring(), typ=self._kind(token) or trust.TYP_GRANT)
            claims = trust.parse_object(verified.payload)
            trust.check_issuer(fields.text(claims.get("iss"), "iss"), verified.signers)
            jti = fields.jti(claims.get("jti"), "jti")
            sub = fields.text(claims.get("sub"), "sub") if "sub" in claims else ""
        except RefusedError:
            pass
        return jti, sub

    def _answer(self, verdict: str, name: str, **members: Any) -> None:  # noqa: ANN401  # as Outbox.answer takes them
        """An answer is information: a full disk may lose it, but never a grant's opening or refusal."""
        try:
            self._pipeline.outbox.answer(verdict, name, **members)
        except HostError as error:
            log.error("no answer for %s: %s", shown(name), error)


def _answer_of(taken: orders.Taken) -> dict[str, Any]:
    revoked = [{"iss": live.record.iss, "jti": live.record.jti} for live in taken.revoked[:_REVOKED_NAMED]]
    return {"jti": taken.ident, "revoked": revoked, "revoked_count": len(taken.revoked)}
