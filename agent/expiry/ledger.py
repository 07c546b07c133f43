"""The live grants in memory, and the alarms that go with them. The journal is the truth on disk; this is what acts on it."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator

from agent.errors import JournalError
from agent.expiry.claims import RETRY_ALIVE_MOST_MS, RETRY_MOST_MS, STAND_AGAIN, Claims, read_drain
from agent.expiry.deadline import Deadline
from agent.expiry.kept_steps import KeptSteps
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act, Alarm
from agent.host.clock import NS, Clock, Mark
from agent.host.lent import Lent
from agent.host.memory import uncollected
from agent.journal import EndCause, GrantRecord, GrantState, Journal

log = logging.getLogger("tidegate")
SWEEPS_MS = (250, 1000, 5000)
RETRY_FIRST_MS = 250
ASK_AGAIN_MS = 250
MARK_S = 10  # what a power cut may cost in truth, where the clock is set back too
LOOK_S = 3600
_HOST = 0  # alarms that are about no grant
_ASK_AGAIN = -1


class Ledger(Claims):
    """Every grant that is not ended. Thread-safe; ``rearm`` is called, from any thread, when the next alarm may have changed."""

    def __init__(self, clock: Clock, rearm: Callable[[], None] = lambda: None) -> None:
        super().__init__(clock, rearm)
        # Held while a grant becomes live, and while an order is written down and claims what it means: none slips between.
        self.coming_in = threading.Lock()
        self._swept: dict[int, dict[int, str]] = {}
        self._lent_swept: dict[int, tuple[Lent, ...]] = {}
        self._marking = False
        self._look_ns: int | None = None

    def load(self, journal: Journal) -> list[LiveGrant]:
        """At start: take every live grant from the journal, its deadline carried over a reboot; returns them."""
        carried = self.read(journal)
        try:
            # Or each restart, with the wall clock set back, would give the grant again what was left of it at the reboot.
            journal.carry(carried)
            journal.orders.anchor(self.freshness.all())
            self.mark(journal)
        except JournalError as error:
            log.error("deadlines hold until the next restart, but could not be written down: %s", error)
        return self.all()

    def read(self, journal: Journal) -> list[tuple[int, str, int]]:
        """Take them from the journal and write nothing; returns the deadlines to be carried over, as Journal.carry takes them."""
        with uncollected():
            return self._read(journal)

    def _read(self, journal: Journal) -> list[tuple[int, str, int]]:
        mark = journal.last_mark() or Mark(0)
        self.freshness.load(journal.orders.bulletins(), mark.wall_now_ns(self._clock))
        carried: list[tuple[int, str, int]] = []
        for found in journal.standing():
            record = found.record
            seen = (mark, Mark(record.received_ns), Mark(record.opened_ns or 0))
            least_ns = max(each.wall_now_ns(self._clock) for each in seen)
            deadline = Deadline(record.exp * NS, record.boot_deadline_ns, record.boot_id).in_this_boot(self._clock, least_ns)
            if deadline.boot_id != record.boot_id and record.state not in STAND_AGAIN:  # those when they stand again
                carried.append((record.id, deadline.boot_id, deadline.boot_ns))
            live = LiveGrant(record, deadline, record.state, KeptSteps(found.steps))
            live.uids, live.notes = dict(record.uids), found.notes
            live.opened_ns, live.fresh_within_s = record.opened_ns, record.fresh_within_s
            live.cause, live.cause_text, live.attempts = record.cause, record.cause_text, record.attempts
            read_drain(live, self._clock, least_ns)
            self.add(live)
        return carried

    def mark(self, journal: Journal) -> None:
        """Write down how late it is, by whichever clock is later: after a reboot with the clock set back nothing gains by it."""
        latest_ns = max([self._clock.wall_ns(), *(live.deadline.latest_wall_ns(self._clock) for live in self.all())])
        journal.mark(Mark.now(self._clock, latest_ns))

    def add(self, live: LiveGrant) -> None:
        """Hold a grant and set its end (and its beginning, when that is to come)."""
        with self._lock:
            self._live[live.id] = live
            self._schedule.add(Alarm(Act.SHUT, live.id), wall_ns=live.deadline.wall_ns, boot_ns=live.deadline.boot_ns)
            if live.state is GrantState.PENDING:
                self._schedule.add(Alarm(Act.OPEN, live.id), wall_ns=live.record.nbf * NS)
            if not self._marking:
                self._mark_later()
        self.rearm()

    def opened(self, live: LiveGrant, opened_ns: int) -> None:
        """It stands open: set the first warning still to come. One whose end has begun meanwhile stays as it is."""
        self.stand([(live, opened_ns)])

    def stand(self, grants: Iterable[tuple[LiveGrant, int]]) -> None:
        """The same for many, each with when it was opened (wall clock, ns); the timer is armed once for all."""
        with self._lock:
            for live, opened_ns in grants:
                live.opener = False
                live.opened_ns = opened_ns
                if live.shutting or live.id not in self._live:
                    continue
                live.state = GrantState.OPEN
                self.watch_freshness_of(live)
                if live.drain:
                    self.set_drain(live)
                else:
                    self.warn_before(live, live.deadline)
        self.rearm()

    def ended(self, live: LiveGrant) -> None:
        """Let go of it, and look again at what it leaves at +0.25, +1 and +5 s."""
        with self._lock:
            live.state = GrantState.ENDED
            if self._live.pop(live.id, None) is None:
                return  # told twice: the sweeps are set
            self._schedule.forget(live.id)
            if live.tenants or live.lent:
                self._swept[live.id], self._lent_swept[live.id] = live.tenants, live.lent
                now = self._clock.boot_ns()
                for delay in SWEEPS_MS:
                    self._schedule.add(Alarm(Act.SWEEP, live.id, delay), boot_ns=now + delay * 1_000_000)
        self.rearm()

    def retry(self, live: LiveGrant) -> int:
        """It would not end: let it be claimed again, and try again. Returns the wait in ms.

        The wait doubles each time, up to a minute; up to a second while a process of the tenant lives.
        """
        most_ms = RETRY_ALIVE_MOST_MS if live.alive else RETRY_MOST_MS
        wait_ms: int = min(RETRY_FIRST_MS * 2 ** min(max(0, live.attempts - 1), 16), most_ms)
        with self._lock:
            live.shutting = False
            if live.id in self._live:
                alarm = Alarm(Act.SHUT, live.id, live.attempts)
                self._schedule.add(alarm, boot_ns=self._clock.boot_ns() + wait_ms * 1_000_000)
        self.rearm()
        return wait_ms

    def look_again(self, in_s: int = LOOK_S) -> None:
        """Have former tenants' UIDs looked at again so late from now, unless that is set for an earlier time."""
        with self._lock:
            at_ns = self._clock.boot_ns() + in_s * NS
            if self._look_ns is None or at_ns < self._look_ns:
                self._look_ns = at_ns
                self._schedule.add(Alarm(Act.LOOK, _HOST), boot_ns=at_ns)
        self.rearm()

    def take_due(self) -> list[Alarm]:
        """Alarms that are due on either clock; each is handed out once."""
        with self._lock:
            found: list[Alarm] = []
            while due := self._schedule.due(self._clock.wall_ns(), self._clock.boot_ns()):
                found += due
                for alarm in due:
                    if alarm.act is Act.WARN and (live := self._live.get(alarm.grant_id)):
                        self.warn_next(live, alarm.note)
            if any(alarm.act is Act.MARK for alarm in found):
                self._mark_later()
            if any(alarm.act is Act.LOOK for alarm in found):
                self._look_ns = None
            return found

    def next_wake(self) -> tuple[int | None, int | None]:
        """The next wall and boot time to wake at."""
        with self._lock:
            return self._schedule.next()

    def to_sweep(self, alarm: Alarm) -> dict[int, str]:
        """The former tenants (uid → login) a sweep alarm is about; the last one forgets them.

        A login that a newer grant has by now is left out (empty): its sessions are that grant's.
        """
        with self._lock:
            last = alarm.note == SWEEPS_MS[-1]
            former = (self._swept.pop if last else self._swept.get)(alarm.grant_id, {})
            logins = {login for live in self._live.values() for login in (*live.uids, *live.record.logins)}
            uids = {uid for live in self._live.values() for uid in live.tenants}
            return {uid: "" if login in logins else login for uid, login in former.items() if uid not in uids}

    def lent_to_sweep(self, alarm: Alarm) -> tuple[Lent, ...]:
        """What the ended grant of a sweep alarm had lent; the last one forgets it."""
        with self._lock:
            last = alarm.note == SWEEPS_MS[-1]
            return (self._lent_swept.pop if last else self._lent_swept.get)(alarm.grant_id, ())

    def lent(self) -> tuple[Lent, ...]:
        """What all grants lend that go on: none that is ending, undoes itself or is suspended."""
        over = GrantState.SHUTTING, GrantState.SUSPENDED
        with self._lock:
            going_on = (live for live in self._live.values() if not (live.shutting or live.cancel or live.state in over))
            return tuple(lent for live in going_on for lent in live.lent)

    def get(self, grant_id: int) -> LiveGrant | None:
        """The live grant of that id."""
        with self._lock:
            return self._live.get(grant_id)

    def all(self) -> list[LiveGrant]:
        """All of them, in the order they came."""
        with self._lock:
            return [self._live[grant_id] for grant_id in sorted(self._live)]

    def overdue(self) -> list[LiveGrant]:
        """Those past their deadline that somebody may still get in by, or lives on in."""
        late = [live for live in self.all() if live.steps and live.deadline.passed(self._clock)]
        return [live for live in late if live.doors_ns is None or live.last_process_ns is None or live.alive]

    def by_uid(self) -> dict[int, LiveGrant]:
        """Whose each account is that a live grant has made."""
        return {uid: live for live in self.all() for uid in live.tenants}

    def where(self, test: Callable[[GrantRecord], bool]) -> Iterator[LiveGrant]:
        """Those whose record passes."""
        return (live for live in self.all() if test(live.record))

    def begin_opening(self, live: LiveGrant) -> bool:
        """PENDING → OPENING, unless its end has come first. The caller's thread is its opener from here on.

        Both in one: between the two, a teardown would claim it with no step in it yet, and what is then opened would stand.
        Its lifetime begins now, so its end may move nearer on the boot clock; the caller writes the new one down.
        """
        with self._lock:
            if live.id not in self._live or live.state is not GrantState.PENDING or live.cause or live.cancel:
                return False
            live.state = GrantState.OPENING
            live.opener = True
            live.deadline = live.deadline.opening_now(live.record.nbf, self._clock)
            self._schedule.add(Alarm(Act.SHUT, live.id), wall_ns=live.deadline.wall_ns, boot_ns=live.deadline.boot_ns)
        self.rearm()
        return True

    def wait_for_nbf(self, live: LiveGrant) -> bool:
        """Whether its time is still to come: the clock was set back just as it came. It is called again then."""
        with self._lock:
            if live.record.nbf * NS <= self._clock.wall_ns() or live.state is not GrantState.PENDING:
                return False
            if live.id in self._live:
                self._schedule.add(Alarm(Act.OPEN, live.id), wall_ns=live.record.nbf * NS)
        self.rearm()
        return True

    def begin_standing_again(self, live: LiveGrant) -> bool:
        """OPEN → OPENING after a reboot, unless its end has come first."""
        with self._lock:
            if live.id not in self._live or live.state is not GrantState.OPEN or live.shutting:
                return False
            live.state = GrantState.OPENING
            live.opener = True
            return True

    def postpone_opening(self, live: LiveGrant) -> None:
        """OPENING → PENDING: nothing was done, since it could not be written down; try again in a while."""
        with self._lock:
            live.opener = False
            live.state = GrantState.PENDING
            if live.id in self._live:
                self._schedule.add(Alarm(Act.OPEN, live.id), boot_ns=self._clock.boot_ns() + RETRY_MOST_MS * 1_000_000 // 10)
        self.rearm()

    def begin_shutting(self, grants: list[LiveGrant], cause: EndCause = EndCause.EXPIRED, text: str = "") -> list[LiveGrant]:
        """Claim grants for teardown. One that is just being opened is asked to undo itself instead; one claimed is left out.

        One that was claimed to be replaced keeps the cause of an order: who claimed it looks at that, and ends it.
        """
        with self._lock:
            claimed = []
            for live in grants:
                if live.id not in self._live:
                    continue
                if live.shutting:
                    if live.state is not GrantState.SHUTTING and cause is not EndCause.EXPIRED:  # claimed to be replaced
                        live.cause, live.cause_text = live.cause or cause, live.cause_text or text
                    continue
                if live.state is GrantState.OPENING and live.opener:
                    live.cancel = True
                    live.cause, live.cause_text = live.cause or cause, live.cause_text or text
                    self._ask_again(live)  # the alarm that brought us here is spent, and there may be no other
                    continue
                live.shutting = True
                live.state = GrantState.SHUTTING
                claimed.append(live)
        self.rearm()
        return claimed

    def _ask_again(self, live: LiveGrant) -> None:
        self._schedule.add(Alarm(Act.SHUT, live.id, _ASK_AGAIN), boot_ns=self._clock.boot_ns() + ASK_AGAIN_MS * 1_000_000)

    def _mark_later(self) -> None:
        """Every few seconds, as long as anything is live."""
        self._marking = bool(self._live)
        if self._marking:
            self._schedule.add(Alarm(Act.MARK, _HOST), boot_ns=self._clock.boot_ns() + MARK_S * NS)
