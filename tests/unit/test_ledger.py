"""The live grants: whoever races whom, each is shut, once, and no alarm is lost."""

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.errors import JournalError
from agent.expiry.claims import RETRY_ALIVE_MOST_MS, RETRY_MOST_MS
from agent.expiry.ledger import ASK_AGAIN_MS, MARK_S, SWEEPS_MS, Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act, Alarm
from agent.host.clock import NS, FakeClock, Mark
from agent.host.lent import Lent
from agent.journal import EndCause, GrantState, Journal
from agent.model import Phase
from agent.model.lent import to_json
from tests.unit.expiry_kit import ALICE, live
from tests.unit.journal_kit import grant, plan, step

MS = 1_000_000


def acts(alarms: list[Alarm]) -> list[tuple[Act, int]]:
    return [(alarm.act, alarm.grant_id) for alarm in alarms if alarm.act is not Act.MARK]


class Scene:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.rearmed = 0
        self.ledger = Ledger(self.clock, self._rearm)

    def _rearm(self) -> None:
        self.rearmed += 1

    def put(self, grant_id: int = 1, **more: object) -> LiveGrant:
        found = live(self.clock, grant_id, **more)  # type: ignore[arg-type]
        self.ledger.add(found)
        return found

    def due(self) -> list[tuple[Act, int]]:
        return acts(self.ledger.take_due())


def test_a_grant_warns_at_five_minutes_and_at_one_and_ends_once() -> None:
    scene = Scene()
    found = scene.put()
    scene.ledger.opened(found, scene.clock.wall_ns())
    happened = []
    for second in range(601):
        happened += [(second, alarm.act, alarm.note) for alarm in scene.ledger.take_due() if alarm.act is not Act.MARK]
        scene.clock.advance(1)
    assert happened == [(300, Act.WARN, 300), (540, Act.WARN, 60), (599, Act.WARN, 1), (600, Act.SHUT, 0)]


@pytest.mark.parametrize("step", [-5000, 0])
def test_a_clock_set_back_moves_neither_the_warnings_nor_the_end(step: int) -> None:
    scene = Scene()
    scene.ledger.opened(scene.put(), scene.clock.wall_ns())
    scene.clock.step(step)
    scene.clock.advance(540)
    assert scene.due() == [(Act.WARN, 1), (Act.WARN, 1)]
    scene.clock.advance(59)
    assert scene.due() == [(Act.WARN, 1)]
    scene.clock.advance(1)
    assert scene.due() == [(Act.SHUT, 1)]


def test_a_grant_opened_by_a_clock_set_forward_and_back_ends_by_its_lifetime() -> None:
    scene = Scene()
    found = live(scene.clock, lasts_s=7200, state=GrantState.PENDING)
    found.record = replace(found.record, nbf=found.record.exp - 60)
    scene.ledger.add(found)
    scene.clock.step(7200 - 60)
    assert scene.due() == [(Act.OPEN, 1)]
    assert scene.ledger.begin_opening(found)
    scene.clock.step(-7200)
    scene.clock.advance(59)
    assert scene.due() == []
    scene.clock.advance(1)
    assert scene.due() == [(Act.SHUT, 1)]


def test_a_clock_set_back_just_as_its_time_came_lets_a_grant_wait_for_it_again() -> None:
    scene = Scene()
    found = live(scene.clock, state=GrantState.PENDING)
    scene.ledger.add(found)
    assert scene.due() == [(Act.OPEN, 1)]
    scene.clock.step(-5)
    assert scene.ledger.wait_for_nbf(found)
    scene.clock.advance(4)
    assert scene.due() == []
    scene.clock.advance(1)
    assert scene.due() == [(Act.OPEN, 1)]
    assert not scene.ledger.wait_for_nbf(found)


def test_a_grant_to_come_is_opened_at_its_time_unless_it_was_ended_before() -> None:
    scene = Scene()
    scene.put(state=GrantState.PENDING)
    later = scene.put(2, state=GrantState.PENDING)
    assert scene.due() == [(Act.OPEN, 1), (Act.OPEN, 2)]
    assert scene.ledger.begin_shutting([later]) == [later]
    assert not scene.ledger.begin_opening(later)


