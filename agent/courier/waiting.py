"""Waiting for news: a bell that any thread may ring, and folders. Nobody polls."""

import contextlib
import os
import select
from collections.abc import Iterable
from pathlib import Path

from agent.host.inotify import Folders


class Bell:
    """Rung from any thread or from a signal handler; many rings are one piece of news."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable once it was rung."""
        return self._fd

    def ring(self) -> None:
        """Wake whoever waits, or will."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Heard."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)


class News:
    """Waits for a bell or for a change in a folder; a change since it was made, or since the last wait, ends the next at once."""

    def __init__(self, bell: Bell, folders: Iterable[Path]) -> None:
        """Raises HostError ``watch_unavailable``."""
        self._bell = bell
        self._folders = Folders(folders)

    def __enter__(self) -> "News":
        return self

    def __exit__(self, *_: object) -> None:
        self._folders.close()

    def wait(self, timeout_s: float | None = None) -> frozenset[str] | None:
        """Names that changed, none for bell or timeout; None: look at everything. Raises HostError ``watch_unavailable``."""
        ready = select.select([self._bell.fileno(), self._folders.fileno()], [], [], timeout_s)[0]
        if self._bell.fileno() in ready:
            self._bell.clear()
        return self._folders.names() if self._folders.fileno() in ready else frozenset()
