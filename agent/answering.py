"""One file of the inbox after the other, from its name to an answer in the outbox."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent import trust
from agent.audit import AuditEvent, EventKind
from agent.errors import HostError, JournalError, RefusedError, UnenforceableError
from agent.journal.records import Refusal
from agent.model import fields
from agent.pipeline import Pipeline
from agent.sorting import Sorting
from agent.spool import Inbox, shown

log = logging.getLogger("tidegate")


class NotOursError(Exception):
    """What lies there now is for another thread: it is sorted again."""


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


class Answering:
    """What one thread takes out of the inbox, with what it remembers of its own files; not thread-safe.

    Args:
        carry_out: ``(name, token)`` → what the answer says. Raises RefusedError, HostError, NotOursError.
        following: the next name, None when there is none for now.
        done: of each name that ``following`` gave.
        unwritten: takes a name that could not be written down, and the next one's turn comes; without it nothing more is taken.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        inbox: Inbox,
        sorting: Sorting,
        carry_out: Callable[[str, bytes], dict[str, Any]],
        following: Callable[[], str | None],
        done: Callable[[str], None],
        unwritten: Callable[[str], None] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._inbox = inbox
        self._sorting = sorting
        self._carry_out = carry_out
        self._following = following
        self._done = done
        self._unwritten = unwritten
        self._refused: list[_Refused] = []

    def take(self, most: int) -> int:
        """Take so many files, or fewer; returns how many.

        Raises:
            JournalError: nothing can be written down now; every file that was not answered stays for later.
        """
        if self._unwritten is not None:
            self._refused = []  # of a turn that failed: an order is found and judged again, and waits for no other's answer
        self._tell_refusals()  # of the same: judged again, a grant that came to nothing would be refused for having come before
        in_hand: list[str] = []
        failed: JournalError | None = None
        try:
            while len(in_hand) < most and (name := self._following()) is not None:
                in_hand.append(name)
                try:
                    self._take(name)
                except JournalError as error:
                    if self._unwritten is None:
                        raise
                    self._unwritten(name)
                    failed = failed or error
            self._tell_refusals()
        finally:
            for name in in_hand:
                self._done(name)
        if failed is not None:
            raise failed
        return len(in_hand)

    def _take(self, name: str) -> None:
        """One file, to its answer or to the list of those to be refused."""
        token = b""
        try:
            token = self._inbox.take(name)
            answer = self._carry_out(name, token)
        except RefusedError as error:
            if error.code != "file_absent":  # two events for one file; the first has answered it
                self._refused.append(_Refused(name, error, *self._named(token)))
        except HostError as error:
            self._refused.append(_Refused(name, UnenforceableError(error.code, error.reason), *self._named(token)))
        except NotOursError:
            self._sorting.hint(name)
        else:
            self._answer("accepted", name, **answer)
            self._discard(name)

    def _tell_refusals(self) -> None:
        """Journal, answer and tell the refused files together: a flood would keep the disk from what has to be shut."""
        refused = self._refused
        if not refused:
            return
        at_ns = self._pipeline.clock.wall_ns()
        self._pipeline.journal.refused(*(found.entry(at_ns) for found in refused))
        self._refused = []
        for found in refused:
            error = found.error
            self._answer("refused", found.name, code=error.code, reason=error.reason, field=error.field or "", jti=found.jti)
        self._pipeline.trail.emit([found.event(at_ns) for found in refused])
        for found in refused:
            self._discard(found.name)

    def _discard(self, name: str) -> None:
        try:
            self._inbox.discard(name)
        except HostError as error:
            self._sorting.leave(name, error)

    def _named(self, token: bytes) -> tuple[str, str]:
        """jti and subject of a refused grant, where its signer may say them: so that who sent it knows which one is meant."""
        jti = sub = ""
        try:
            verified = trust.verify(token, self._pipeline.ring(), typ=kind_of(token) or trust.TYP_GRANT)
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


def kind_of(token: bytes) -> str:
    """The typ that a token says it has; empty when it is no token."""
    try:
        return trust.claimed_typ(token)
    except RefusedError:
        return ""
