"""What an alarm sets off, and in which thread: nobody's end waits for another's.

Cutting off is bounded in time and has threads enough; clearing away lasts as long as a tenant's files make it last, and has
its own few; so has coming back to what would not end.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

from agent.errors import JournalError
from agent.expiry import notice
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act, Alarm
from agent.expiry.teardown import Shut
from agent.journal import EndCause
from agent.pipeline import Pipeline
from agent.suspending import is_stale, resume, suspend

log = logging.getLogger("tidegate")


class Acting:
    """The threads of teardown. ``taking`` is the one that opens: a pending grant's time comes there."""

    def __init__(self, pipeline: Pipeline, taking: Executor) -> None:
        self._pipeline = pipeline
        self._taking = taking
        self._cutting = pool_of(16, "cut")
        self._again = pool_of(4, "again")
        self._clearing = pool_of(4, "clear")
        self._beside = pipeline.teardown.beside = pool_of(4, "units")

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
        swept = {uid: login for alarm in alarms if alarm.act is Act.SWEEP for uid, login in ledger.to_sweep(alarm).items()}
        if swept:
            submit(self._again, self._pipeline.sweep, swept)
        if any(alarm.act is Act.MARK for alarm in alarms):
            submit(self._again, self._mark)
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

    def stop(self) -> None:
        """Wait for what is under way; the journal has the rest for the next start."""
        for pool in (self._cutting, self._again, self._clearing, self._beside):
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


def pool_of(size: int, name: str) -> ThreadPoolExecutor:
    """So many threads, all of them started now: with no memory left a thread that dies at birth holds up its maker for ever."""
    pool = ThreadPoolExecutor(size, thread_name_prefix=name)
    all_there = threading.Barrier(size)
    for _ in range(size):
        pool.submit(all_there.wait)
    return pool


def submit(pool: Executor, work: Callable[..., object], *arguments: object) -> None:
    """A job whose failure is a bug, and is told as one."""
    pool.submit(_told, work, *arguments)


def _told(work: Callable[..., object], *arguments: object) -> None:
    try:
        work(*arguments)
    except Exception as error:
        log.error("a job failed", exc_info=error)
