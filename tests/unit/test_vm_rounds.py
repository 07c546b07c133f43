"""The rounds of `make vm`: the same seed is the same round, and together they reach everything."""

from tests.hosts.snapshot import Entry, differences
from tests.vm import clocks, execs
from tests.vm.cuts import PHASES, Cut, paths


def test_a_seed_is_a_round_and_fifty_reach_every_phase_with_both_backends_all_along() -> None:
    rounds = [Cut.of(seed) for seed in range(50)]
    assert rounds == [Cut.of(seed) for seed in range(50)]
    assert {(cut.phase, cut.seed % 2) for cut in rounds} == {(phase, which) for phase in PHASES for which in (0, 1)}
    for phase in set(PHASES):
        at = sorted(cut.at for cut in rounds if cut.phase == phase)
        assert at[0] < 0.35 and at[-1] > 0.75
        assert len({cut.after for cut in rounds if cut.phase == phase}) == 2


def test_what_differs_is_compared_by_path_and_kind_of_difference_alone() -> None:
    old, new = Entry("file", 420, 0, 0, 1, "a"), Entry("file", 420, 0, 0, 2, "b")
    lines = differences({"/etc/group": old}, {"/etc/group": new, "/run/tidegate/sudoers.d/grant-c92e7": new})
    assert paths(lines) == {"changed /etc/group", "new /run/tidegate/sudoers.d"}


def test_a_quick_run_has_a_case_of_each_kind_and_a_name_chooses() -> None:
    quick = [case.name for case in clocks.chosen(True, "")]
    assert {word for word in ("forward", "back", "pending", "power cut", "asleep") if any(word in name for name in quick)} == {
        "forward", "back", "pending", "power cut", "asleep",
    }  # fmt: skip
    assert len(clocks.chosen(False, "asleep")) >= 3
    assert {case.name for case in execs.chosen(True, "")} < {case.name for case in execs.chosen(False, "")}
    assert len(execs.chosen(False, "stalled")) == 1
