"""The frame of the benchmarks: what it makes of values, how it judges, what the page says, what counts as slower."""

import copy
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frame import compare, page, plot, results
from benchmarks.frame.figure import Figure, ratio, thinned
from benchmarks.frame.row import Absent, Goal, Plot, Row, Run, judged
from benchmarks.rows import ROWS

GOALS = (Goal("20", "median", 25), Goal("20", "ratio", 1.1, against="script"))


def row(measure: Any = lambda run: None, goals: tuple[Goal, ...] = GOALS, **more: Any) -> Row:
    given = {"ways": {"tidegate": "Tidegate", "script": "at-script"}, "limits": {"20": ("script",)}, **more}
    return Row("some", "Some row", "How it is done.", measure, goals, **given)


def run_with(ours: list[float], theirs: list[float]) -> Run:
    run = Run("some")
    run.add("20", "tidegate", "ms", *ours)
    run.add("20", "script", "ms", *theirs)
    return run


def result_of(ours: list[float], theirs: list[float], **more: Any) -> results.Result:
    run = run_with(ours, theirs)
    run.part("20", "the walk of /proc", "ms", 10.0, 12.0, 11.0)
    made = results.made(row(**more), run, 3.2)
    return dict(json.loads(json.dumps(made)))


# Figures


def test_a_figure_says_median_p99_max_and_n() -> None:
    figure = Figure("ms", tuple(float(value) for value in range(1, 201)))
    assert (figure.median, figure.p99, figure.get("max")) == (100.5, 198.0, 200.0)
    assert figure.quartiles == (50.75, 150.25)
    said = figure.to_json()
    assert (said["n"], said["median"], said["p99"], said["max"]) == (200, 100.5, 198.0, 200.0)


def test_p99_of_few_values_is_the_largest() -> None:
    assert Figure("ms", (3.0, 9.0, 1.0)).p99 == 9.0


def test_what_never_happened_is_neither_a_value_nor_forgotten() -> None:
    figure = Figure("ms", (1.0, 2.0, 3.0), never=1, waited_s=60)
    assert figure.get("median") == 2.0
    assert figure.get("p99") is None
    assert figure.get("max") is None
    assert figure.to_json()["n"] == 4
    assert Figure("ms", (1.0,), never=1).get("median") is None
    assert Figure("ms", (), never=3, waited_s=60).to_json() == {"unit": "ms", "n": 3, "never": 3, "waited_s": 60.0}


def test_a_long_series_is_thinned_out_and_keeps_its_ends() -> None:
    kept = thinned([float(value) for value in range(1000)], 5)
    assert kept == [0.0, 250.0, 500.0, 749.0, 999.0]
    values = Figure("ms", tuple(float(value) for value in range(1000))).to_json()["values"]
    assert isinstance(values, list)
    assert (len(values), values[0], values[-1]) == (240, 0.0, 999.0)


def test_a_ratio_of_turns_that_were_slowed_together_has_a_narrow_interval() -> None:
    theirs = [10.0, 50.0, 12.0, 48.0, 11.0, 49.0, 10.5]
    over = ratio([2 * value for value in theirs], theirs)
    assert over is not None
    assert over.value == over.low == over.high == 2.0
    loose = ratio([20.0, 100.0, 24.0, 96.0, 22.0, 98.0], theirs)
    assert loose is not None
    assert loose.low < loose.value < loose.high


def test_a_ratio_over_nothing_or_less_is_none() -> None:
    assert ratio([1.0], []) is None
    assert ratio([1.0, 2.0], [0.0, 0.0]) is None
    assert ratio([-5.0], [1.0]) is None


# Rows


def test_ways_take_turns_and_one_that_is_absent_is_left_out() -> None:
    order: list[str] = []
    run = Run("some")

    def missing() -> None:
        raise Absent("not packaged here")

    run.turns(3, 1, {"a": lambda: order.append("a"), "gone": missing, "b": lambda: order.append("b")})
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert run.absent == {"gone": "not packaged here"}


def test_a_quick_run_has_few_turns() -> None:
    order: list[str] = []
    Run("some", quick=True).turns(30, 2, {"a": lambda: order.append("a")})
    assert order == ["a", "a"]


