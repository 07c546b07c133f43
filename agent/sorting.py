"""The names in the inbox, told apart: orders first, then what a trusted key signed, then all else.

Who signed decides only who is first: all is verified again when its turn comes. The name in an event is a hint, and events get
lost (the kernel's queue is bounded): so the folder itself is looked through too.
"""

import itertools
import threading
from collections.abc import Callable

from agent import trust
from agent.errors import HostError, RefusedError
from agent.host.clock import Clock
from agent.spool import Inbox

ORDERS = frozenset({trust.TYP_EVENT, trust.TYP_BULLETIN})
LOOK_AGAIN_S = 1
_HINTS_MAX = 16_384  # what more there is, is found in the folder
_SORTED_AT_ONCE = 64
_PEEKED_AT_ONCE = 16
_OTHERS_MAX = 16_384  # what more there is, stays in the folder until these are done


class Sorting:
    """Three queues of names. :meth:`sort` is for one thread, all else for any.

    A name that was handed out is in hand until told done: its file lies in the inbox while it is carried out, and is not to be
    carried out twice. An order put there under that name meanwhile is one all the same.
    """

    def __init__(self, inbox: Inbox, ring: Callable[[], trust.KeyRing], clock: Clock) -> None:
        self._inbox = inbox
        self._ring = ring
        self._clock = clock
        self._lock = threading.Lock()
        self._hints: dict[str, bool] = {}  # in order of coming; whether an event named it, or only the folder
        self._orders: dict[str, None] = {}  # dicts as ordered sets
        self._signed: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._orders_in_hand: set[str] = set()
        self._unwritten: dict[str, None] = {}  # orders that could not be written down, until they are tried again
        self._again: dict[str, None] = {}  # from then on: each was carried out, so new ones go first
        self._in_hand: dict[str, bool] = {}  # any other; whether it was told of once more meanwhile
        self._stuck: dict[str, HostError] = {}
        self._look = True  # into the folder, for what no hint names
        self._looked_ns = 0

    def hint(self, name: str) -> None:
        """There may be a file of that name."""
        with self._lock:
            if name in self._hints or len(self._hints) < _HINTS_MAX:
                self._hints[name] = True
            self._look = True

    def retry(self) -> None:
        """Look at everything again, also at what could not be written down or taken out before."""
        with self._lock:
            self._stuck.clear()
            self._again, self._unwritten = self._again | self._unwritten, {}
            self._look = True

    def sort(self) -> bool:
        """Look at the next few names; whether there are more to look at now.

        Raises:
            HostError: ``inbox_unreadable``.
        """
        if self._time_to_look():
            found = dict.fromkeys(self._inbox.names(), False)
            with self._lock:
                self._hints = found | self._hints
        with self._lock:
            names = dict(itertools.islice(self._hints.items(), _SORTED_AT_ONCE))
            for name in names:
                del self._hints[name]  # before it is looked at: what is put there from now on is told again
            # At the latest few too: an order is not to wait until all that came before it was looked at.
            names |= dict(itertools.islice(reversed(self._hints.items()), _PEEKED_AT_ONCE))
        new = [name for name, told in names.items() if self._is_new(name, told)]
        kinds = {name: kind for name in new if (kind := self._kind_of(name)) is not None}
        with self._lock:
            # All in one: what lies there together with an order is not handed out before it.
            for name, kind in kinds.items():
                for queue in (self._signed, self._others, self._again):
                    queue.pop(name, None)
                if kind in ORDERS:
                    self._orders[name] = None
                elif name in self._in_hand:
                    self._in_hand[name] = True
                elif name not in self._hints and (kind or len(self._others) < _OTHERS_MAX):
                    (self._signed if kind else self._others)[name] = None
            self._look = self._look or bool(kinds)  # once more when these are done
            return bool(self._hints) or self._may_look()

    def next_order(self) -> str | None:
        """The next order, from here on in hand."""
        with self._lock:
            queue = self._orders or self._again
            name = next(iter(queue), None)
            if name is not None:
                del queue[name]
                self._orders_in_hand.add(name)
            return name

    def next_grant(self) -> str | None:
        """The next file that is no order, from here on in hand; none while an order waits, is in hand, or can't be written down."""
        with self._lock:
            queue = self._next_queue()
            name = next(iter(queue), None)
            if name is not None:
                del queue[name]
                self._in_hand[name] = False
            return name

    def order_done(self, name: str) -> None:
        """It is in hand no more."""
        with self._lock:
            self._orders_in_hand.discard(name)

    def order_unwritten(self, name: str) -> None:
        """It could not be written down: it is taken again after :meth:`retry`, and until then no grant is handed out."""
        with self._lock:
            self._unwritten[name] = None

    def grant_done(self, name: str) -> None:
        """The same. What was put there under that name meanwhile is looked at now."""
        with self._lock:
            if self._in_hand.pop(name, False):
                self._hints[name] = True

    def leave(self, name: str, why: HostError) -> None:
        """It could not be taken out: leave it alone until :meth:`retry`."""
        with self._lock:
            self._stuck[name] = why

    def stuck(self) -> dict[str, HostError]:
        """Files that could not be taken out, and why."""
        with self._lock:
            return dict(self._stuck)

    @property
    def idle(self) -> bool:
        """Whether no file waits or is in hand."""
        with self._lock:
            return not (self._orders_stand or self._signed or self._others or self._in_hand)

    @property
    def grants_wait(self) -> bool:
        """Whether :meth:`next_grant` has one now."""
        with self._lock:
            return bool(self._next_queue())

    @property
    def told(self) -> bool:
        """Whether names wait to be looked at, or orders to be taken."""
        with self._lock:
            return bool(self._hints or self._orders or self._again)

    @property
    def unsorted(self) -> bool:
        """Whether there is anything to look at, now or in a while."""
        with self._lock:
            return bool(self._hints) or self._look

    @property
    def _orders_stand(self) -> bool:
        return bool(self._orders or self._again or self._orders_in_hand or self._unwritten)

    def _next_queue(self) -> dict[str, None]:
        if self._orders_stand:
            return {}
        return self._signed if self._signed or self._hints else self._others

    def _is_new(self, name: str, told: bool) -> bool:
        """Whether to look at it. One that waits may be another file by now, where it was told of again."""
        with self._lock:
            if name in self._in_hand:
                self._in_hand[name] = True
            if name in self._signed or name in self._others or name in self._again:
                return told
            return not any(name in known for known in (self._orders, self._unwritten, self._stuck))

    def _kind_of(self, name: str) -> str | None:
        """The typ of a file that a trusted key signed; empty for any other; None for one to be left alone now.

        That is one still being written, whose close will be told, one in hand that is no order, and one that is gone.
        """
        if self._inbox.busy(name):
            return None
        try:
            token = self._inbox.take(name)
            kind = trust.claimed_typ(token)
            trust.verify(token, self._ring(), typ=kind)
        except RefusedError as error:
            if error.code == "file_absent":
                return None
            kind = ""
        with self._lock:
            return None if kind not in ORDERS and name in self._in_hand else kind

    def _time_to_look(self) -> bool:
        with self._lock:
            if self._hints or not self._may_look():
                return False
            self._look = False
            self._looked_ns = self._clock.boot_ns()
            return True

    def _may_look(self) -> bool:
        """Into the folder itself: when nothing else is left, and now and then in a flood, which loses events."""
        waiting = self._signed or self._others
        if len(self._others) >= _OTHERS_MAX:
            return False
        return self._look and not (waiting and self._clock.boot_ns() < self._looked_ns + LOOK_AGAIN_S * 1_000_000_000)
