"""Server-sent events (WHATWG HTML, "Server-sent events"), parsed as bytes come and never holding more than one long token."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.courier.transport import TOKEN_MAX

LINE_MAX = TOKEN_MAX + 64  # what is longer is cut; it is too long for a token all the same
_ENDS = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``ident`` is what ``id:`` said last, None before; ``data`` may be cut, and is then longer than a token may be."""

    ident: bytes | None
    kind: str
    data: bytes


class Parser:
    """``lines``: how many ended so far, comments among them: a sign of life."""

    def __init__(self) -> None:
        self.lines = 0
        self._line = bytearray()
        self._after_cr = False
        self._ident: bytes | None = None
        self._kind = ""
        self._data: bytearray | None = None

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that are whole now."""
        at = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = self._after_cr and not chunk
        for end in _ENDS.finditer(chunk, at):
            self._add(chunk[at : end.start()])
            at = end.end()
            self._after_cr = end.group() == b"\r" and at == len(chunk)
            event = self._ended()
            if event is not None:
                yield event
        self._add(chunk[at:])

    def _add(self, piece: bytes) -> None:
        room = LINE_MAX - len(self._line)
        if room > 0:
            self._line += piece[:room]

    def _ended(self) -> Event | None:
        self.lines += 1
        line, self._line = bytes(self._line), bytearray()
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if name == b"data":
            self._data = value_of(self._data, value)
        elif name == b"event":
            self._kind = value[:64].decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._ident = value[:64]
        return None

    def _dispatch(self) -> Event | None:
        data, kind = self._data, self._kind or "message"
        self._data, self._kind = None, ""
        return None if data is None else Event(self._ident, kind, bytes(data))


def value_of(data: bytearray | None, value: bytes) -> bytearray:
    """Several ``data:`` lines are one text; never more of it than shows that it is too long."""
    if data is not None and len(data) > TOKEN_MAX:
        return data
    found = bytearray() if data is None else data + b"\n"
    return found + value[: TOKEN_MAX + 1 - len(found)]
