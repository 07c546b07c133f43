"""A recording read while it grows, through the agent's own reader and exporters: each follower in a thread of its own, bounded."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.sessions.recording import read
from agent.sessions.recording.export import asciicast_v2
from agent.sessions.recording.reader import opened

LOOK_AGAIN_S = 1.0


class Growing:
    """A source for :func:`agent.sessions.recording.read`: gives what is durable, waits for more, and ends with the recording."""

    def __init__(self, path: Path, size: Callable[[], tuple[int, bool]], more: threading.Event, stop: threading.Event) -> None:
        """``size``: what is durable now, and whether that is all; ``more`` is set when it may have changed."""
        self._file = opened(path)
        self._size, self._more, self._stop = size, more, stop
        self._at = 0

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; b"" when the recording is complete, or the follower has gone."""
        while not self._stop.is_set():
            self._more.clear()
            durable, complete = self._size()
            if self._at < durable:
                data = self._file.read(min(size, durable - self._at))
                self._at += len(data)
                return data
            if complete:
                break
            self._more.wait(LOOK_AGAIN_S)
        return b""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def lines(source: Growing) -> Iterator[str]:
    """asciicast v2, line by line, as it comes."""
    yield from asciicast_v2(read(source))
