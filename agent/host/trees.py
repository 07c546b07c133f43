"""Removing trees that a stranger filled: no symlink followed, no mount crossed, no depth or size that can't be handled.

Every name is used relative to an open folder, and each folder is opened with O_NOFOLLOW and compared by its mount id (a
bind mount has the same st_dev as what it shows, so the device alone would lead ``rm`` out of the tree).
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS (linux/fs.h)
_APPEND, _IMMUTABLE = 0x20, 0x10
LEFT_MAX = 64  # how many leftovers a report names


def mount_id(fd: int) -> int:
    """The mount an open file is on (proc(5), ``/proc/PID/fdinfo``); bind mounts differ where devices do not."""
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines():
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    raise OSError(errno.ENOSYS, "the kernel shows no mount id")


@contextlib.contextmanager
def opened(name: str, parent: int | None = None) -> Iterator[int]:
    """A folder opened without following a symlink. Raises OSError."""
    fd = os.open(name, _FOLDER, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def names_in(fd: int) -> list[str]:
    """Every name in an open folder."""
    with os.scandir(fd) as entries:
        return [entry.name for entry in entries]


def name_for_moved(top: int, last: int) -> tuple[int, str]:
    """Where to move a folder up to: a name that nothing in that open folder has, and its number, which is above ``last``."""
    for number in itertools.count(last + 1):
        name = f".tidegate-moved-{number}"
        try:
            os.lstat(name, dir_fd=top)
        except FileNotFoundError:
            break
    return number, name


def printable(name: str) -> str:
    """A name that a stranger chose, fit for a report: bytes that are no UTF-8, and control characters, are escaped."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TreeRemover:
    """Empties one folder, however deep, with two descriptors: each subfolder found is moved up, then emptied in its turn.

    ``left`` names what stays and why. Nobody may be writing to the tree any more; if somebody is, it only takes longer,
    until ``deadline_s`` seconds are over.
    """

    def __init__(self, top: int, label: str, deadline_s: float) -> None:
        self._top = top
        self._label = label
        self._mount = mount_id(top)
        self._deadline = time.monotonic() + deadline_s
        self._moved = 0
        self._stuck: set[str] = set()
        self.left: list[str] = []

    def run(self) -> None:
        """Remove everything in the folder, not the folder itself. Raises OSError only when the top can't be read."""
        progress = True
        while progress:
            progress = False
            for name in names_in(self._top):
                if name in self._stuck:
                    continue
                if time.monotonic() > self._deadline:
                    self._leave(name, "out of time")
                    return
                progress = True
                self._remove(self._top, name, name)

    def _remove(self, parent: int, name: str, shown: str) -> None:
        """Unlink one entry; a subfolder of the top is emptied, a deeper one is moved up to the top."""
        try:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                _forced(lambda: os.unlink(name, dir_fd=parent), parent, name)
            elif parent == self._top:
                self._empty(name)
            else:
                self._lift(parent, name)
        except FileNotFoundError:
            return
        except OSError as error:
            self._leave(shown, error.strerror or "", blocks=shown.split("/", maxsplit=1)[0])

    def _empty(self, name: str) -> None:
        with opened(name, self._top) as fd:
            if mount_id(fd) != self._mount:
                raise OSError(errno.EXDEV, "another file system is mounted there")
            for inner in names_in(fd):
                self._remove(fd, inner, f"{name}/{inner}")
        if name not in self._stuck:
            _forced(lambda: os.rmdir(name, dir_fd=self._top), self._top, name)

    def _lift(self, parent: int, name: str) -> None:
        with opened(name, parent) as fd:
            if mount_id(fd) != self._mount:
                raise OSError(errno.EXDEV, "another file system is mounted there")
        self._moved, target = name_for_moved(self._top, self._moved)
        _forced(lambda: os.rename(name, target, src_dir_fd=parent, dst_dir_fd=self._top), parent, name)

    def _leave(self, shown: str, why: str, *, blocks: str | None = None) -> None:
        self._stuck.add(blocks if blocks is not None else shown)
        if len(self.left) < LEFT_MAX:
            self.left.append(f"{self._label}/{printable(shown)}: {why}")


def _forced(act: Callable[[], None], parent: int, name: str) -> None:
    """Do it; where an immutable or append-only flag (chattr(1)) forbids it, clear that on the entry and its folder first."""
    try:
        act()
    except PermissionError:
        clear_flags(parent)
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=parent)
            try:
                if stat.S_IFMT(os.fstat(fd).st_mode) in {stat.S_IFREG, stat.S_IFDIR}:
                    clear_flags(fd)
            finally:
                os.close(fd)
        act()


def clear_flags(fd: int) -> None:
    """Take off the immutable and append-only flags; a file system that has none is fine."""
    with contextlib.suppress(OSError):
        flags = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, struct.pack("l", 0)))[0]
        if flags & (_APPEND | _IMMUTABLE):
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags & ~(_APPEND | _IMMUTABLE)))


def remove_tree(parent: int, name: str, uid: int, label: str, *, deadline_s: float = 60.0) -> list[str]:
    """Remove the folder ``name`` of the open folder ``parent``, if ``uid`` owns it and it is on the parent's mount.

    Returns:
        What is left and why, each ``path: reason``; empty when all of it is gone (or was never there).
    """
    try:
        with opened(name, parent) as top:
            if os.fstat(top).st_uid != uid:
                return [f"{label}: owned by uid {os.fstat(top).st_uid}, not {uid}"]
            if mount_id(top) != mount_id(parent):
                return [f"{label}: another file system is mounted there"]
            remover = TreeRemover(top, label, deadline_s)
            remover.run()
        if not remover.left:
            _forced(lambda: os.rmdir(name, dir_fd=parent), parent, name)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{label}: {error.strerror}"]
    return remover.left
