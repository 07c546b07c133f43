"""What an alarm sets off, and in which thread: nobody's end waits for another's.

Cutting off is bounded in time and has threads enough; clearing away lasts as long as a tenant's files make it last, and has
its own few; so has coming back to what would not end.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from agent import orders
from agent.errors import JournalError
from agent.expiry import notice
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act, Alarm
from agent.expiry.shut import Shut
from agent.host.threads import pool_of, submit
from agent.journal import EndCause
from agent.pipeline import Pipeline
from agent.suspending import is_stale, resume, suspend

log = logging.getLogger("tidegate")


class Acting:
    """The threads of teardown. ``taking`` is the one that opens: a pending grant's time comes there."""

    def __init__(self, pipeline: Pipeline, taking: Executor, pools: Callable[[int, str], Executor] = pool_of) -> None:
        self._pipeline = pipeline
        self._taking = taking
        self._cutting = pools(16, "cut")
        self._again = pools(4, "again")
        self._clearing = pools(4, "clear")
        pipeline.prover.ready(pools)
        self._beside = pipeline.teardown.beside = pools(4, "units")
        self._looking = pools(1, "look")
        self._marking = pools(1, "mark")  # every few seconds: of several that wait, Python wakes two for each job
        self._opening = pipeline.aside = pools(2, "open")

    def act(self, alarms: Sequence[Alarm]) -> None:
        """Set off what these alarms ask for; returns at once."""
        ledger = self._pipeline.ledger
        for first, pool in ((True, self._cutting), (False, self._again)):
            due = [alarm for alarm in alarms if alarm.act is Act.SHUT and (alarm.note == 0) is first]
            grants = [live for alarm in due if (live := ledger.get(alarm.grant_id))]
            if grants:
                submit(pool, self._cut, grants)
        drained = [live for alarm in alarms if alarm.act is Act.DRAINED and (live := ledger.get(alarm.grant_id))]
        if drained:
            submit(self._cutting, self._cut, drained)
        stale = [live for alarm in alarms if alarm.act is Act.SUSPEND and (live := ledger.get(alarm.grant_id))]
        if stale:
            submit(self._cutting, self._suspend, stale)
        sweeps = [alarm for alarm in alarms if alarm.act is Act.SWEEP]
        swept = {uid: login for alarm in sweeps for uid, login in ledger.to_sweep(alarm).items()}
        lent = [lent for alarm in sweeps for lent in ledger.lent_to_sweep(alarm)]
        if swept or lent:
            submit(self._again, self._pipeline.sweep, swept, lent)
        if any(alarm.act is Act.MARK for alarm in alarms):
            submit(self._marking, self._mark)
        if any(alarm.act is Act.LOOK for alarm in alarms):
            submit(self._looking, self._pipeline.tombstones.look_again)
        for alarm in alarms:
            live = ledger.get(alarm.grant_id)
            if live and alarm.act is Act.OPEN:
                submit(self._taking, self._pipeline.open_pending, live)
            elif live and alarm.act is Act.RESUME:
                submit(self._taking, resume, self._pipeline, live)
            elif live and alarm.act is Act.WARN:
                submit(self._again, notice.warn, live, alarm.note)

    def clear(self, shuts: Sequence[Shut]) -> None:
        """Away with what they stood on. A home to be packed takes its own time: in a job of its own, not its batch's."""
        slow = [shut for shut in shuts if shut.live.archives]
        quick = [shut for shut in shuts if not shut.live.archives]
        for batch in (quick, *([shut] for shut in slow)):
            if batch:
                submit(self._clearing, self._pipeline.clear, batch)

    def freshen(self, iss: str) -> None:
        """Resume and open what waited for a bulletin of that issuer. When all stops, the next start does it."""
        with contextlib.suppress(RuntimeError):
            submit(self._taking, orders.freshen, self._pipeline, iss)

    def stop(self) -> None:
        """Wait for what is under way; the journal has the rest for the next start."""
        self._pipeline.writer.remains.stop()
        at_work = (self._cutting, self._again, self._clearing, self._beside, self._looking, self._marking, self._opening)
        for pool in at_work:
            pool.shutdown(cancel_futures=True)

    def _mark(self) -> None:
        try:
            self._pipeline.ledger.mark(self._pipeline.journal)
        except JournalError as error:  # a full disk, say: no bug, and tried again in a minute
            log.error("how late it is could not be written down: %s", error)

    def _cut(self, grants: Sequence[LiveGrant]) -> None:
        self.clear(self._pipeline.cut(grants, EndCause.EXPIRED))

    def _suspend(self, grants: Sequence[LiveGrant]) -> None:
        """A bulletin may have come between the alarm and now: what is fresh has its alarm set anew."""
        suspend(self._pipeline, [live for live in grants if is_stale(self._pipeline, live)])
        self._pipeline.ledger.watch_freshness()