def test_from_the_moment_it_is_being_opened_its_end_goes_to_its_opener() -> None:
    """Else a teardown finds no step in it yet, and what is opened after that stands for ever."""
    scene = Scene()
    found = scene.put(state=GrantState.PENDING)
    assert scene.ledger.begin_opening(found)
    assert scene.ledger.begin_shutting([found]) == []
    assert found.cancel and not found.shutting
    assert not scene.ledger.begin_opening(found)


def test_an_opening_that_was_asked_to_undo_itself_is_asked_again_until_it_answers() -> None:
    scene = Scene()
    found = scene.put(state=GrantState.PENDING)
    scene.ledger.begin_opening(found)
    scene.clock.advance(600)
    assert (Act.SHUT, 1) in scene.due()
    for _ in range(3):
        assert scene.ledger.begin_shutting([found]) == []
        assert scene.due() == []
        scene.clock.advance(ASK_AGAIN_MS / 1000)
        assert scene.due() == [(Act.SHUT, 1)]
    found.opener = False
    assert scene.ledger.begin_shutting([found]) == [found]


def test_a_teardown_is_claimed_by_one_of_many_threads_and_again_after_its_retry() -> None:
    scene = Scene()
    found = scene.put()
    claims: list[int] = []
    gate = threading.Barrier(8)

    def shut() -> None:
        gate.wait()
        claims.extend(each.id for each in scene.ledger.begin_shutting([found]))

    threads = [threading.Thread(target=shut) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claims == [1]
    found.attempts = 1
    scene.ledger.retry(found)
    assert scene.ledger.begin_shutting([found]) == [found]


def test_an_opening_that_is_finished_after_its_end_began_does_not_bring_it_back() -> None:
    scene = Scene()
    found = scene.put(state=GrantState.OPENING)
    scene.ledger.begin_shutting([found])
    scene.ledger.opened(found, scene.clock.wall_ns())
    assert found.state is GrantState.SHUTTING
    scene.ledger.ended(found)
    scene.ledger.opened(found, scene.clock.wall_ns())
    assert (found.state, scene.ledger.all()) == (GrantState.ENDED, [])
    scene.clock.advance(3600)
    assert {act for act, _ in scene.due()} == {Act.SWEEP}


@pytest.mark.parametrize(("alive", "most"), [(False, RETRY_MOST_MS), (True, RETRY_ALIVE_MOST_MS)])
def test_retries_come_at_growing_distances_and_one_at_a_time(alive: bool, most: int) -> None:
    scene = Scene()
    found = scene.put()
    scene.clock.advance(600)
    scene.due()
    waits = []
    for attempt in range(1, 40):
        found.attempts, found.alive = attempt, alive
        waits.append(scene.ledger.retry(found))
        scene.clock.advance((waits[-1] - 1) / 1000)
        assert scene.due() == []
        scene.clock.advance(0.0011)
        assert scene.due() == [(Act.SHUT, 1)]
    assert waits[0] == 250 and waits == sorted(waits) and waits[-1] == most


def test_after_the_end_its_tenants_are_looked_for_three_times_and_then_forgotten() -> None:
    scene = Scene()
    found = scene.put()
    scene.ledger.ended(found)
    scene.ledger.ended(found)
    seen = []
    for _ in range(700):
        seen += [(alarm.note, scene.ledger.to_sweep(alarm)) for alarm in scene.ledger.take_due() if alarm.act is Act.SWEEP]
        scene.clock.advance(0.01)
    assert seen == [(delay, {ALICE: "jit-alice"}) for delay in SWEEPS_MS]
    assert scene.ledger.to_sweep(Alarm(Act.SWEEP, 1, SWEEPS_MS[-1])) == {}


def test_a_sweep_spares_a_newer_grant_of_the_same_login() -> None:
    """One that follows on the second, as a renewal does: its sshd would carry the login that the sweep looks for."""
    scene = Scene()
    old = scene.put()
    scene.ledger.ended(old)
    scene.put(2, uids={"jit-alice": ALICE + 1})
    scene.clock.advance(0.25)
    (alarm,) = [alarm for alarm in scene.ledger.take_due() if alarm.act is Act.SWEEP]
    assert scene.ledger.to_sweep(alarm) == {ALICE: ""}
    scene.put(3, uids={"jit-carol": ALICE})
    assert scene.ledger.to_sweep(alarm) == {}


def test_what_is_over_is_neither_shut_nor_retried() -> None:
    scene = Scene()
    found = scene.put(uids={})
    scene.ledger.ended(found)
    assert scene.ledger.begin_shutting([found]) == []
    scene.ledger.retry(found)
    scene.clock.advance(10**6)
    assert scene.due() == []
    assert list(scene.ledger.where(lambda _: True)) == [] and scene.ledger.get(1) is None


def test_whoever_changes_the_next_alarm_has_the_timer_armed_again() -> None:
    scene = Scene()
    found = scene.put()
    acting: list[Callable[[], object]] = [
        lambda: scene.ledger.opened(found, scene.clock.wall_ns()),
        lambda: scene.ledger.begin_shutting([found]),
        lambda: scene.ledger.retry(found),
        lambda: scene.ledger.ended(found),
    ]
    for act in acting:
        before = scene.rearmed
        act()
        assert scene.rearmed > before


def test_how_late_it_is_is_asked_for_once_a_minute_while_anything_is_live() -> None:
    scene = Scene()
    assert scene.ledger.next_wake() == (None, None)
    found = scene.put(uids={})
    for _ in range(3):
        scene.clock.advance(MARK_S)
        assert Act.MARK in {alarm.act for alarm in scene.ledger.take_due()}
    scene.ledger.ended(found)
    scene.clock.advance(MARK_S)
    scene.ledger.take_due()
    assert scene.ledger.next_wake() == (None, None)


# Over restarts and reboots, with the real journal


def open_one(journal: Journal, clock: FakeClock, lasts_s: int = 600, *, pending: bool = False, jti: str = "g-1") -> None:
    exp = clock.wall_ns() // NS + lasts_s
    given = grant(jti, exp=exp)
    boot = (clock.boot_id(), clock.boot_ns() + lasts_s * NS)
    planned = plan(uids={"jit-alice": ALICE})
    planned_now = None if pending else planned
    record = journal.accept(given, token=b"t", summary="", rule="", received_ns=clock.wall_ns(), boot=boot, plan=planned_now)
    if not pending:
        journal.opened(record.id, clock.wall_ns())


def test_a_restart_finds_every_grant_with_its_steps_its_uids_and_its_deadline(journal: Journal) -> None:
    clock = FakeClock()
    open_one(journal, clock)
    (found,) = Ledger(clock).load(journal)
    assert (found.state, found.uids, len(found.steps)) == (GrantState.OPEN, {"jit-alice": ALICE}, 3)
    assert found.deadline.remaining_ns(clock) == 600 * NS


@pytest.mark.parametrize("pending", [False, True])
def test_restarts_after_a_reboot_with_the_clock_set_back_win_nothing(journal: Journal, pending: bool) -> None:
    """An open grant's deadline is journaled when it stands again (agent.recovery), every other's at once."""
    clock = FakeClock()
    open_one(journal, clock, pending=pending)
    clock.advance(300)
    Ledger(clock).load(journal)
    journal.mark(Mark.now(clock, clock.wall_ns()))
    clock.reboot()
    clock.step(-3600)
    for start in range(3):
        (found,) = Ledger(clock).load(journal)
        assert not found.deadline.passed(clock)
        if start == 0:
            carried = journal.grant(found.id).boot_id == clock.boot_id()
            assert carried == pending, "one that was open would be taken for standing"
        if not pending:
            journal.carry([(found.id, found.deadline.boot_id, found.deadline.boot_ns)])
        clock.advance(99)
    clock.advance(3)
    (found,) = Ledger(clock).load(journal)
    assert found.deadline.passed(clock), "300 s before the reboot and 300 s after it"


def test_an_opening_that_could_not_be_written_down_is_tried_again_or_shut() -> None:
    scene = Scene()
    found = scene.put(state=GrantState.PENDING)
    scene.due()
    assert scene.ledger.begin_opening(found)
    scene.ledger.postpone_opening(found)
    scene.clock.advance(6)
    assert scene.due() == [(Act.OPEN, 1)]
    assert scene.ledger.begin_opening(found)
    scene.ledger.begin_shutting([found])
    scene.ledger.postpone_opening(found)
    assert not scene.ledger.begin_opening(found), "its end was asked for meanwhile"
    scene.clock.advance(ASK_AGAIN_MS / 1000)
    assert (Act.SHUT, 1) in scene.due()
    assert scene.ledger.begin_shutting([found]) == [found]


def test_reboots_one_after_the_other_with_the_clock_set_back_win_only_what_was_not_marked(journal: Journal) -> None:
    clock = FakeClock()
    open_one(journal, clock)
    lived = 0
    for _ in range(50):
        ledger = Ledger(clock)
        (found,) = ledger.load(journal)
        if found.deadline.passed(clock):
            break
        clock.advance(30)
        lived += 30
        ledger.mark(journal)
        clock.reboot()
        clock.step(-40)
    assert lived <= 600


def test_a_power_cut_with_the_clock_set_back_costs_what_was_not_marked_and_a_boots_own_time_is_counted(journal: Journal) -> None:
    clock = FakeClock()
    open_one(journal, clock)
    clock.advance(100)
    Ledger(clock).load(journal)  # marks
    clock.advance(MARK_S - 1)
    clock.reboot()
    clock.step(-3600)
    (found,) = Ledger(clock).load(journal)
    assert found.deadline.remaining_ns(clock) == 500 * NS - clock.boot_ns()


def test_a_power_cut_right_after_a_clock_set_forward_opened_it_leaves_no_more_than_its_lifetime(journal: Journal) -> None:
    """The clock is set back as well, and no mark was written since: when it opened is journaled, and is one."""
    clock = FakeClock()
    open_one(journal, clock, lasts_s=7200)
    with journal._db.transaction() as db:
        db.execute("UPDATE grants SET opened_ns=?", (clock.wall_ns() + 7140 * NS,))
    clock.reboot()
    (found,) = Ledger(clock).load(journal)
    assert found.deadline.remaining_ns(clock) == 60 * NS - clock.boot_ns()


def test_a_clock_that_was_years_ahead_once_cuts_short_no_later_grant_at_a_reboot(journal: Journal) -> None:
    clock = FakeClock()
    open_one(journal, clock)
    clock.step(10 * 365 * 86400)
    (found,) = Ledger(clock).load(journal)
    assert found.deadline.passed(clock)
    journal.shutting([(found.id, "")], EndCause.EXPIRED)
    journal.ended(found.id, clock.wall_ns(), residue=0, receipt=("r", "jws"))
    clock.step(-10 * 365 * 86400)
    open_one(journal, clock, jti="g-2")
    clock.advance(60)
    Ledger(clock).load(journal)
    clock.reboot()
    (found,) = Ledger(clock).load(journal)
    assert found.deadline.remaining_ns(clock) == 540 * NS - clock.boot_ns()


def test_a_journal_that_cant_be_written_at_start_still_holds_every_deadline(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    open_one(journal, clock)
    clock.advance(10)
    clock.reboot()

    def full(*_: object) -> None:
        raise JournalError("journal_failed", "database or disk is full")

    monkeypatch.setattr(journal, "carry", full)
    ledger = Ledger(clock)
    (found,) = ledger.load(journal)
    assert found.deadline.remaining_ns(clock) == 590 * NS
    assert ledger.next_wake()[0] == found.deadline.wall_ns


class LedgerMachine(RuleBasedStateMachine):
    """Opening, shutting, failing and ending in any order, the clock doing what it likes; a model of who must be asked when."""

    ids = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = Ledger(self.clock)
        self.known: dict[int, LiveGrant] = {}
        self.ended: set[int] = set()
        self.claimed: set[int] = set()
        self.count = 0

    @rule(pending=st.booleans(), lasts=st.integers(1, 400))
    def add(self, pending: bool, lasts: int) -> None:
        self.count += 1
        state = GrantState.PENDING if pending else GrantState.OPENING
        found = live(self.clock, self.count, lasts_s=lasts, state=state)
        found.opener = not pending
        self.known[found.id] = found
        self.ledger.add(found)

    @rule(pick=ids)
    def begin_opening(self, pick: int) -> None:
        if found := self._pick(pick):
            self.ledger.begin_opening(found)

    @rule(pick=ids)
    def opening_is_done(self, pick: int) -> None:
        if (found := self._pick(pick)) and found.opener:
            self.ledger.opened(found, self.clock.wall_ns())
            if found.cancel:
                self.shut(pick)

    @rule(pick=ids)
    def shut(self, pick: int) -> None:
        if found := self._pick(pick):
            self._claim([found])

    @rule(pick=ids, alive=st.booleans())
    def attempt_fails(self, pick: int, alive: bool) -> None:
        if (found := self._pick(pick)) and found.id in self.claimed:
            found.attempts, found.alive = found.attempts + 1, alive
            self.claimed.discard(found.id)
            self.ledger.retry(found)

    @rule(pick=ids)
    def attempt_succeeds(self, pick: int) -> None:
        if (found := self._pick(pick)) and found.id in self.claimed:
            self.claimed.discard(found.id)
            self.ended.add(found.id)
            self.ledger.ended(found)

    @rule(seconds=st.integers(0, 100), step=st.integers(-200, 50))
    def time(self, seconds: int, step: int) -> None:
        self.clock.advance(seconds)
        self.clock.step(step)
        alarms = self.ledger.take_due()
        assert len(alarms) == len(set(alarms))
        assert self.ledger.take_due() == [], "each once"
        for alarm in alarms:
            assert alarm.act is Act.SWEEP or alarm.grant_id not in self.ended
        self._claim([self.known[alarm.grant_id] for alarm in alarms if alarm.act is Act.SHUT])

    @invariant()
    def whatever_is_live_is_being_shut_or_has_an_alarm_that_will_ask_for_it(self) -> None:
        for found in self.known.values():
            alarms = self.ledger._schedule._set.get(found.id, {})
            asked = any(alarm.act is Act.SHUT for alarm in alarms)
            assert asked or found.id in self.ended | self.claimed, f"{found.id} would never be shut"

    @invariant()
    def each_is_claimed_by_one(self) -> None:
        for found in self.known.values():
            assert found.shutting == (found.id in self.claimed) or found.id in self.ended
        assert {found.id for found in self.ledger.all()} == set(self.known) - self.ended

    def _claim(self, grants: list[LiveGrant]) -> None:
        for found in self.ledger.begin_shutting(grants):
            assert found.id not in self.claimed | self.ended
            assert not (found.opener and found.state is GrantState.OPENING)
            self.claimed.add(found.id)

    def _pick(self, pick: int) -> LiveGrant | None:
        return self.known.get(self.count - pick + 1)


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_no_order_of_events_loses_an_end_or_shuts_twice = LedgerMachine.TestCase


def test_causes_are_left_to_whoever_shuts() -> None:
    scene = Scene()
    found = scene.put()
    found.cause = EndCause.REVOKED
    assert not scene.ledger.begin_opening(found)


def test_a_grant_that_only_lent_something_is_swept_after_too_and_forgotten_with_the_last() -> None:
    clock, lent = FakeClock(), Lent("deploy", 1000, gids=frozenset({60}))
    ledger, made = Ledger(clock), live(clock, uids={})
    made.steps = [(0, replace(step(0, Phase.CLOSE), data={"lent": to_json(lent)}))]
    ledger.add(made)
    assert [each.gids for each in ledger.lent()] == [lent.gids]
    assert ledger.begin_shutting([made]) and ledger.lent() == ()
    ledger.ended(made)
    clock.advance(6)
    sweeps = [alarm for alarm in ledger.take_due() if alarm.act is Act.SWEEP]
    found = [[each.uid for each in ledger.lent_to_sweep(alarm)] for alarm in sorted(sweeps, key=lambda alarm: alarm.note)]
    assert found == [[1000]] * 3
    assert ledger.lent_to_sweep(sweeps[0]) == ()
