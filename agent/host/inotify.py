"""One file's changes by inotify(7), at once: watchdog groups events and so tells them half a second late."""

import ctypes
import os
import select
from pathlib import Path

from agent.errors import HostError

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE = 0x2, 0x4, 0x8  # of <sys/inotify.h>; IN_ATTRIB also comes when it is unlinked
_IN_DELETE_SELF, _IN_MOVE_SELF = 0x400, 0x800
_EVENTS = _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_DELETE_SELF | _IN_MOVE_SELF
_libc = ctypes.CDLL(None, use_errno=True)


class Changes:
    """Waits for a file to be written to, closed by its writer, or removed. A change since it was made, or since the last wait,
    ends the next wait at once."""

    def __init__(self, path: Path) -> None:
        """Raises HostError ``watch_unavailable``."""
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0 or _libc.inotify_add_watch(self._descriptor, os.fsencode(path), _EVENTS) < 0:
            reason = os.strerror(ctypes.get_errno())
            self.close()
            raise HostError("watch_unavailable", f"{path} can't be watched: {reason}")

    def __enter__(self) -> "Changes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether something happened within that time."""
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return False
        os.read(self._descriptor, 64 * 1024)  # many events are one piece of news
        return True
