"""The timer fires on time on either clock. No test here sets a clock: that of the whole machine would be set."""

import ctypes
import errno
import os
import select
import time
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host import clock as clocks
from agent.host.clock import NS, Clock, DeadlineTimer, FakeClock, Mark, RealClock, _began_ns, rfc3339

MS = 1_000_000


def wait(timer: DeadlineTimer, timeout_s: float) -> list[int]:
    return select.select(list(timer.descriptors), [], [], timeout_s)[0]


@pytest.mark.parametrize("which", [0, 1])
def test_it_wakes_within_milliseconds_of_the_time_and_never_before(which: int) -> None:
    clock, timer = RealClock(), DeadlineTimer()
    late: list[int] = []
    for _ in range(10):
        looks = clock.wall_ns if which == 0 else clock.boot_ns
        at = looks() + 15 * MS
        timer.arm(*((at, None) if which == 0 else (None, at)))
        assert wait(timer, 5) == [timer.descriptors[which]]
        late.append(looks() - at)
        assert not timer.acknowledge()
    timer.close()
    assert min(late) >= 0
    assert sorted(late)[5] < 10 * MS, f"median {sorted(late)[5] / MS:.3f} ms"


@pytest.mark.parametrize("ago", [1, 10**6, 10**12])
def test_a_time_that_has_passed_wakes_at_once(ago: int) -> None:
    clock, timer = RealClock(), DeadlineTimer()
    timer.arm(clock.wall_ns() - ago, clock.boot_ns() - ago)
    assert len(wait(timer, 1)) == 2
    timer.arm(-5, 0)
    assert len(wait(timer, 1)) == 2
    timer.close()


def test_arming_anew_replaces_what_was_armed_and_acknowledging_quiets_it() -> None:
    clock, timer = RealClock(), DeadlineTimer()
    timer.arm(clock.wall_ns() + 5 * MS, clock.boot_ns() + 5 * MS)
    timer.arm(None, None)
    assert wait(timer, 0.03) == []
    timer.arm(1, 1)
    assert wait(timer, 1)
    assert not timer.acknowledge()
    assert wait(timer, 0) == []
    assert not timer.acknowledge(), "with nothing to read too"
    timer.close()


def test_a_far_deadline_is_not_taken_for_a_past_one() -> None:
    timer = DeadlineTimer()
    timer.arm(9_000_000_000 * NS, (1 << 62) - 1)
    assert wait(timer, 0.02) == []
    timer.close()


class SettingClock:
    """A libc whose timerfd calls fail with this errno."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.armed: list[int] = []

    def timerfd_settime(self, descriptor: int, *_: object) -> int:
        self.armed.append(descriptor)
        ctypes.set_errno(self.code)
        return -1

    def timerfd_create(self, *_: object) -> int:
        ctypes.set_errno(self.code)
        return -1


def test_a_clock_set_just_before_arming_still_arms_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel arms the timer and says ECANCELED (fs/timerfd.c, timerfd_setup)."""
    timer, libc = DeadlineTimer(), SettingClock(errno.ECANCELED)
    with monkeypatch.context() as patch:
        patch.setattr(clocks, "_libc", libc)
        timer.arm(1, 1)
    assert libc.armed == list(timer.descriptors)
    timer.close()


def test_a_clock_that_was_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = DeadlineTimer()

    def canceled(descriptor: int, _: int) -> bytes:
        raise OSError(errno.ECANCELED if descriptor == timer.descriptors[0] else errno.EAGAIN, "set")

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", canceled)
        assert timer.acknowledge()
    timer.close()


def test_a_kernel_without_the_timer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = DeadlineTimer()
    with monkeypatch.context() as patch:
        patch.setattr(clocks, "_libc", SettingClock(errno.EMFILE))
        for act in (DeadlineTimer, lambda: timer.arm(1, 1)):
            with pytest.raises(HostError) as caught:
                act()
            assert caught.value.code == "timer_unavailable"
    timer.close()


def test_descriptors_are_given_back_and_not_inherited() -> None:
    timer = DeadlineTimer()
    assert not any(os.get_inheritable(descriptor) for descriptor in timer.descriptors)
    timer.close()
    for descriptor in timer.descriptors:
        with pytest.raises(OSError):
            os.fstat(descriptor)


def test_the_real_clocks_go_forward_and_name_this_boot() -> None:
    clock: Clock = RealClock()
    assert abs(clock.wall_ns() - time.time_ns()) < NS
    assert clock.boot_ns() <= clock.boot_ns()
    assert len(clock.boot_id()) == 36 and clock.boot_id() == RealClock().boot_id()


def test_the_fake_clock_does_what_clocks_do() -> None:
    clock = FakeClock()
    before = (clock.wall_ns(), clock.boot_ns(), clock.boot_id())
    clock.advance(1.5)
    clock.step(-10)
    assert (clock.wall_ns(), clock.boot_ns()) == (before[0] - 8_500 * MS, before[1] + 1_500 * MS)
    clock.reboot()
    assert clock.boot_ns() < before[1] and clock.boot_id() != before[2]


@pytest.mark.parametrize(
    ("wall_ns", "text"),
    [(0, "1970-01-01T00:00:00.000000Z"), (1_800_000_000 * NS + 1999, "2027-01-15T08:00:00.000001Z")],
)
def test_times_are_shown_in_utc_and_never_rounded_up(wall_ns: int, text: str) -> None:
    assert rfc3339(wall_ns) == text


def test_in_a_container_the_boot_clock_is_the_machines_and_a_new_boot_counts_from_its_own_start(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(f"1 (a b) c) S 0 1 1 0 -1 {'0 ' * 13}360000 0 0\n")
    hour = _began_ns(stat)
    assert hour == 360000 * NS // os.sysconf("SC_CLK_TCK")

    class Container(FakeClock):
        def up_ns(self) -> int:
            return self.boot_ns() - hour

    clock = Container(boot_ns=hour + 5 * NS)
    assert Mark(7 * NS, "another boot", 0).wall_now_ns(clock) == 12 * NS
    assert Mark(7 * NS, clock.boot_id(), hour).wall_now_ns(clock) == 12 * NS
    assert 0 <= RealClock().up_ns() <= RealClock().boot_ns()
