"""What a terminal is told, cut into text, controls and control sequences (ECMA-48, xterm's ctlseqs), in any pieces."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

SEQUENCE_MAX = 4096  # characters that are kept of one sequence; the rest of a longer one is swallowed

_TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]+")
_STRING_TEXT = re.compile(r"[^\x00-\x1f\x80-\x9f]+")
_STRINGS = {"P": "P", "X": "X", "]": "]", "^": "^", "_": "_", "\x90": "P", "\x98": "X", "\x9d": "]", "\x9e": "^", "\x9f": "_"}
_ESC, _CSI, _ST, _BEL, _CANCELS = "\x1b", "\x9b", "\x9c", "\x07", "\x18\x1a"


class What(Enum):
    """Kinds of pieces."""

    TEXT = auto()
    CONTROL = auto()  # one character: C0, DEL, or C1 that begins nothing
    ESCAPE = auto()  # after ESC: intermediates and a final
    CSI = auto()  # after ESC [: parameters, intermediates, a final
    STRING = auto()  # OSC, DCS, SOS, PM, APC: the letter that begins it, then what it holds


@dataclass(frozen=True, slots=True)
class Piece:
    """``text`` without ESC and what introduces it."""

    what: What
    text: str


class Sequences:
    """Feed it decoded text; a sequence that is cut is finished by the next call. Memory is bounded by SEQUENCE_MAX."""

    def __init__(self) -> None:
        self._state = ""  # "", "esc", "csi", "str"
        self._kept: list[str] = []
        self._length = 0
        self._closing = False  # an ESC inside a string: a \\ ends it

    @property
    def inside(self) -> bool:
        """Whether a sequence is open."""
        return bool(self._state)

    def feed(self, text: str) -> Iterator[Piece]:
        """The pieces that are whole now."""
        at, end = 0, len(text)
        while at < end:
            pattern = _TEXT if not self._state else _STRING_TEXT if self._state == "str" and not self._closing else None
            run = pattern.match(text, at) if pattern else None
            if run is not None:
                at = run.end()
                if self._state:
                    self._keep(run.group())
                else:
                    yield Piece(What.TEXT, run.group())
                continue
            yield from self._one(text[at])
            at += 1

    def _one(self, character: str) -> Iterator[Piece]:
        if self._state == "str":
            yield from self._in_string(character)
        elif character == _ESC:
            self._enter("esc")
        elif character in _CANCELS:
            self._leave()
        elif "\x80" <= character <= "\x9f":
            yield from self._c1(character)
        elif character < " " or character == "\x7f":
            yield Piece(What.CONTROL, character)  # also inside a sequence, where a terminal carries it out at once
        elif self._state == "esc":
            yield from self._in_escape(character)
        elif self._state == "csi":
            yield from self._in_csi(character)
        else:
            yield Piece(What.TEXT, character)

    def _c1(self, character: str) -> Iterator[Piece]:
        self._leave()
        if character == _CSI:
            self._enter("csi")
        elif character in _STRINGS:
            self._enter("str", _STRINGS[character])
        else:
            yield Piece(What.CONTROL, character)

    def _in_escape(self, character: str) -> Iterator[Piece]:
        if not self._kept and character == "[":
            self._enter("csi")
        elif not self._kept and character in _STRINGS:
            self._enter("str", _STRINGS[character])
        else:
            self._keep(character)
            if not " " <= character <= "/":
                yield from self._done(What.ESCAPE)

    def _in_csi(self, character: str) -> Iterator[Piece]:
        self._keep(character)
        if "@" <= character <= "~":
            yield from self._done(What.CSI)
        elif character > "~":  # no byte of a sequence: a terminal ignores it all
            self._leave()

    def _in_string(self, character: str) -> Iterator[Piece]:
        if self._closing:
            self._closing = False
            yield from self._done(What.STRING)
            if character != "\\":  # the ESC began another sequence
                self._enter("esc")
                yield from self._one(character)
        elif character == _ESC:
            self._closing = True
        elif character == _ST or (character == _BEL and self._kept[0] == "]"):
            yield from self._done(What.STRING)
        elif character in _CANCELS:
            self._leave()

    def _enter(self, state: str, first: str = "") -> None:
        self._state, self._kept, self._length, self._closing = state, [first] if first else [], 0, False

    def _leave(self) -> None:
        self._enter("")

    def _keep(self, text: str) -> None:
        if self._length <= SEQUENCE_MAX:
            self._kept.append(text[: SEQUENCE_MAX + 1])
        self._length += len(text)

    def _done(self, what: What) -> Iterator[Piece]:
        text, length = "".join(self._kept), self._length
        self._leave()
        if length <= SEQUENCE_MAX:
            yield Piece(what, text)
