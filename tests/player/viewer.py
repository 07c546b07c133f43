"""asciinema-player in the browser, against what an independent terminal shows of the same bytes."""

import random
import re
from collections.abc import Mapping
from typing import Any

from agent.sessions.recording import Kind
from tests.player.browser import Browser
from tests.player.screen import Look, Picture, normal, pictures
from tests.player.tally import Tally, parted
from tests.player.tape import Tape

_SPEED = 100
_BACK = 60  # so many moments are looked at once more, in no order
_MARKED = ("gap", "limit", "pause", "resume", "warning")
_SEEN = 5  # sizes at least, on the way from begin to end


class _Palette:
    """The player's colours for the terminal's names: any, as long as each name keeps one, and another than the others have.

    A bright one may be as the plain one is: in the player's own theme some are.
    """

    def __init__(self) -> None:
        self._found: dict[str, str] = {"default": ""}

    def agrees(self, look: Look, shown: str) -> bool:
        if re.fullmatch("[0-9a-f]{6}", look.colour):
            digits = [int(look.colour[place : place + 2], 16) for place in (0, 2, 4)]
            return shown == f"rgb({', '.join(map(str, digits))})"
        others = {name for name, colour in self._found.items() if colour == shown}
        if look.colour not in self._found and {_plain(name) for name in others} <= {_plain(look.colour)}:
            self._found[look.colour] = shown
        return self._found.get(look.colour) == shown


def _plain(name: str) -> str:
    return name.removeprefix("bright")


def watch(browser: Browser, cast: str, tape: Tape, tally: Tally, title: str) -> None:
    """All that is checked of one export of the tape in the player."""
    length_s = tape.now_us / 1e6
    duration = browser.ask(f"open({cast!r}, {_SPEED})")
    near = abs(duration - length_s) < 0.001
    tally.add(f"{title}: the player's duration", ["" if near else f"{duration} s instead of {length_s}"])
    expected = dict(pictures(tape))
    moments = [*expected, *random.Random(1).sample(list(expected), min(_BACK, len(expected)))]
    palette, texts, looks = _Palette(), [], []
    for at_us in moments:
        found = browser.ask(f"at({at_us / 1e6})")
        texts.append(_text(found, expected[at_us], at_us))
        looks.append(_looks(found, expected[at_us], at_us, palette))
    tally.add(f"{title}: text and size at moments, in order and in none, as pyte has them", texts)
    tally.add(f"{title}: colours and weights at the same moments", looks)
    browser.ask("at(0)")
    played = browser.ask("toTheEnd()")
    tally.add(f"{title}: played from begin to end: what it ends with", [_text(played, expected[max(expected)], tape.now_us)])
    tally.add(f"{title}: played from begin to end: the sizes on the way", [_sizes(tape, played["sizes"])])
    tally.same(f"{title}: marks on the player's bar", browser.ask("markers()"), _marks(tape))


def end(browser: Browser, tape: Tape) -> str:
    """Whether the page, when its recording has been played, shows what the tape ends with; "" or what differs."""
    expected = dict(pictures(tape))
    return _text(browser.ask("toTheEnd()"), expected[max(expected)], tape.now_us)


def _text(found: Mapping[str, Any], expected: Picture, at_us: int) -> str:
    rows = [normal("".join(part[0] for part in row)) for row in found["rows"]]
    if tuple(found["size"]) != expected.size:
        return f"at {at_us / 1e6} s the size is {found['size']} instead of {expected.size}"
    for number, (row, other) in enumerate(zip(rows, expected.rows, strict=False)):
        if row != other:
            return f"at {at_us / 1e6} s, row {number}, {parted(row, other)}"
    return "" if len(rows) == len(expected.rows) else f"at {at_us / 1e6} s there are {len(rows)} rows"


def _looks(found: Mapping[str, Any], expected: Picture, at_us: int, palette: _Palette) -> str:
    for number, (row, other) in enumerate(zip(found["rows"], expected.looks, strict=False)):
        shown = [(letter, names.split(), colour) for text, names, colour in row for letter in normal(text) if not letter.isspace()]
        for (letter, names, colour), (same, look) in zip(shown, [pair for pair in other if not pair[0].isspace()], strict=False):
            weights = "ap-bold" in names, "ap-italic" in names, "ap-underline" in names
            if (letter, *weights) != (same, look.bold, look.italic, look.underline) or not palette.agrees(look, colour):
                return f"at {at_us / 1e6} s, row {number}: {letter!a} is {names} {colour}, not {same!a} {look}"
    return ""


def _sizes(tape: Tape, seen: list[str]) -> str:
    """Those seen came in the recorded order. Not all are: a page is drawn when there is time, and this is fast."""
    order = iter(["80x24", *(f"{columns}x{rows}" for _, (columns, rows) in tape.sizes())])
    return "" if len(seen) >= _SEEN and all(size in order for size in seen) else f"{seen} is not the recorded order"


def _marks(tape: Tape) -> list[str]:
    labels = []
    for frame in tape.frames:
        if frame.kind is Kind.EVENT and isinstance(frame.data, Mapping) and frame.data["type"] in _MARKED:
            members = [f"{name}={value}" for name, value in frame.data.items() if name != "type"]
            minutes, seconds = divmod(frame.at_us // 1_000_000, 60)
            labels.append(f"{minutes:02}:{seconds:02} - {' '.join([str(frame.data['type']), *members])}")
    return labels
