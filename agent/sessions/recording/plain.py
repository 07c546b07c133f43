"""A terminal's output as lines of text: what a person would have read on each line, without positions and colours.

Enough of a terminal for line editing (back, overwrite, insert, erase, the cursor within the line). Programs that draw on the
other screen (editors, pagers) leave one line that says so. A jump to elsewhere on the screen ends the line.
"""

import codecs
from collections.abc import Iterator

from agent.model.text import unseen
from agent.sessions.recording.sequences import Piece, Sequences, What

LINE_MAX = 4096  # characters; a longer line is broken there
_OTHER_SCREEN = frozenset({"?1049", "?1047", "?47"})
_NOTE = "[a program that uses the whole screen]"


class Plain:
    """Feed it bytes in any pieces; get whole lines, without their ends."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sequences = Sequences()
        self._line: list[str] = []
        self._at = 0
        self._hidden = False

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that are whole now."""
        for piece in self._sequences.feed(self._decoder.decode(data)):
            yield from self._piece(piece)

    def end(self) -> Iterator[str]:
        """The last line, where it has no end."""
        for piece in self._sequences.feed(self._decoder.decode(b"", final=True)):
            yield from self._piece(piece)
        if self._line:
            yield self._taken()

    def _piece(self, piece: Piece) -> Iterator[str]:
        if piece.what is What.CSI and piece.text[:-1] in _OTHER_SCREEN and piece.text[-1] in "hl":
            if piece.text[-1] == "h" and not self._hidden:
                yield from self._broken()
                yield _NOTE
            self._hidden = piece.text[-1] == "h"
        elif self._hidden:
            return
        elif piece.what is What.TEXT:
            yield from self._write(piece.text)
        elif piece.what is What.CONTROL:
            yield from self._control(piece.text)
        elif piece.what is What.CSI:
            yield from self._csi(piece.text)

    def _write(self, text: str) -> Iterator[str]:
        for start in range(0, len(text), LINE_MAX):
            part = text[start : start + LINE_MAX]
            if self._at + len(part) > LINE_MAX:
                yield self._taken()
            self._line += " " * (self._at - len(self._line))
            self._line[self._at : self._at + len(part)] = part
            self._at += len(part)

    def _control(self, text: str) -> Iterator[str]:
        if text in "\n\v\f":
            yield self._taken()
        elif text == "\r":
            self._at = 0
        elif text == "\b":
            self._at = max(0, self._at - 1)
        elif text == "\t":
            self._at = min(LINE_MAX, (self._at // 8 + 1) * 8)

    def _csi(self, text: str) -> Iterator[str]:
        number = min(int(text[:-1]), LINE_MAX) if text[:-1].isdecimal() and len(text) <= 6 else None
        count = max(number or 1, 1)
        match text[-1] if number is not None or len(text) == 1 else "":
            case "C" | "a":
                self._at = min(LINE_MAX, self._at + count)
            case "D":
                self._at = max(0, self._at - count)
            case "G" | "`":
                self._at = count - 1
            case "K":
                self._erase(number or 0)
            case "P":
                del self._line[self._at : self._at + count]
            case "@":
                self._line[self._at : self._at] = " " * min(count, LINE_MAX - min(len(self._line), LINE_MAX))
            case "A" | "B" | "E" | "F" | "H" | "d":
                yield from self._broken()
            case _:
                if text[-1] in "Hf":
                    yield from self._broken()

    def _erase(self, part: int) -> None:
        if part == 0:
            del self._line[self._at :]
        else:
            upto = len(self._line) if part == 2 else min(self._at + 1, len(self._line))
            self._line[:upto] = " " * upto

    def _broken(self) -> Iterator[str]:
        if "".join(self._line).strip():
            yield self._taken()
        self._line, self._at = [], 0

    def _taken(self) -> str:
        line = "".join(self._line).rstrip()
        self._line, self._at = [], 0
        return "".join(character for character in line if not unseen(character) or character == "\t")
