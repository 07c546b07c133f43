"""What stands behind a grant: when a missing timer refuses it, and whose timer is taken away."""

from collections.abc import Collection
from pathlib import Path
from typing import cast

import pytest

from agent.errors import HostError, UnenforceableError
from agent.expiry.behind import Behind
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.host.clock import NS, FakeClock
from agent.host.timers import DELAY_NS, properties, timer_unit
from agent.journal import Journal
from tests.unit import journal_kit
from tests.unit.expiry_kit import live


class FakeTimers:
    """Timers in a set."""

    def __init__(self, absent: str = "", broken: bool = False) -> None:
        self.absent = absent
        self.broken = broken
        self.set: set[str] = set()

    def arm(self, name: str, wall_ns: int, left_ns: int) -> str:
        assert left_ns > 0
        assert wall_ns > left_ns
        if self.broken:
            raise HostError("systemd_refused", "no")
        self.set.add(name)
        return name

    def disarm(self, names: Collection[str]) -> None:
        if self.broken:
            raise HostError("systemd_refused", "no")
        self.set -= set(names)

    def standing(self) -> set[str]:
        return set(self.set)


class Kit:
    def __init__(self, path: Path, word: str, timers: FakeTimers) -> None:
        self.clock, self.timers = FakeClock(), timers
        self.ledger, self.journal = Ledger(self.clock), Journal(path / "state.db")
        self.behind = Behind(word, timers, self.journal, self.ledger, self.clock)

    def grant(self, number: int, lasts_s: int = 600):  # type: ignore[no-untyped-def]
        made = live(self.clock, number, lasts_s=lasts_s, uids={f"jit-{number}": 70000 + number})
        self.ledger.add(made)
        return made


@pytest.mark.parametrize(
    ("word", "absent", "broken", "opens"),
    [
        ("auto", "", False, True),
        ("auto", "", True, False),
        ("auto", "no systemd", False, True),
        ("required", "no systemd", False, False),
        ("required", "", True, False),
        ("best-effort", "", True, True),
        ("best-effort", "no systemd", False, True),
    ],
)
def test_a_grant_without_its_timer_opens_only_where_the_configuration_says_so(
    tmp_path: Path, word: str, absent: str, broken: bool, opens: bool
) -> None:
    kit = Kit(tmp_path, word, FakeTimers(absent, broken))
    made = kit.grant(1)
    if not opens:
        with pytest.raises(UnenforceableError, match="backstop_unavailable"):
            kit.behind.arm(made)
        return
    kit.behind.arm(made)
    note = cast(dict[str, list[str]], made.notes["backstops"])
    assert bool(note["stood"]) == (not absent and not broken)
    assert bool(note["absent"]) == (bool(absent) or broken)


def test_grants_of_one_second_share_a_timer_and_the_last_takes_it_away(tmp_path: Path) -> None:
    kit = Kit(tmp_path, "auto", FakeTimers())
    first, second, later = kit.grant(1), kit.grant(2), kit.grant(3, lasts_s=601)
    for made in (first, second, later):
        kit.behind.arm(made)
    assert len(kit.timers.set) == 2
    kit.ledger.ended(first)
    kit.behind.disarm([first])
    assert len(kit.timers.set) == 2
    kit.ledger.ended(second)
    kit.behind.disarm([second])
    assert len(kit.timers.set) == 1


def test_nothing_is_raised_for_what_is_open_or_over(tmp_path: Path) -> None:
    kit = Kit(tmp_path, "required", FakeTimers(broken=True))
    made = kit.grant(1)
    kit.behind.arm_again(made)
    kit.behind.disarm([made])


def test_a_note_that_cannot_be_written_keeps_no_grant_from_its_timer(tmp_path: Path) -> None:
    kit = Kit(tmp_path, "auto", FakeTimers())
    kit.journal.close()
    made = kit.grant(1)
    with pytest.raises(Exception, match="closed"):
        kit.journal.live()
    kit.behind.arm(made)
    assert kit.timers.set


def test_a_timer_is_due_on_both_clocks_a_moment_after_the_deadline() -> None:
    wall = journal_kit.WALL * NS
    made = dict(cast(list[tuple[str, tuple[str, object]]], properties(wall, 5 * NS)))
    assert made["TimersCalendar"] == ("a(ss)", [("OnCalendar", "2027-01-15 08:00:00.025000 UTC")])
    assert made["TimersMonotonic"] == ("a(st)", [("OnActiveSec", (5 * NS + DELAY_NS) // 1000)])
    assert made["RemainAfterElapse"] == ("b", False)


def test_a_timers_name_is_two_numbers_and_nothing_else() -> None:
    assert timer_unit("1-2") == "tidegate-backstop@1-2.timer"
    for bad in ("", "1", "a-b", "1-2/../x"):
        with pytest.raises(ValueError, match="not a timer"):
            timer_unit(bad)


def test_a_timer_of_a_start_that_was_killed_goes_with_the_others_of_its_second(tmp_path: Path) -> None:
    kit = Kit(tmp_path, "auto", FakeTimers())
    first, second = kit.grant(1, 600), kit.grant(2, 700)
    for grant in (first, second):
        kit.behind.arm(grant)
    (kept,) = kit.timers.set - {kit_name(first)}
    kit.timers.set.add(f"{kit_name(first).partition('-')[0]}-7")
    kit.behind.disarm([first])
    assert kit.timers.set == {kept}


def kit_name(live: LiveGrant) -> str:
    return f"{live.deadline.wall_ns // NS}-{live.deadline.boot_ns // NS}"


def test_a_start_takes_away_the_timers_of_no_live_grant(tmp_path: Path) -> None:
    """Killed between a grant's end and its timer's, or after setting one for another second of the boot clock."""
    kit = Kit(tmp_path, "auto", FakeTimers())
    stands = kit.grant(1)
    kit.behind.arm(stands)
    needed = set(kit.timers.set)
    kit.timers.set |= {"1700000000-12", next(iter(needed)).partition("-")[0] + "-7"}
    kit.behind.tidy()
    assert kit.timers.set == needed
    kit.timers.broken = True
    kit.behind.tidy()
