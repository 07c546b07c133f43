"""docs/PERFORMANCE.md and its plots, from result files and the rows' own words. No number in it is typed by hand."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.frame import plot
from benchmarks.frame.results import ROOT, Result
from benchmarks.frame.row import OURS, Row
from benchmarks.published import READ

PAGE = ROOT / "docs/PERFORMANCE.md"
PLOTS = ROOT / "docs/performance"
_HEAD = """\
# Performance

Measured side by side with what would be used instead, in turn (A B A B), on booted test hosts. Made by `make bench` from the
files in benchmarks/results; do not edit. `make bench ARGS=--compare` also says what became slower than the last committed results.

A ratio is the median of Tidegate over that of the other, from the same run; in brackets where 95 of 100 resamplings of the measured
values have it. Where *n* is below a hundred, p99 is the largest value.
"""
_VERDICTS = {True: "met", False: "**missed**", None: "not measured"}


def page(rows: Sequence[Row], results: Mapping[str, Result]) -> str:
    """The page. Rows with no result are named as such."""
    parts = [_HEAD, *_summary(rows, results)]
    for row in rows:
        parts += _section(row, results[row.name]) if row.name in results else [f"## {row.title}\n", "Not measured yet.\n"]
    return "\n".join([*parts, *_read()]).rstrip() + "\n"


def plots(rows: Sequence[Row], results: Mapping[str, Result]) -> dict[str, str]:
    """File name → SVG."""
    found = {}
    for row in rows:
        for number, each in enumerate(row.plots if row.name in results else (), 1):
            every = results[row.name]["cases"]
            cases = {case: every[case] for case in each.cases if case in every}
            drawn = plot.growth(each.title, each.axis, cases, row.ways) if each.kind == "growth" else ""
            found[_file(row, number)] = drawn or plot.spread(each.title, cases, row.ways)
    return found


def write(rows: Sequence[Row], results: Mapping[str, Result], page_path: Path = PAGE, folder: Path = PLOTS) -> None:
    """Both in place; plots of no row any more are removed."""
    folder.mkdir(exist_ok=True)
    drawn = plots(rows, results)
    for stale in folder.glob("*.svg"):
        if stale.name not in drawn:
            stale.unlink()
    for name, text in drawn.items():
        (folder / name).write_text(text)
    page_path.write_text(page(rows, results))


def _summary(rows: Sequence[Row], results: Mapping[str, Result]) -> Iterator[str]:
    yield "| | figure | goal | found | verdict |\n|---|---|---|---|---|"
    for row in rows:
        result = results.get(row.name)
        if result is None:
            yield f"| [{row.title}](#{_slug(row.title)}) | | | | not measured |"
            continue
        for goal in result["goals"]:
            cells = (_goal_name(row, goal), _limit(goal), _found(goal), _VERDICTS[goal["met"]])
            yield f"| [{row.title}](#{_slug(row.title)}) | {' | '.join(cells)} |"
    yield ""


def _section(row: Row, result: Result) -> Iterator[str]:
    yield f"## {row.title}\n"
    yield row.about + "\n"
    yield _measured_on(result) + "\n"
    yield "| case | way | median | p99 | max | n | ratio |\n|---|---|---|---|---|---|---|"
    for case, ways in result["cases"].items():
        for way, figure in ways.items():
            yield _figure_line(row, result, case, way, figure)
    yield ""
    for way, why in result["absent"].items():
        yield f"- Left out: {row.ways.get(way, way)}: {why}"
    for what, said in result["notes"].items():
        yield f"- {what}: {said}"
    yield ""
    yield from _whys(row, result)
    for number, each in enumerate(row.plots, 1):
        yield f"![{each.title}](performance/{_file(row, number)})\n"


def _measured_on(result: Result) -> str:
    machine = result["machine"]
    versions = "".join(f", {name} {version}" for name, version in result["versions"].items())
    quick = " A quick run, with few values." if result["quick"] else ""
    return (
        f"{result['date'][:10]}, commit {result['commit']}: {machine['cores']} cores ({machine['processor']}), "
        f"Linux {machine['kernel']}{versions}; load {machine['load']} when it was written, {result['took_s']} s in all.{quick}"
    )


def _figure_line(row: Row, result: Result, case: str, way: str, figure: Mapping[str, Any]) -> str:
    unit = figure["unit"]
    cells = [_number(figure[name], unit) if name in figure else "" for name in ("median", "p99", "max")]
    if figure.get("never"):
        cells[2] = f"{figure['never']} not within {figure['waited_s']:g} s"
        cells[1] = ""
    over = result["ratios"].get(case, {}).get(way)
    shown = f"{over['value']:.3g} ({over['low']:.3g} to {over['high']:.3g})" if over else ""
    return f"| {case} | {row.ways.get(way, way)} | {' | '.join(cells)} | {figure['n']} | {shown} |"


def _whys(row: Row, result: Result) -> Iterator[str]:
    """Of each case that misses a goal: what its parts take, and what no agent goes below."""
    missed: dict[str, list[Mapping[str, Any]]] = {}
    for goal in result["goals"]:
        if goal["met"] is False:
            missed.setdefault(goal["case"], []).append(goal)
    for case, goals in missed.items():
        told = "; ".join(f"{_goal_name(row, goal)} {_found(goal)}, to be {_limit(goal)}" for goal in goals)
        yield f"**Why the goal is missed** ({told}):\n"
        lines = list(_why(row, result, case))
        yield "\n".join(lines) if lines else "- No part of it was measured."
        yield ""


def _why(row: Row, result: Result, case: str) -> Iterator[str]:
    ways = result["cases"].get(case, {})
    whole = ways.get(OURS, {})
    for way in row.limits.get(case, ()):
        if "median" in ways.get(way, {}):
            yield f"- {row.ways.get(way, way)}, which nothing goes below: {_part(ways[way], whole)}"
    for what, figure in result["parts"].get(case, {}).items():
        yield f"- {what}: {_part(figure, whole)}"


def _part(figure: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    shown = f"{_number(figure['median'], figure['unit'])} (p99 {_number(figure['p99'], figure['unit'])}, n {figure['n']})"
    if whole.get("unit") == figure["unit"] and whole.get("median", 0) > 0:
        shown += f", {figure['median'] / whole['median']:.0%} of the median"
    return shown


def _read() -> Iterator[str]:
    yield "## Read, not measured\n"
    yield "What others publish of themselves, or what stands in their source. None of it was run here.\n"
    yield "| what | figure | where |\n|---|---|---|"
    yield from (f"| {each.what} | {each.figure} | {each.source} |" for each in READ)


def _goal_name(row: Row, goal: Mapping[str, Any]) -> str:
    against = f" over {row.ways.get(goal['against'], goal['against'])}" if goal["against"] else ""
    way = f", {row.ways.get(goal['way'], goal['way'])}" if goal["way"] != OURS else ""
    return f"{goal['case']}{way}: {goal['what']}{against}"


def _limit(goal: Mapping[str, Any]) -> str:
    return f"{'at least' if goal['least'] else 'at most'} {_number(goal['limit'], goal['unit'])}"


def _found(goal: Mapping[str, Any]) -> str:
    return "" if goal["found"] is None else _number(goal["found"], goal["unit"])


def _number(value: float, unit: str) -> str:
    return f"{value:,.4g} {unit}".strip() if abs(value) < 1e5 else f"{value:,.0f} {unit}".strip()


def _slug(title: str) -> str:
    return "".join(each for each in title.lower().replace(" ", "-") if each.isalnum() or each in "-_")


def _file(row: Row, number: int) -> str:
    return f"{row.name}-{number}.svg"
