"""Writing down how grants end: that it has begun, how it went, the signed receipt, and the story for the audit trail.

Nothing here keeps a door open: whatever can't be written is said, and what is not written down as ended is tried again.
"""

import contextlib
import logging
import threading
from collections.abc import Sequence

from agent.audit import AuditEvent, EventKind, Trail
from agent.errors import JournalError, TidegateError
from agent.expiry import receipt, residue, story
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.reserve import Reserve
from agent.expiry.shut import Shut
from agent.host.clock import Clock
from agent.journal import EndCause, GrantState, Journal
from agent.spool import Outbox
from agent.trust import HostKey

log = logging.getLogger("tidegate")


class Ending:
    """The book-keeping of teardown on one host. Thread-safe; nothing here raises."""

    def __init__(
        self,
        host_id: str,
        clock: Clock,
        host_key: HostKey,
        journal: Journal,
        ledger: Ledger,
        outbox: Outbox,
        trail: Trail,
        reserve: Reserve,
        *,
        by: str = "tidegated",
    ) -> None:
        """``by``: this program's name, as receipts tell it."""
        self._host_id = host_id
        self._clock = clock
        self._host_key = host_key
        self._journal = journal
        self._ledger = ledger
        self._outbox = outbox
        self._trail = trail
        self._reserve = reserve
        self._by = by
        self._shipping = threading.Lock()

    def begin(self, claimed: Sequence[LiveGrant], cause: EndCause, text: str) -> None:
        """Note why these end; the first cause stays. An order is on disk before anything is shut, or a crash would forget it.

        An expiry needs no such note: the clock says it again at the next start.
        """
        for live in claimed:
            live.cause, live.cause_text = live.cause or cause, live.cause_text or text
            live.attempts += 1
        self._note([live for live in claimed if live.cause is not EndCause.EXPIRED])

    def recall(self, grants: Sequence[LiveGrant]) -> None:
        """At start: end what was ordered to end while the journal took nothing. The grants as the journal has them."""
        orders = self._reserve.recall()
        for live in grants:
            if live.record.digest in orders:
                live.cause, live.cause_text = orders[live.record.digest]
                live.state = GrantState.SHUTTING
        self._reserve.drop(orders.keys() - {live.record.digest for live in grants})

    def closed(self, shuts: Sequence[Shut]) -> None:
        """The doors are shut and the processes dead; only now is an expiry noted, since those come first also on a full disk."""
        self._note([shut.live for shut in shuts if shut.live.cause is EndCause.EXPIRED])

    def finish(self, shuts: Sequence[Shut]) -> None:
        """Journal, sign and tell the end of each; what is not over stays live, and its next try is set."""
        events: list[AuditEvent] = []
        for shut in shuts:
            try:
                events += self._finish(shut)
            except Exception as error:  # one grant's trouble is not the others'
                shut.live.error = str(error) or type(error).__name__
                if not isinstance(error, TidegateError):
                    log.exception("the end of grant %s could not be written down", shut.live.record.jti)
                events.append(self._retry(shut.live))
        self.ship_receipts()
        self._trail.emit(events)

    def ship_receipts(self) -> None:
        """Put what is not in the outbox yet there; what fails is tried again with the next one and at every start."""
        done: list[str] = []
        with self._shipping:
            try:
                for ident, jws in self._journal.unshipped():
                    self._outbox.receipt(ident, jws)
                    done.append(ident)
            except TidegateError as error:
                log.error("receipts wait for the outbox: %s", error)
            finally:
                with contextlib.suppress(JournalError):  # then they are put there twice, under one id
                    self._journal.shipped(done)

    def _note(self, grants: Sequence[LiveGrant]) -> None:
        for cause in {live.cause for live in grants if live.cause}:
            ending = [live for live in grants if live.cause is cause]
            try:
                self._journal.shutting([(live.id, live.cause_text) for live in ending], cause)
            except Exception as error:  # nothing that is to be written down keeps a door open
                log.error("the journal can't be written, teardown goes on: %s", error)
                if cause is not EndCause.EXPIRED:
                    self._keep(ending, cause)
            else:
                self._reserve.drop([live.record.digest for live in ending])

    def _keep(self, ending: Sequence[LiveGrant], cause: EndCause) -> None:
        """An order must not be forgotten; an expiry the clock says again."""
        if not self._reserve.keep([live.record.digest for live in ending], cause, ending[0].cause_text):
            log.error("this order to end %d grant(s) is carried out, and is lost if this process dies now", len(ending))

    def _finish(self, shut: Shut) -> list[AuditEvent]:
        live = shut.live
        live.error = "; ".join(shut.errors)[:500]
        self._journal.undone(live.id, shut.undone)
        if shut.ended_ns is None:
            self._journal.failed_to_end(live.id, live.error)
            return [self._retry(live)]
        ident = f"receipt-{live.record.digest[:32]}"
        jws = self._host_key.sign(receipt.RECEIPT_TYP, receipt.claims(shut, host_id=self._host_id, receipt_id=ident, by=self._by))
        left = {uid: residue.left_of(shut.residue, uid) for uid in live.tenants}
        count = sum(map(len, left.values()))
        self._journal.ended(live.id, shut.ended_ns, residue=count, receipt=(ident, jws), left=left)
        self._ledger.ended(live)
        if count:
            self._ledger.look_again()
        return story.ended(shut, self._clock.wall_ns())

    def _retry(self, live: LiveGrant) -> AuditEvent:
        wait_ms = self._ledger.retry(live)
        log.error("grant %s is not over, next try in %d ms: %s", live.record.jti, wait_ms, live.error)
        detail: dict[str, object] = {
            "error": live.error,
            "attempts": live.attempts,
            "next_try_ms": wait_ms,
            "mend": story.mend(live),
        }
        return story.event(live, EventKind.TEARDOWN_RETRY, self._clock.wall_ns(), ok=False, **detail)
