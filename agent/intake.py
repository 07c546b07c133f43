"""What comes into the inbox, in two threads: one sorts it and carries out orders, one opens grants, which may wait for others.

A flood of junk costs its own handling, and a real grant waits for the few files that are in hand; an order waits for no grant,
not even for one whose opening gets no answer of the name service.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from agent import orders, trust
from agent.answering import Answering, NotOursError, kind_of
from agent.errors import HostError
from agent.expiry.shut import Shut
from agent.pipeline import Pipeline
from agent.sorting import ORDERS, Sorting

_REVOKED_NAMED = 256
_ORDERS_AT_ONCE = 64
_GRANTS_AT_ONCE = 16  # a pending grant's opening waits in the same thread


class Intake:
    """The queue before the pipeline: :meth:`take_orders` is for one thread, :meth:`take_grants` for one, all else for any.

    Args:
        clear: gets what is owed after an order has cut grants off; the daemon has threads for that.
        freshened: told the issuer of whom a fresh bulletin has come, to resume and open what waited for it, as
            :func:`agent.orders.freshen`; the daemon has it done in the thread that opens.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        clear: Callable[[Sequence[Shut]], object] | None = None,
        freshened: Callable[[str], object] | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._clear = clear or pipeline.clear
        self._freshened = freshened or (lambda iss: orders.freshen(pipeline, iss))
        self.sorting = found = Sorting(pipeline.inbox.for_another_thread(), pipeline.ring, pipeline.clock)
        apart = pipeline.inbox.for_another_thread()
        self._orders = Answering(pipeline, apart, found, self._order, found.next_order, found.order_done, found.order_unwritten)
        self._grants = Answering(pipeline, pipeline.inbox, found, self._token, found.next_grant, found.grant_done)
        self._left_over: set[str] = set()

    def begin(self) -> None:
        """At start: what lies there now may be what a crash left between the journal and the unlinking."""
        self._pipeline.inbox.bring_back()
        with contextlib.suppress(HostError):  # take_orders() tells that it can't be read
            self._left_over = set(self._pipeline.inbox.names())

    def take_orders(self) -> bool:
        """Sort a few files, and carry out the orders among them; True when there is more to sort or carry out now.

        Raises:
            JournalError: an order can't be written down now; it is carried out, and stays for later.
            HostError: ``inbox_unreadable``.
        """
        more = self.sorting.sort()
        self._orders.take(_ORDERS_AT_ONCE)
        return more or self.sorting.told

    def take_grants(self) -> int:
        """Take a few of the other files; returns how many.

        Raises:
            JournalError: nothing can be written down now; every file that was not answered stays for later.
        """
        return self._grants.take(_GRANTS_AT_ONCE)

    def _order(self, name: str, token: bytes) -> dict[str, Any]:
        """An order carried out; returns what its answer says."""
        kind = kind_of(token)
        if kind == trust.TYP_EVENT:
            return _answer_of(orders.take_event(self._pipeline, token, self._clear))
        if kind == trust.TYP_BULLETIN:
            again = name in self._left_over
            self._left_over.discard(name)
            return _answer_of(orders.take_bulletin(self._pipeline, token, self._clear, self._freshened, again=again))
        raise NotOursError  # another file lies there by now; grants are opened in one thread, one after the other

    def _token(self, name: str, token: bytes) -> dict[str, Any]:
        """The same of any file. One of no known kind is refused by what takes grants."""
        kind = kind_of(token)
        if kind in ORDERS:
            trust.verify(token, self._pipeline.ring(), typ=kind)  # most often of nobody who is trusted: refused here
            raise NotOursError  # it came, or its key did, after this name was sorted
        return {"jti": self._left_by_a_crash(name, token) or self._pipeline.open(token).record.jti}

    def _left_by_a_crash(self, name: str, token: bytes) -> str | None:
        """The jti, when a crash came between accepting this very file and answering it: then that answer is due."""
        if name not in self._left_over:
            return None
        self._left_over.discard(name)
        return self._pipeline.journal.knows_leftover(token)


def _answer_of(taken: orders.Taken) -> dict[str, Any]:
    revoked = [{"iss": live.record.iss, "jti": live.record.jti} for live in taken.revoked[:_REVOKED_NAMED]]
    return {"jti": taken.ident, "revoked": revoked, "revoked_count": len(taken.revoked)}
