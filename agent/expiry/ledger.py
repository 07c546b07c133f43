"""The live grants in memory, and the alarms that go with them. The journal is the truth on disk; this is what acts on it."""

import threading
from collections.abc import Callable, Iterator

from agent.expiry.deadline import Deadline
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act, Alarm, Schedule
from agent.host.clock import NS, Clock
from agent.journal import GrantRecord, GrantState, Journal

WARNINGS_S = (300, 60, 1)  # the last so that the reason is on the screen before the terminal is gone
SWEEPS_MS = (250, 1000, 5000)
RETRY_FIRST_MS = 250
RETRY_MOST_MS = 60_000


class Ledger:
    """Every grant that is not ended. Thread-safe; ``rearm`` is called, from any thread, when the next alarm may have changed."""

    def __init__(self, clock: Clock, rearm: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._live: dict[int, LiveGrant] = {}
        self._schedule = Schedule()
        self._swept: dict[int, dict[int, str]] = {}
        self.rearm = rearm

    def load(self, journal: Journal) -> list[LiveGrant]:
        """At start: take every live grant from the journal, its deadline carried over a reboot; returns them."""
        for record in journal.live():
            steps = [(found.seq, found.step) for found in journal.steps(record.id)]
            deadline = Deadline(record.exp * NS, record.boot_deadline_ns, record.boot_id)
            live = LiveGrant(record, deadline.in_this_boot(self._clock, journal.last_wall_ns()), record.state, steps)
            live.uids = dict(record.uids)
            live.opened_ns = record.opened_ns
            live.cause, live.cause_text, live.attempts = record.cause, record.cause_text, record.attempts
            self.add(live)
        return self.all()

    def add(self, live: LiveGrant) -> None:
        """Hold a grant and set its end (and its beginning, when that is to come)."""
        with self._lock:
            self._live[live.id] = live
            self._schedule.add(Alarm(Act.SHUT, live.id), wall_ns=live.deadline.wall_ns, boot_ns=live.deadline.boot_ns)
            if live.state is GrantState.PENDING:
                self._schedule.add(Alarm(Act.OPEN, live.id), wall_ns=live.record.nbf * NS)
        self.rearm()

    def opened(self, live: LiveGrant, opened_ns: int) -> None:
        """It stands open: set the warnings that are still to come."""
        with self._lock:
            live.state = GrantState.OPEN
            live.opened_ns = opened_ns
            for seconds in WARNINGS_S:
                at_ns = live.deadline.wall_ns - seconds * NS
                if at_ns > opened_ns:
                    self._schedule.add(Alarm(Act.WARN, live.id, seconds), wall_ns=at_ns)
        self.rearm()

    def ended(self, live: LiveGrant) -> None:
        """Let go of it, and look again at what it leaves at +0.25, +1 and +5 s."""
        with self._lock:
            self._live.pop(live.id, None)
            self._schedule.forget(live.id)
            if live.tenants:
                self._swept[live.id] = live.tenants
                now = self._clock.boot_ns()
                for delay in SWEEPS_MS:
                    self._schedule.add(Alarm(Act.SWEEP, live.id, delay), boot_ns=now + delay * 1_000_000)
        self.rearm()

    def retry(self, live: LiveGrant) -> int:
        """It would not end: try again, waiting twice as long each time up to a minute. Returns the wait in ms."""
        wait_ms: int = min(RETRY_FIRST_MS * 2 ** min(live.attempts, 16), RETRY_MOST_MS)
        with self._lock:
            # Numbered, so that what is left of the first alarm on the other clock is not taken for this one.
            alarm = Alarm(Act.SHUT, live.id, live.attempts)
            self._schedule.add(alarm, boot_ns=self._clock.boot_ns() + wait_ms * 1_000_000)
        self.rearm()
        return wait_ms

    def take_due(self) -> list[Alarm]:
        """Alarms that are due on either clock; each is handed out once."""
        with self._lock:
            return self._schedule.due(self._clock.wall_ns(), self._clock.boot_ns())

    def next_wake(self) -> tuple[int | None, int | None]:
        """The next wall and boot time to wake at."""
        with self._lock:
            return self._schedule.next()

    def to_sweep(self, alarm: Alarm) -> dict[int, str]:
        """The former tenants (uid → login) a sweep alarm is about; the last one forgets them."""
        with self._lock:
            last = alarm.note == SWEEPS_MS[-1]
            return (self._swept.pop if last else self._swept.get)(alarm.grant_id, {})

    def get(self, grant_id: int) -> LiveGrant | None:
        """The live grant of that id."""
        with self._lock:
            return self._live.get(grant_id)

    def all(self) -> list[LiveGrant]:
        """All of them, in the order they came."""
        with self._lock:
            return sorted(self._live.values(), key=lambda live: live.id)

    def where(self, test: Callable[[GrantRecord], bool]) -> Iterator[LiveGrant]:
        """Those whose record passes."""
        return (live for live in self.all() if test(live.record))

    def begin_opening(self, live: LiveGrant) -> bool:
        """PENDING → OPENING, unless its end has come first."""
        with self._lock:
            if live.id not in self._live or live.state is not GrantState.PENDING or live.cause:
                return False
            live.state = GrantState.OPENING
            return True

    def postpone_opening(self, live: LiveGrant) -> None:
        """OPENING → PENDING: nothing was done, since it could not be written down; try again in a while."""
        with self._lock:
            live.state = GrantState.PENDING
            self._schedule.add(Alarm(Act.OPEN, live.id), boot_ns=self._clock.boot_ns() + RETRY_MOST_MS * 1_000_000 // 10)
        self.rearm()

    def begin_shutting(self, grants: list[LiveGrant]) -> list[LiveGrant]:
        """Claim grants for teardown. One that is just being opened is asked to undo itself instead; one claimed is left out."""
        with self._lock:
            claimed = []
            for live in grants:
                if live.id not in self._live or live.shutting:
                    continue
                if live.state is GrantState.OPENING and live.opener:
                    live.cancel = True
                    continue
                live.shutting = True
                live.state = GrantState.SHUTTING
                claimed.append(live)
            return claimed
