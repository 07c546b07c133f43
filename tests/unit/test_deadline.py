"""A grant's end on two clocks: nothing done to either lengthens it."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.expiry.deadline import Deadline
from agent.host.clock import NS, FakeClock, Mark

START = 1_800_000_000
LASTS_S = 600


def test_it_passes_at_its_second_and_not_a_nanosecond_before() -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.advance(LASTS_S)
    assert deadline.passed(clock) and deadline.remaining_ns(clock) == 0
    early = FakeClock(wall_ns=START * NS + LASTS_S * NS - 1, boot_ns=1000 * NS + LASTS_S * NS - 1)
    assert not deadline.passed(early) and deadline.remaining_ns(early) == 1


@given(st.integers(-(10**6), -1), st.integers(0, LASTS_S - 1))
def test_a_clock_set_back_never_lengthens_it(step: int, at: int) -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.advance(at)
    clock.step(step)
    clock.advance(LASTS_S - at)
    assert deadline.passed(clock)


@given(st.integers(1, 10**6))
def test_a_clock_set_forward_ends_it_early_never_late(step: int) -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.step(step)
    assert deadline.passed(clock) == (step >= LASTS_S)
    clock.advance(max(0, LASTS_S - step))
    assert deadline.passed(clock)


class SlowClock(FakeClock):
    """A thread that is held up for a second between any two looks."""

    def wall_ns(self) -> int:
        found = super().wall_ns()
        self.advance(1)
        return found

    def boot_ns(self) -> int:
        found = super().boot_ns()
        self.advance(1)
        return found


def test_a_thread_held_up_between_the_two_clocks_makes_it_end_early_never_late() -> None:
    clock = SlowClock()
    offset = START * NS - 1000 * NS
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    assert deadline.boot_ns + offset <= deadline.wall_ns
    clock.reboot()
    rebooted = deadline.in_this_boot(clock, 0)
    assert rebooted.wall_ns - FakeClock.wall_ns(clock) >= rebooted.boot_ns - FakeClock.boot_ns(clock)


@given(st.integers(-(10**6), 10**6))
def test_over_a_reboot_nothing_is_won_by_setting_the_clock(step: int) -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.advance(500)
    last_wall_ns = clock.wall_ns()
    clock.reboot()
    clock.step(step)
    again = deadline.in_this_boot(clock, last_wall_ns)
    assert again.remaining_ns(clock) <= 100 * NS
    clock.advance(100)
    assert again.passed(clock)


def test_in_the_same_boot_it_stays_what_it_is() -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.step(-1000)
    assert deadline.in_this_boot(clock, 10**30) is deadline


def test_how_late_it_is_is_known_though_the_clock_was_set_back() -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.advance(100)
    clock.step(-5000)
    assert deadline.latest_wall_ns(clock) == (START + 100) * NS
    clock.step(9000)
    assert deadline.latest_wall_ns(clock) == clock.wall_ns()


@given(st.integers(0, 10**6), st.integers(-(10**6), 10**6))
def test_a_grant_that_waited_lives_no_longer_than_its_lifetime_whatever_the_clock_did_meanwhile(waits: int, back: int) -> None:
    """Set forward, its time comes early; set back then, more than its lifetime is left by the boot clock of when it came in."""
    clock, nbf = FakeClock(), START + waits
    deadline = Deadline.starting_now(nbf + LASTS_S, clock)
    clock.step(waits)
    opened = deadline.opening_now(nbf, clock)
    clock.step(back)
    clock.advance(LASTS_S)
    assert opened.passed(clock) and opened.boot_ns <= deadline.boot_ns


def test_a_clock_set_back_in_the_moment_of_opening_wins_nothing() -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    clock.step(-5000)
    assert Deadline.starting_now(START + LASTS_S, clock).opening_now(START, clock).boot_ns == deadline.boot_ns
    assert deadline.opening_now(START, clock) == deadline


def test_how_long_it_has_passed_is_told_by_the_clock_that_says_more_and_how_far_one_was_moved() -> None:
    clock = FakeClock()
    deadline = Deadline.starting_now(START + LASTS_S, clock)
    assert (deadline.overdue_ns(clock), deadline.moved_ns(clock)) == (0, 0)
    clock.advance(LASTS_S + 5)
    assert (deadline.overdue_ns(clock), deadline.moved_ns(clock)) == (5 * NS, 0)
    clock.step(-3600)
    assert (deadline.overdue_ns(clock), deadline.moved_ns(clock)) == (5 * NS, -3600 * NS)
    clock.step(2 * 3600)
    assert (deadline.overdue_ns(clock), deadline.moved_ns(clock)) == (3605 * NS, 3600 * NS)


def test_a_mark_goes_on_by_the_boot_clock_in_its_boot_and_from_the_start_of_another() -> None:
    clock = FakeClock()
    mark = Mark.now(clock, clock.wall_ns())
    clock.advance(7)
    clock.step(-3600)
    assert mark.wall_now_ns(clock) == (START + 7) * NS
    clock.reboot()
    assert mark.wall_now_ns(clock) == START * NS + clock.boot_ns()


class DeadlineMachine(RuleBasedStateMachine):
    """Steps, suspends, reboots and restarts, the mark being written before each end: the machine's own time decides."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.deadline = Deadline.starting_now(START + LASTS_S, self.clock)
        self.lived_s = 0
        self.mark = self.clock.wall_ns()

    @rule(seconds=st.integers(0, 200))
    def run_for(self, seconds: int) -> None:
        self.clock.advance(seconds)
        self.lived_s += seconds

    @rule(seconds=st.integers(-2000, 300))
    def set_the_clock(self, seconds: int) -> None:
        self.clock.step(seconds)

    @rule(off=st.integers(0, 100), step=st.integers(-2000, 300))
    def reboot(self, off: int, step: int) -> None:
        self.mark = max(self.mark, self.deadline.latest_wall_ns(self.clock))
        self.clock.advance(off)
        self.clock.reboot()
        self.clock.step(step)
        self.restart()

    @rule()
    def restart(self) -> None:
        self.deadline = self.deadline.in_this_boot(self.clock, self.mark)

    @invariant()
    def never_longer_than_it_was_granted_for(self) -> None:
        assert self.lived_s < LASTS_S or self.deadline.passed(self.clock)


DeadlineMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
test_no_sequence_of_steps_reboots_and_restarts_lengthens_a_grant = DeadlineMachine.TestCase