def test_one_figure_has_one_unit() -> None:
    run = run_with([1.0], [2.0])
    with pytest.raises(ValueError, match="s after ms"):
        run.add("20", "tidegate", "s", 1.0)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("20", "median", 20), True),
        (Goal("20", "median", 19.9), False),
        (Goal("20", "max", 30), True),
        (Goal("20", "max", 29.9), False),
        (Goal("20", "ratio", 0.5, against="script"), True),
        (Goal("20", "ratio", 0.51, against="script", least=True), False),
        (Goal("300", "median", 100), None),
        (Goal("20", "ratio", 1.0, against="nobody"), None),
    ],
)
def test_a_goal_is_met_at_its_limit_and_not_beyond(goal: Goal, met: bool | None) -> None:
    assert judged(goal, run_with([10.0, 20.0, 30.0], [40.0, 40.0, 40.0]))["met"] is met


def test_a_goal_of_what_never_happened_is_missed() -> None:
    run = Run("some")
    run.never("20", "tidegate", "ms", 5.0)
    assert judged(Goal("20", "max", 100), run)["met"] is False


# The page


def test_the_page_says_what_was_found_and_why_a_goal_was_missed() -> None:
    text = page.page([row()], {"some": result_of([30.0, 31.0, 32.0], [24.0, 25.0, 26.0])})
    assert "| [Some row](#some-row) | 20: median | at most 25 ms | 31 ms | **missed** |" in text
    assert "| [Some row](#some-row) | 20: ratio over at-script | at most 1.1 | 1.24 | **missed** |" in text
    assert "| 20 | at-script | 25 ms | 26 ms | 26 ms | 3 | 1.24 (" in text
    assert "- at-script, which nothing goes below: 25 ms (p99 26 ms, n 3), 81% of the median" in text
    assert "- the walk of /proc: 11 ms (p99 12 ms, n 3), 35% of the median" in text


def test_the_page_gives_no_reasons_for_goals_that_are_met() -> None:
    text = page.page([row()], {"some": result_of([20.0, 21.0, 22.0], [24.0, 25.0, 26.0])})
    assert "| 20: median | at most 25 ms | 21 ms | met |" in text
    assert "Why the goal is missed" not in text


def test_the_page_names_rows_and_goals_without_a_figure() -> None:
    text = page.page([row()], {})
    assert "| [Some row](#some-row) | | | | not measured |" in text
    assert "Not measured yet." in text


def test_a_peer_that_never_ended_it_is_told_as_such() -> None:
    run = run_with([20.0], [])
    run.figures["20"].pop("script")
    run.never("20", "script", "ms", 60.0)
    text = page.page([row()], {"some": json.loads(json.dumps(results.made(row(), run, 1.0)))})
    assert "| 20 | at-script |  |  | 1 not within 60 s | 1 |  |" in text


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    made = result_of([20.0, 21.0], [24.0, 25.0])
    path = results.write(made, tmp_path)
    assert results.read_all(["some", "other"], tmp_path) == {"some": made}
    assert len(path.read_text().splitlines()) > 10, "a line for each figure"


@pytest.mark.parametrize("kind", ["growth", "spread"])
def test_plots_are_well_formed_and_show_every_way(kind: str) -> None:
    cases = {
        str(number): {
            "tidegate": Figure("ms", (number * 1.0, number * 2.0)).to_json(),
            "script": Figure("ms", (5.0, 500.0)).to_json(),
        }
        for number in (10, 1000)
    }
    labels = {"tidegate": "Tidegate <1>", "script": "at & script"}
    drawn = plot.growth("T", "grants", cases, labels) if kind == "growth" else plot.spread("T", cases, labels)
    tree = ET.fromstring(drawn)
    texts = {element.text for element in tree.iter() if element.text}
    assert {"Tidegate <1>", "at & script", "ms"} <= texts
    assert drawn == (plot.growth("T", "grants", cases, labels) if kind == "growth" else plot.spread("T", cases, labels))
    for name in ("cx", "cy"):
        places = [float(element.attrib[name]) for element in tree.iter() if name in element.attrib]
        assert places
        assert all(0 <= place <= 720 for place in places)


