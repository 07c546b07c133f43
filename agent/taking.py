"""When the inbox is looked at, and in which thread: one for sorting and for orders, and the one that opens."""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor

from agent.errors import TidegateError
from agent.host.threads import pool_of, submit
from agent.intake import Intake
from agent.sorting import LOOK_AGAIN_S
from agent.spool import shown

log = logging.getLogger("tidegate")
_RETRY_S = 5.0


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
        self._looking = self._taking = False

    def look(self) -> None:
        """There may be something. One job waits at a time, however many files come."""
        if not self._looking:
            self._looking = True
            self._job(self._ordering, self._take_orders)

    def retry(self) -> None:
        """Look at everything again."""
        self._intake.sorting.retry()
        self.look()

    def stop(self) -> None:
        """Wait for what is under way; the rest lies in the inbox for the next start."""
        self._ordering.shutdown(cancel_futures=True)

    def _take_orders(self) -> None:
        self._looking = False
        try:
            more = self._intake.take_orders()
        except TidegateError as error:
            # Nothing is taken that can't be written down; every file stays and is tried again.
            self._try_again("orders", f"what comes in waits: {error}")
            return
        self._problems.pop("orders", None)
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
        try:
            taken = self._intake.take_grants()
        except TidegateError as error:
            self._try_again("grants", f"new ones wait: {error}")
            return
        self._problems.pop("grants", None)
        self._tell_stuck()
        if taken and sorting.grants_wait:
            self._open_some()
        elif taken and sorting.unsorted:
            self.look()

    def _tell_stuck(self) -> None:
        if stuck := self._intake.sorting.stuck():
            name, why = next(iter(stuck.items()))
            self._try_again("inbox", f"{len(stuck)} file(s) can't be taken out, such as {shown(name)}: {why}")
        else:
            self._problems.pop("inbox", None)

    def _try_again(self, what: str, problem: str) -> None:
        if self._problems.get(what) != problem:
            log.error("%s: %s", what, problem)
        self._problems[what] = problem
        self._later("inbox", self.retry, _RETRY_S)

    def _job(self, pool: Executor, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # it is stopping: the next start looks
            submit(pool, work)
