"""Changes by inotify(7), at once: watchdog groups events and so tells them half a second late.

:class:`Changes` is of one file, :class:`Folders` of what folders hold, by name.
"""

import ctypes
import os
import select
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from agent.errors import HostError

_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE = 0x2, 0x4, 0x8  # of <sys/inotify.h>; IN_ATTRIB also comes when it is unlinked
_IN_DELETE_SELF, _IN_MOVE_SELF = 0x400, 0x800
_EVENTS = _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_DELETE_SELF | _IN_MOVE_SELF
_libc = ctypes.CDLL(None, use_errno=True)


class _Watch:
    """One inotify descriptor; a context manager. Raises HostError ``watch_unavailable`` where a path can't be watched."""

    def __init__(self, paths: Iterable[Path], events: int) -> None:
        self._descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for path in paths:
            if self._descriptor < 0 or _libc.inotify_add_watch(self._descriptor, os.fsencode(path), events) < 0:
                reason = os.strerror(ctypes.get_errno())
                self.close()
                raise HostError("watch_unavailable", f"{path} can't be watched: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Changes(_Watch):
    """Waits for a file to be written to, closed by its writer, or removed. A change since it was made, or since the last wait,
    ends the next wait at once."""

    def __init__(self, path: Path) -> None:
        """Raises HostError ``watch_unavailable``."""
        super().__init__([path], _EVENTS)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether something happened within that time."""
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return False
        os.read(self._descriptor, 64 * 1024)  # many events are one piece of news
        return True


_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200
_IN_Q_OVERFLOW, _IN_IGNORED, _IN_ONLYDIR = 0x4000, 0x8000, 0x01000000
_OF_FOLDERS = _IN_MODIFY | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_GONE = _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_IGNORED
_EVENT = struct.Struct("iIII")


class Folders(_Watch):
    """What changes in some folders: files written to, made, moved, removed. ``fileno`` is readable when there is news."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises HostError ``watch_unavailable``: one is missing or no folder, or the kernel's limits are reached."""
        super().__init__(paths, _OF_FOLDERS | _IN_DELETE_SELF | _IN_MOVE_SELF | _IN_ONLYDIR)

    def fileno(self) -> int:
        """For select(2) and its kin."""
        return self._descriptor

    def names(self) -> frozenset[str] | None:
        """The names that had news, without waiting; None when some were lost, so that everything has to be looked at.

        Raises:
            HostError: ``watch_unavailable``: a folder itself was removed or moved away.
        """
        found: set[str] = set()
        lost = False
        while True:
            try:
                data = os.read(self._descriptor, 64 * 1024)
            except BlockingIOError:
                return None if lost else frozenset(found)
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                if mask & _GONE:
                    raise HostError("watch_unavailable", "a folder that is watched was removed or moved away")
                lost = lost or bool(mask & _IN_Q_OVERFLOW)
                if name:
                    found.add(os.fsdecode(name))
