"""Plots as SVG, from result files: lines over a growing host, and every value of several ways side by side.

A writer of our own, since two kinds of picture are all that is wanted: a plotting library brings numpy, or scripts and random
identifiers that would make another file of the same numbers. The same result gives the same bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 210, 36, 46
_COLOURS = ("#0b6e4f", "#c8553d", "#3d5a9e", "#8d6a9f", "#7a7a7a", "#c99700")
_DECADE = 10
Ways = Mapping[str, Mapping[str, Any]]


def growth(title: str, axis: str, cases: Mapping[str, Ways], labels: Mapping[str, str]) -> str:
    """Medians over the number that each case begins with, with a bar from quartile to quartile; both axes logarithmic."""
    points: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for case, ways in cases.items():
        for way, figure in ways.items():
            if figure.get("median", 0) > 0:
                points.setdefault(way, []).append((float(case.split()[0]), figure))
    every = [point for line in points.values() for point in line]
    if not every:
        return _whole(title, [])
    x = _scale([at for at, _ in every], _LEFT, _WIDTH - _RIGHT)
    y = _scale([max(low, 1e-6) for _, figure in every for low in figure["quartiles"]], _HEIGHT - _BOTTOM, _TOP)
    drawn = [*_axis_y(y, every[0][1]["unit"]), *_axis_x(x, sorted({at for at, _ in every}), axis)]
    for place, (way, line) in enumerate(points.items()):
        line.sort(key=lambda point: point[0])
        colour = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{x.at(at):.1f},{y.at(figure['median']):.1f}" for at, figure in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for at, figure in line:
            low, high = (y.at(max(value, 1e-6)) for value in figure["quartiles"])
            drawn.append(_line(x.at(at), low, x.at(at), high, colour))
            drawn.append(f'<circle cx="{x.at(at):.1f}" cy="{y.at(figure["median"]):.1f}" r="3.5" fill="{colour}"/>')
        drawn += _named(place, labels.get(way, way), colour)
    return _whole(title, drawn)


def spread(title: str, cases: Mapping[str, Ways], labels: Mapping[str, str]) -> str:
    """Each value as a dot, in columns by case, the ways beside each other; the median a bar; the axis logarithmic."""
    ways = list(dict.fromkeys(way for found in cases.values() for way in found))
    values = [value for found in cases.values() for figure in found.values() for value in figure.get("values", ()) if value > 0]
    if not values:
        return _whole(title, [])
    y = _scale(values, _HEIGHT - _BOTTOM, _TOP)
    unit = next(figure["unit"] for found in cases.values() for figure in found.values())
    drawn, width = _axis_y(y, unit), (_WIDTH - _LEFT - _RIGHT) / max(1, len(cases))
    for column, (case, found) in enumerate(cases.items()):
        left, step = _LEFT + column * width, width / (len(ways) + 1)
        drawn.append(_text(left + width / 2, _HEIGHT - _BOTTOM + 18, case, "middle"))
        for way, figure in found.items():
            place = ways.index(way)
            middle, colour = left + (place + 1) * step, _COLOURS[place % len(_COLOURS)]
            positive = [value for value in figure.get("values", ()) if value > 0]
            for number, value in enumerate(positive):
                aside = ((number * 7) % 11 - 5) / 5 * min(step * 0.35, 12)
                dot = f'<circle cx="{middle + aside:.1f}" cy="{y.at(value):.1f}" r="2" fill="{colour}" fill-opacity="0.45"/>'
                drawn.append(dot)
            if positive and figure.get("median", 0) > 0:
                at = y.at(figure["median"])
                drawn.append(_line(middle - step * 0.4, at, middle + step * 0.4, at, colour, 2))
    for place, way in enumerate(ways):
        drawn += _named(place, labels.get(way, way), _COLOURS[place % len(_COLOURS)])
    return _whole(title, drawn)


class _Scale:
    """Numbers above zero to pixels, logarithmic, from one decade (or a half or a fifth of one) to another."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = low, high
        self._start, self._step = start, (end - start) / math.log(high / low)

    def at(self, value: float) -> float:
        """Where it is."""
        return self._start + math.log(value / self.low) * self._step

    def marks(self) -> list[float]:
        """Decades; with fewer than three of them 2 and 5 too."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = (1,) if self.high / self.low >= _DECADE**3 else (1, 2, 5)
        found = (float(f"{step}e{decade}") for decade in decades for step in steps)
        return [mark for mark in found if self.low * 0.999 <= mark <= self.high * 1.001]


def _scale(values: Sequence[float], start: float, end: float) -> _Scale:
    low, high = _down(min(values)), _down(max(values), up=True)
    return _Scale(low, high if high > low else low * _DECADE, start, end)


def _down(value: float, *, up: bool = False) -> float:
    decade = float(f"1e{math.floor(math.log10(value))}")
    steps = [decade * step for step in (1, 2, 5, 10)]
    return next(step for step in steps if step >= value * 0.999) if up else [step for step in steps if step <= value * 1.001][-1]


def _axis_y(scale: _Scale, unit: str) -> list[str]:
    drawn = [_text(_LEFT, _TOP - 10, unit, "end")]
    for mark in scale.marks():
        at = scale.at(mark)
        drawn += [_line(_LEFT, at, _WIDTH - _RIGHT, at, "#d5d5d5"), _text(_LEFT - 6, at + 4, f"{mark:,g}", "end")]
    return drawn


def _axis_x(scale: _Scale, marks: Sequence[float], axis: str) -> list[str]:
    drawn = [_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, axis, "middle")]
    return drawn + [_text(scale.at(mark), _HEIGHT - _BOTTOM + 18, f"{mark:,g}", "middle") for mark in marks]


def _named(place: int, label: str, colour: str) -> list[str]:
    at = _TOP + place * 18
    return [
        f'<rect x="{_WIDTH - _RIGHT + 14}" y="{at}" width="10" height="10" fill="{colour}"/>',
        _text(_WIDTH - _RIGHT + 30, at + 9, label, "start"),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _whole(title: str, drawn: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222222">'
    )
    paper = f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", paper, _text(8, 16, title, "start"), *drawn, "</svg>", ""])


DRAWN: Mapping[str, Callable[..., str]] = {"growth": growth, "spread": spread}
