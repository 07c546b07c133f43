"""A recorded terminal's output, for the terminal of whoever looks at it: only what draws.

What passes is listed; everything else is dropped. Dropped on purpose: all that makes a terminal type something back (ENQ, DSR, DA,
DECRQM, title and colour reports), the clipboard (OSC 52), titles, links, DCS and other strings, printing, keyboard and mouse modes,
window operations, clearing of the scrollback. See xterm's ctlseqs for the names.
"""

import codecs
import re

from agent.sessions.recording.sequences import Piece, Sequences, What

_CONTROLS = frozenset("\a\b\t\n\v\f\r\x0e\x0f")
_ESCAPES = re.compile(r"[78DEHM]|[()*+][0-9A-Za-z<=>]|#[34568]")
# Parameters are small numbers only: a terminal told to repeat or insert a billion times hangs.
_NUMBERS = r"(?:[0-9]{0,4}(?:[;:][0-9]{0,4}){0,63})"
_SEQUENCES = re.compile(
    rf"{_NUMBERS}[ABCDEFGHILPXZ@`adefgmsu]|{_NUMBERS}[KM]|[012]?J|{_NUMBERS}[STr]|\??[0-2]?[JK]|!p|[0-6]? q|4[hl]"
)
_REPEAT = re.compile(r"[0-9]{0,3}b")
_MODES = re.compile(r"\?([0-9;]{1,64})([hl])")
_SHOWN = {"5", "6", "7", "12", "25", "47", "1047", "1048", "1049"}  # reverse, origin, wrap, cursor, the other screen
_OTHER_SCREENS = ("1049", "1047", "47")
_RESET = "\x1b[!p\x1b[H\x1b[2J"  # for RIS, which would also clear what the person has set
_AFTER = (
    "\x1b[!p"  # soft reset: margins, origin, insert, character sets
    "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l"  # never passed; in case another program left them
    "\x1b[?5l\x1b[?7h\x1b[?25h\x1b[4l\x1b[0m\x1b(B\x1b)B\x0f\x1b>"
)


class Harmless:
    """A filter for the bytes of a terminal, in any pieces. Bytes that are no UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sequences = Sequences()
        self._on: set[str] = set()  # modes that were set and not yet unset
        self._margins = False

    def feed(self, data: bytes) -> str:
        """What of it may go to a terminal. A sequence that is not whole yet comes with the bytes that complete it."""
        return "".join([self._passed(piece) for piece in self._sequences.feed(self._decoder.decode(data))])

    def end(self) -> str:
        """What brings the terminal back to how a shell wants it: main screen, cursor shown, no mouse, no colours, no margins."""
        screen = next((f"\x1b[?{mode}l" for mode in _OTHER_SCREENS if mode in self._on), "")
        margins = "\x1b7\x1b[r\x1b8" if self._margins else ""
        origin = "\x1b[?6l" if "6" in self._on else ""
        return screen + origin + margins + _AFTER

    def _passed(self, piece: Piece) -> str:
        text = piece.text
        if piece.what is What.TEXT:
            return text
        if piece.what is What.CONTROL:
            return text if text in _CONTROLS else ""
        if piece.what is What.CSI:
            return self._csi(text)
        if piece.what is What.ESCAPE and text == "c":
            self._on -= {"6", "5"}
            return _RESET
        return f"\x1b{text}" if piece.what is What.ESCAPE and _ESCAPES.fullmatch(text) else ""

    def _csi(self, text: str) -> str:
        if mode := _MODES.fullmatch(text):
            return self._modes(mode.group(1).split(";"), mode.group(2))
        if not _SEQUENCES.fullmatch(text) and not _REPEAT.fullmatch(text):
            return ""
        if text.endswith("T") and text.count(";"):  # highlight tracking, of the mouse
            return ""
        self._margins = self._margins or text.endswith("r")
        return f"\x1b[{text}"

    def _modes(self, numbers: list[str], action: str) -> str:
        kept = [number for number in numbers if number in _SHOWN]
        self._on = self._on | set(kept) if action == "h" else self._on - set(kept)
        return f"\x1b[?{';'.join(kept)}{action}" if kept else ""
