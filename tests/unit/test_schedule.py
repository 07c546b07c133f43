"""Alarms: each once, never before its time on both clocks, never after the earlier of the two."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.expiry.schedule import Act, Alarm, Schedule

SHUT = Alarm(Act.SHUT, 1)


@pytest.mark.parametrize(("wall", "boot"), [(100, 0), (0, 50), (100, 50)])
def test_an_alarm_on_both_clocks_fires_once_on_the_first_and_never_on_the_second(wall: int, boot: int) -> None:
    schedule = Schedule()
    schedule.add(SHUT, wall_ns=100, boot_ns=50)
    assert schedule.due(99, 49) == []
    assert schedule.due(wall, boot) == [SHUT]
    assert schedule.due(1000, 1000) == []
    assert (schedule.next(), len(schedule)) == ((None, None), 0)


def test_what_is_left_of_an_alarm_on_the_other_clock_is_not_taken_for_a_later_setting() -> None:
    schedule = Schedule()
    schedule.add(SHUT, wall_ns=100, boot_ns=50)
    assert schedule.due(0, 50) == [SHUT]
    schedule.add(SHUT, wall_ns=500)
    assert schedule.next() == (500, None)
    assert schedule.due(499, 10**9) == []
    assert schedule.due(500, 0) == [SHUT]


def test_setting_an_alarm_again_moves_it() -> None:
    schedule = Schedule()
    schedule.add(SHUT, wall_ns=100)
    schedule.add(SHUT, boot_ns=300)
    assert schedule.next() == (None, 300)
    assert schedule.due(10**9, 299) == []
    assert schedule.due(0, 300) == [SHUT]


def test_what_is_forgotten_never_fires_and_the_others_do() -> None:
    schedule = Schedule()
    other = Alarm(Act.WARN, 2, 60)
    schedule.add(SHUT, wall_ns=10, boot_ns=10)
    schedule.add(Alarm(Act.OPEN, 1), wall_ns=5)
    schedule.add(other, wall_ns=20)
    schedule.forget(1)
    schedule.forget(7)
    assert schedule.next() == (20, None)
    assert schedule.due(100, 100) == [other]


def test_it_knows_how_many_are_set_whatever_became_of_them() -> None:
    schedule = Schedule()
    for grant in range(50):
        schedule.add(Alarm(Act.SHUT, grant), wall_ns=100 + grant, boot_ns=100 + grant)
        schedule.add(Alarm(Act.SHUT, grant), wall_ns=200 + grant)  # moved: still one
        schedule.add(Alarm(Act.WARN, grant, 60), boot_ns=50)
    assert len(schedule) == 100
    schedule.forget(7)
    schedule.forget(7)
    assert len(schedule) == 98
    assert len(schedule.due(0, 60)) == 49
    assert len(schedule) == 49


def test_alarms_of_one_clock_come_in_the_order_of_time() -> None:
    schedule = Schedule()
    for at in (30, 10, 20):
        schedule.add(Alarm(Act.WARN, 1, at), wall_ns=at)
    assert [alarm.note for alarm in schedule.due(100, 0)] == [10, 20, 30]


def test_grants_revoked_long_before_their_end_do_not_pile_up() -> None:
    schedule = Schedule()
    for grant_id in range(20_000):
        schedule.add(Alarm(Act.SHUT, grant_id), wall_ns=10**18 + grant_id, boot_ns=10**18)
        schedule.forget(grant_id)
    assert len(schedule._wall) + len(schedule._boot) < 2000
    assert schedule.next() == (None, None)


times = st.integers(0, 60)
alarms = st.builds(Alarm, st.sampled_from(Act), st.integers(1, 3), st.integers(0, 1))


class ScheduleMachine(RuleBasedStateMachine):
    """Against a dict: what is set, and for when."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule()
        self.set: dict[Alarm, tuple[int | None, int | None]] = {}
        self.wall = self.boot = 0

    @rule(
        act=st.sampled_from(Act), grant_id=st.integers(1, 3), note=st.integers(0, 1), wall=times | st.none(), boot=times | st.none()
    )
    def add(self, act: Act, grant_id: int, note: int, wall: int | None, boot: int | None) -> None:
        alarm = Alarm(act, grant_id, note)
        self.schedule.add(alarm, wall_ns=wall, boot_ns=boot)
        self.set[alarm] = (wall, boot)

    @rule(grant_id=st.integers(1, 3))
    def forget(self, grant_id: int) -> None:
        self.schedule.forget(grant_id)
        self.set = {alarm: at for alarm, at in self.set.items() if alarm.grant_id != grant_id}

    @rule(seconds=st.integers(1, 20))
    def pass_time(self, seconds: int) -> None:
        self.wall += seconds
        self.boot += seconds

    @rule(to=times)
    def set_the_clock(self, to: int) -> None:
        self.wall = to

    @precondition(lambda self: self.set)
    @rule()
    def fire(self) -> None:
        fired = self.schedule.due(self.wall, self.boot)
        assert len(fired) == len(set(fired)), "each once"
        assert set(fired) == {alarm for alarm in self.set if self._due(alarm)}, "all that is due on either clock, and nothing else"
        for alarm in fired:
            del self.set[alarm]

    @invariant()
    def the_timer_wakes_in_time_and_for_a_reason(self) -> None:
        wall, boot = self.schedule.next()
        assert wall == min((at for at, _ in self.set.values() if at is not None), default=None)
        assert boot == min((at for _, at in self.set.values() if at is not None), default=None)
        assert len(self.schedule) == len(self.set)

    def _due(self, alarm: Alarm) -> bool:
        wall, boot = self.set[alarm]
        return (wall is not None and wall <= self.wall) or (boot is not None and boot <= self.boot)


ScheduleMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_any_sequence_of_alarms_and_clocks = ScheduleMachine.TestCase


@given(st.lists(st.tuples(times, times), max_size=200))
def test_compaction_loses_no_alarm(pairs: list[tuple[int, int]]) -> None:
    schedule = Schedule()
    for number, (wall, boot) in enumerate(pairs * 5):
        schedule.add(Alarm(Act.SHUT, number % max(1, len(pairs))), wall_ns=wall, boot_ns=boot)
    assert len(schedule.due(60, 60)) == len(pairs)
