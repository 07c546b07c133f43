"""Who may do what to a live grant now: suspend it, resume it, drain it, put another in its place. One claim at a time."""

import threading
from collections.abc import Callable

from agent.expiry.deadline import Deadline
from agent.expiry.freshness import Freshness
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act, Alarm, Schedule
from agent.host.clock import NS, Clock
from agent.journal import EndCause, GrantState

WARNINGS_S = (300, 60, 1)  # the last so that the reason is on the screen before the terminal is gone
RETRY_MOST_MS = 60_000
RETRY_ALIVE_MOST_MS = 1000  # while a process of it lives: what a fork bomb gets between two attempts
STAND_AGAIN = frozenset({GrantState.OPEN, GrantState.SUSPENDED})


class Claims:
    """The part of :class:`agent.expiry.ledger.Ledger` that is about grants between their opening and their end."""

    def __init__(self, clock: Clock, rearm: Callable[[], None]) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._live: dict[int, LiveGrant] = {}
        self._schedule = Schedule()
        self.freshness = Freshness(clock)
        self.rearm = rearm

    def begin_suspending(self, grants: list[LiveGrant]) -> list[LiveGrant]:
        """OPEN → SUSPENDED for those that stand; a suspended one is claimed again. One whose end has begun is left to that."""
        with self._lock:
            claimed = [
                live
                for live in grants
                if live.id in self._live and not live.shutting and not live.suspending and live.state in STAND_AGAIN
            ]
            for live in claimed:
                live.state, live.suspending = GrantState.SUSPENDED, True
            return claimed

    def suspended(self, live: LiveGrant, *, again: bool = False) -> None:
        """Its doors are shut and its processes dead, or (``again``) something is left and it is to be tried once more in a second.

        A bulletin that came meanwhile is looked at now: who brought it found the grant busy.
        """
        with self._lock:
            live.suspending = False
            if live.id in self._live and live.state is GrantState.SUSPENDED:
                act, wait_ms = (Act.SUSPEND, RETRY_ALIVE_MOST_MS) if again else (Act.RESUME, 0)
                self._schedule.add(Alarm(act, live.id), boot_ns=self._clock.boot_ns() + wait_ms * 1_000_000)
        self.rearm()

    def begin_replacing(self, live: LiveGrant) -> bool:
        """Claim one that is open, or waits, for the grant that takes its place. False when anything else is happening to it."""
        with self._lock:
            free = live.id in self._live and not (live.shutting or live.opener or live.cancel or live.drain)
            live.shutting = live.shutting or (free and live.state in {GrantState.OPEN, GrantState.PENDING})
            return free and live.shutting

    def give_back(self, live: LiveGrant) -> None:
        """It was claimed, and nothing came of it: its end, should it have come meanwhile, is due now."""
        with self._lock:
            live.shutting = False
            if live.id in self._live:
                self._schedule.add(Alarm(Act.SHUT, live.id), wall_ns=live.deadline.wall_ns, boot_ns=live.deadline.boot_ns)
        self.rearm()

    def begin_draining(self, live: LiveGrant, until: Deadline, text: str) -> bool:
        """One that stands open is to end by then, or sooner if it was to already. False for any other."""
        with self._lock:
            if live.id not in self._live or live.shutting or live.state is not GrantState.OPEN:
                return False
            live.drain = min(until, live.drain or until, key=lambda found: found.remaining_ns(self._clock))
            live.cause, live.cause_text = EndCause.REVOKED, live.cause_text or text
            self.set_drain(live)
        self.rearm()
        return True

    def set_drain(self, live: LiveGrant) -> None:
        """Set the alarm that ends it, and what its tenants are told before, if it is being drained."""
        if live.drain is None:
            return
        self._schedule.add(Alarm(Act.DRAINED, live.id), wall_ns=live.drain.wall_ns, boot_ns=live.drain.boot_ns)
        self.warn_before(live, live.drain)

    def warn_before(self, live: LiveGrant, end: Deadline) -> None:
        """Set the first warning that is still to come before that end."""
        left_ns = end.remaining_ns(self._clock)
        first = next((seconds for seconds in WARNINGS_S if left_ns > seconds * NS), None)
        if first is not None:
            self._warn_at(live, end, first)

    def warn_next(self, live: LiveGrant, after_s: int) -> None:
        """One was given: set the one after it. One at a time, or ten thousand grants would have thirty thousand alarms."""
        following = next((seconds for seconds in WARNINGS_S if seconds < after_s), None)
        if following is not None:
            self._warn_at(live, live.drain or live.deadline, following)

    def _warn_at(self, live: LiveGrant, end: Deadline, seconds: int) -> None:
        wall_ns, boot_ns = end.wall_ns - seconds * NS, end.boot_ns - seconds * NS
        self._schedule.add(Alarm(Act.WARN, live.id, seconds), wall_ns=wall_ns, boot_ns=boot_ns)

    def begin_resuming(self, live: LiveGrant) -> bool:
        """SUSPENDED → OPENING, unless its end has come first or it is still being closed. The caller's thread is its opener."""
        with self._lock:
            busy = live.shutting or live.suspending or live.state is not GrantState.SUSPENDED or live.drain
            if live.id not in self._live or busy:
                return False
            live.state, live.opener = GrantState.OPENING, True
            return True

    def stay_suspended(self, live: LiveGrant, *, retry: bool) -> None:
        """OPENING → SUSPENDED: it could not be opened again, or only what it stands on was put back."""
        with self._lock:
            live.state, live.opener = GrantState.SUSPENDED, False
            if retry and live.id in self._live:
                self._schedule.add(Alarm(Act.RESUME, live.id), boot_ns=self._clock.boot_ns() + RETRY_MOST_MS * 1_000_000 // 10)
        self.rearm()

    def watch_freshness(self) -> None:
        """Set anew when each open grant's bulletin is too old: one has come."""
        with self._lock:
            for live in self._live.values():
                self.watch_freshness_of(live)
        self.rearm()

    def watch_freshness_of(self, live: LiveGrant) -> None:
        """The same for one; nothing where it needs none."""
        if live.fresh_within_s is None or live.state is not GrantState.OPEN:
            return
        until = self.freshness.until(live.record.iss, live.fresh_within_s)
        if until is None:
            self._schedule.add(Alarm(Act.SUSPEND, live.id), boot_ns=0)
        else:
            self._schedule.add(Alarm(Act.SUSPEND, live.id), wall_ns=until.wall_ns, boot_ns=until.boot_ns)


def read_drain(live: LiveGrant, clock: Clock, last_wall_ns: int) -> None:
    """What was ordered before the agent stopped; a note that can't be read says that its time is over."""
    found = live.notes.get("drain")
    if found is None:
        return
    value = found if isinstance(found, dict) else {}
    wall_ns, boot_ns, boot_id = value.get("wall_ns"), value.get("boot_ns"), value.get("boot_id")
    whole = isinstance(wall_ns, int) and isinstance(boot_ns, int) and isinstance(boot_id, str)
    held = Deadline(wall_ns, boot_ns, boot_id) if whole else Deadline(0, 0, clock.boot_id())  # type: ignore[arg-type]  # just looked at
    live.drain = held.in_this_boot(clock, last_wall_ns)
    live.cause, live.cause_text = live.cause or EndCause.REVOKED, live.cause_text or str(value.get("text", ""))
