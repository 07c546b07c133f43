"""The person's own terminal while a recorded one is shown on it: what reaches it, and how it is left."""

import contextlib
import os
import shutil
import signal
import sys
import termios
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import NoReturn

from agent.errors import HostError
from agent.model.text import one_line
from agent.sessions.recording import Damage, Frame, Kind, Seal
from agent.sessions.recording.format import Json, described, size_of
from agent.sessions.recording.harmless import Harmless

_Modes = list[int | list[bytes | int]]  # of tcgetattr
_SHOWN_EVENTS = frozenset({"gap", "limit", "pause", "resume", "warning"})


class Screen:
    """Shows frames. ``shown`` is called for every piece of text that goes out."""

    def __init__(self) -> None:
        self._filters = {Kind.OUT: Harmless(), Kind.ERR: Harmless()}
        self.end: Mapping[str, Json] = {}
        self._told = False

    def show(self, item: Frame | Seal | Damage) -> None:
        """One item of a recording; what has no picture shows nothing."""
        if isinstance(item, Damage):
            self.note(f"recording damaged at byte {item.offset}: {item.what}")
        elif isinstance(item, Seal):
            return
        elif item.kind in self._filters:
            self.put(self._filters[item.kind].feed(item.data))
        elif item.kind is Kind.META:
            meta = described(item)
            self._fits(meta.get("cols"), meta.get("rows"))
        elif item.kind is Kind.RESIZE and (size := size_of(item)):
            self._fits(*size)
        elif item.kind is Kind.EVENT and described(item).get("type") in _SHOWN_EVENTS:
            event = described(item)
            said = " ".join(f"{name}={value}" for name, value in event.items() if name != "type")
            self.note(f"{event['type']} {said}".rstrip())
        elif item.kind is Kind.END:
            self.end = described(item)

    def note(self, words: str) -> None:
        """A line of ours among what was recorded."""
        self.put(f"\r\n*** {one_line(words)} ***\r\n")

    def put(self, text: str) -> None:
        """Out, at once. Text that a filter let through, or our own."""
        if text:
            sys.stdout.buffer.write(text.encode("utf-8"))
            sys.stdout.buffer.flush()

    def leave(self) -> None:
        """Bring the terminal back."""
        self.put(self._filters[Kind.OUT].end() + "\r\n")

    def _fits(self, columns: object, rows: object) -> None:
        if self._told or not isinstance(columns, int) or not isinstance(rows, int):
            return
        here = shutil.get_terminal_size()
        if here.columns < columns or here.lines < rows:
            self._told = True
            self.note(f"recorded on {columns}x{rows}, shown on {here.columns}x{here.lines}: lines may break in other places")


@contextlib.contextmanager
def on_terminal(instead: str) -> Iterator[Screen]:
    """A screen on this process's terminal, which is as before afterwards, however it ends. Keys are not shown, and thrown away.

    Args:
        instead: what to use where stdout is no terminal.

    Raises:
        HostError: ``recording_needs_terminal``.
    """
    if not sys.stdout.isatty():
        raise HostError("recording_needs_terminal", f"what a terminal was told goes to a terminal only: {instead}")
    sys.stdout.flush()
    screen = Screen()
    keyboard = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = _quiet(keyboard) if keyboard is not None else None
    handled = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield screen
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            screen.leave()
        if keyboard is not None and before is not None:
            termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)  # with what was typed meanwhile


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """By way of everything that brings the terminal back; the status is a shell's for that signal."""
    raise SystemExit(128 + number)


def _quiet(keyboard: int) -> _Modes | None:
    """No echo, no lines; Ctrl-C stays a signal. Returns what was set before; None in the background, where nobody may change it."""
    with contextlib.suppress(OSError):  # ENOTTY: the terminal is not this session's own
        if os.tcgetpgrp(keyboard) != os.getpgrp():
            return None
    before = termios.tcgetattr(keyboard)
    quiet = termios.tcgetattr(keyboard)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(keyboard, termios.TCSADRAIN, quiet)
    return before