def test_a_plot_of_nothing_is_an_empty_picture() -> None:
    assert ET.fromstring(plot.spread("T", {"a": {"b": {"unit": "ms", "n": 1, "never": 1}}}, {})).tag.endswith("svg")


def test_plots_go_into_their_folder_and_old_ones_go_away(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/gone-1.svg").write_text("")
    drawn = row(plots=(Plot("spread", "Some", ("20",)),))
    page.write([drawn], {"some": result_of([1.0], [2.0])}, tmp_path / "P.md", tmp_path / "plots")
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["some-1.svg"]
    assert "![Some](performance/some-1.svg)" in (tmp_path / "P.md").read_text()


# The comparison


def test_what_is_as_it_was_is_no_change() -> None:
    found = result_of([20.0, 21.0, 22.0], [10.0, 11.0, 12.0])
    assert compare.changes(found, copy.deepcopy(found)) == []


def test_what_became_slower_beyond_the_spread_is_told() -> None:
    before, after = result_of([20.0, 21.0, 22.0], [10.0, 10.5, 11.0]), result_of([40.0, 42.0, 44.0], [10.0, 10.5, 11.0])
    (change,) = compare.changes(before, after)
    assert change.worse
    assert str(change).startswith("slower: some, 20, over script: 2 (")
    (back,) = compare.changes(after, before)
    assert not back.worse


def test_a_higher_rate_is_no_loss() -> None:
    before, after = result_of([20.0, 21.0, 22.0], [10.0, 10.5, 11.0]), result_of([40.0, 42.0, 44.0], [10.0, 10.5, 11.0])
    assert [change.worse for change in compare.changes(before, after, more_is_better=True)] == [False]


def test_a_change_within_the_spread_or_below_a_tenth_is_noise() -> None:
    wide = result_of([10.0, 20.0, 30.0, 40.0], [10.0, 10.0, 10.0, 10.0])
    wider = result_of([15.0, 25.0, 35.0, 45.0], [10.0, 10.0, 10.0, 10.0])
    assert compare.changes(wide, wider) == []
    narrow, near = result_of([20.0] * 4, [10.0] * 4), result_of([21.5] * 4, [10.0] * 4)
    assert compare.changes(narrow, near) == []


def test_a_machine_that_is_slower_as_a_whole_is_no_regression() -> None:
    before, after = result_of([20.0, 21.0, 22.0], [10.0, 10.5, 11.0]), result_of([60.0, 63.0, 66.0], [30.0, 31.5, 33.0])
    assert compare.changes(before, after) == []


def test_a_figure_without_a_peer_is_compared_on_the_same_machine_only() -> None:
    before, after = result_of([20.0, 21.0, 22.0], []), result_of([60.0, 63.0, 66.0], [])
    for found in (before, after):
        found["cases"]["20"].pop("script", None)
        found["ratios"] = {}
    assert [change.worse for change in compare.changes(before, after)] == [True]
    after["machine"]["processor"] = "another"
    assert compare.changes(before, after) == []


# What is committed


def test_the_page_is_what_the_results_say() -> None:
    found = results.read_all(each.name for each in ROWS)
    assert page.PAGE.read_text() == page.page(ROWS, found), "run: python -m benchmarks --page"
    assert {path.name: path.read_text() for path in page.PLOTS.glob("*.svg")} == page.plots(ROWS, found)


def test_every_goal_that_is_missed_says_why() -> None:
    found = results.read_all(each.name for each in ROWS)
    assert "No part of it was measured" not in page.page(ROWS, found)


def test_rows_have_names_of_their_own_and_goals_of_ways_they_have() -> None:
    assert len({each.name for each in ROWS}) == len(ROWS)
    for each in ROWS:
        ways = {way for goal in each.goals for way in (goal.way, goal.against) if way} | {
            way for ways in each.limits.values() for way in ways
        }
        assert ways <= set(each.ways), each.name


def test_what_can_be_had_is_had_and_the_rest_is_left_out_with_its_reason() -> None:
    def none() -> str:
        raise Absent("not installed")

    run = Run("some")
    assert run.had({"copy": lambda: "made", "tlog": none}) == {"copy": "made"}
    assert run.absent == {"tlog": "not installed"}
