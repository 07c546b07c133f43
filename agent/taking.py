"""When the inbox is looked at, and in which thread: one for sorting and for orders, and the one that opens."""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from agent.errors import TidegateError
from agent.host.threads import pool_of, submit
from agent.intake import Intake
from agent.sorting import LOOK_AGAIN_S
from agent.spool import shown

log = logging.getLogger("tidegate")
_RETRY_S = 5.0
Taken = TypeVar("Taken")


class Taking:
    """The two threads of the inbox, which set each other to work. Safe to call from any thread: at worst there is a job too many.

    Args:
        opening: the thread that opens.
        later: ``(what, call, delay in s)``, from any thread; once for each ``what``.
        problems: what is wrong, by what it is about; written here.
    """

    def __init__(
        self,
        intake: Intake,
        opening: Executor,
        later: Callable[[str, Callable[[], None], float], None],
        problems: dict[str, str],
    ) -> None:
        self._intake = intake
        self._opening = opening
        self._ordering = pool_of(1, "order")
        self._later = later
        self._problems = problems
        self._begun = self._looking = self._taking = self._retrying = False

    def begin(self) -> None:
        """At start, once all is ready for what lies there; nothing is looked at before."""
        self._intake.begin()
        self._begun = True

    def look(self) -> None:
        """There may be something. One job waits at a time, however many files come."""
        if self._begun and not self._looking:
            self._looking = True
            self._job(self._ordering, self._take_orders)

    def retry(self) -> None:
        """Look at everything again."""
        self._retrying = False
        self._intake.sorting.retry()
        self.look()

    def stop(self) -> None:
        """Wait for what is under way; the rest lies in the inbox for the next start."""
        self._ordering.shutdown(cancel_futures=True)

    def _take_orders(self) -> None:
        self._looking = False
        more = self._tried("orders", "what comes in waits", self._intake.take_orders)
        if more is None:
            if self._intake.sorting.told:  # there may be more orders, which are carried out all the same
                self.look()
            return
        self._tell_stuck()
        if more:
            self.look()
        elif self._intake.sorting.unsorted:
            self._later("look", self.look, LOOK_AGAIN_S)
        if self._intake.sorting.grants_wait:
            self._open_some()

    def _open_some(self) -> None:
        if not self._taking:
            self._taking = True
            self._job(self._opening, self._take_grants)

    def _take_grants(self) -> None:
        self._taking = False
        sorting = self._intake.sorting
        taken = self._tried("grants", "new ones wait", self._intake.take_grants)
        if taken is None:
            return
        self._tell_stuck()
        if taken and sorting.grants_wait:
            self._open_some()
        elif taken and sorting.unsorted:
            self.look()

    def _tried(self, what: str, waits: str, take: Callable[[], Taken]) -> Taken | None:
        """None where nothing can be taken that can't be written down: every file stays, which is told, and is tried again."""
        try:
            return take()
        except TidegateError as error:
            self._try_again(what, f"{waits}: {error}")
            return None
        except Exception:
            self._try_again(what, f"{waits}: an error of its own, which the journal of the service tells")
            raise

    def _tell_stuck(self) -> None:
        if stuck := self._intake.sorting.stuck():
            name, why = next(iter(stuck.items()))
            self._try_again("inbox", f"{len(stuck)} file(s) can't be taken out, such as {shown(name)}: {why}")
        elif self._intake.sorting.idle:  # else what failed before may be about to fail again
            for what in ("inbox", "orders", "grants"):
                self._problems.pop(what, None)

    def _try_again(self, what: str, problem: str) -> None:
        if self._problems.get(what) != problem:
            log.error("%s: %s", what, problem)
        self._problems[what] = problem
        if not self._retrying:
            self._retrying = True
            self._later("inbox", self.retry, _RETRY_S)

    def _job(self, pool: Executor, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it is stopping: the next start looks
            submit(pool, work)
