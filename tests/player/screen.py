"""What a terminal shows of a tape, by an emulator that has nothing to do with the project or the player (pyte)."""

import codecs
import copy
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyte

from tests.player.tape import Tape

_ALTERNATE = 1049


class Look(NamedTuple):
    """A character's colour and weight. ``colour`` is ``default``, a name or six digits."""

    colour: str
    bold: bool
    italic: bool
    underline: bool


class Picture(NamedTuple):
    """A terminal at one moment: its size, its rows without blanks at their ends, each visible character's look."""

    size: tuple[int, int]
    rows: list[str]
    looks: list[list[tuple[str, Look]]]


class _Screen(pyte.Screen):
    """With the alternate screen, which pyte leaves out."""

    _main: Any = None

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        if kwargs.get("private") and _ALTERNATE in modes and self._main is None:
            self._main = copy.deepcopy(self.buffer), copy.copy(self.cursor)
            self.erase_in_display(2)
        super().set_mode(*modes, **kwargs)

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        super().reset_mode(*modes, **kwargs)
        if kwargs.get("private") and _ALTERNATE in modes and self._main is not None:
            (self.buffer, self.cursor), self._main = self._main, None
            self.dirty.update(range(self.lines))


def pictures(tape: Tape) -> Iterator[tuple[int, Picture]]:
    """What is to be seen at each of the tape's points, and at its end."""
    screen = _Screen(80, 24)
    stream, decoder = pyte.Stream(screen), codecs.getincrementaldecoder("utf-8")("replace")
    points = iter([*tape.points, tape.now_us])
    point = next(points)
    for frame in tape.frames:
        while frame.at_us > point:
            yield point, _picture(screen)
            point = next(points)
        if isinstance(frame.data, bytes):
            stream.feed(decoder.decode(frame.data))
        elif isinstance(frame.data, tuple):
            screen.resize(frame.data[1], frame.data[0])
    stream.feed(decoder.decode(b"", final=True))
    yield from ((left, _picture(screen)) for left in (point, *points))


def _picture(screen: _Screen) -> Picture:
    rows, looks = [], []
    for index in range(screen.lines):
        cells = [screen.buffer[index][column] for column in range(screen.columns)]
        rows.append(normal("".join(cell.data for cell in cells)))
        found = [(cell, Look(cell.fg, cell.bold, cell.italics, cell.underscore)) for cell in cells]
        looks.append([(letter, look) for cell, look in found for letter in normal(cell.data)])
    return Picture((screen.columns, screen.lines), rows, looks)


def normal(text: str) -> str:
    """A row as it is compared: composed, since one keeps an accent beside its letter and the other on it."""
    return unicodedata.normalize("NFC", text).rstrip()
