"""The inbox: files that anyone who may drop a file put there. Nothing about them is believed before it was looked at."""

import contextlib
import errno
import os
import secrets
import stat
from collections import OrderedDict
from pathlib import Path

from agent.errors import HostError, UntrustedError
from agent.host.files import open_entry, opened_folder
from agent.spool.entries import is_being_written, is_passing, is_single, shown

MAX_BYTES = 64 * 1024  # twice a grant's: General JSON carries several signatures
_SCAN_MAX = 65_536
_REMEMBERED_MAX = 4096
_HIDDEN = ".taken-"
_HIDDEN_ERRORS = {errno.ENOTEMPTY, errno.EEXIST}

_Identity = tuple[int, int, int, int]  # device, inode, size, mtime: one content under one name


class Inbox:
    """One folder of files to be taken, each once: ``names``, ``take``, ``discard``. Not thread-safe.

    Args:
        max_bytes: the longest file that is read.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._path = folder
        self._max_bytes = max_bytes
        self._looked_at: OrderedDict[str, _Identity] = OrderedDict()

    def for_another_thread(self) -> "Inbox":
        """The same folder, with a memory of its own of what was looked at."""
        return Inbox(self._path, self._max_bytes)

    def names(self) -> list[str]:
        """The names, the oldest (mtime, then name) first, hidden ones and ``*.tmp``, ``*.part`` left out.

        Names are as the file system has them, bytes that are no UTF-8 as surrogates (PEP 383); :func:`shown` makes one safe.
        Of a folder with more than 65,536 entries only so many are looked at: call again once these are gone.

        Raises:
            HostError: ``inbox_unreadable``.
        """
        found: list[tuple[int, str]] = []
        try:
            with opened_folder(self._path) as folder, os.scandir(folder) as entries:
                for number, entry in enumerate(entries):
                    if number >= _SCAN_MAX:
                        break
                    if is_passing(entry.name):
                        continue
                    try:
                        found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
                    except OSError:  # gone meanwhile
                        continue
        except OSError as error:
            raise HostError("inbox_unreadable", f"{self._path}: {error.strerror}") from error
        return [name for _, name in sorted(found)]

    def bring_back(self) -> None:
        """At start: what a crash left between the hiding and the removing of a file comes back under a new name, to be looked at.

        It may be another file than the one that was answered. Folders were hidden for good. What can't be moved stays.
        """
        with contextlib.suppress(OSError), opened_folder(self._path) as folder:
            with os.scandir(folder) as entries:
                hidden = [entry.name for entry in entries if entry.name.startswith(_HIDDEN)]
            for name in hidden:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    _return(name, folder)

    def busy(self, name: str) -> bool:
        """Whether a process still has it open for writing: its close will be told by the watch, so leave it until then."""
        try:
            with opened_folder(self._path) as folder:
                return is_single(name) and is_being_written(name, folder)
        except OSError:
            return False

    def take(self, name: str) -> bytes:
        """The file's bytes, 1 to ``max_bytes``. It stays there until :meth:`discard`.

        Raises:
            UntrustedError: ``file_absent`` (no such file any more: nothing to answer), ``file_not_regular`` (link, folder, FIFO,
                socket, device), ``file_linked`` (more than one name), ``file_empty``, ``file_too_large``, ``file_unreadable``.
        """
        if not is_single(name):
            raise UntrustedError("file_unreadable", f"{shown(name)!r} is no name of a file in the inbox")
        try:
            with opened_folder(self._path) as folder:
                return self._take(name, folder)
        except FileNotFoundError as error:
            raise UntrustedError("file_absent", f"{shown(name)} is not in the inbox") from error
        except OSError as error:
            raise UntrustedError("file_unreadable", f"{shown(name)} could not be read: {error.strerror}") from error

    def _take(self, name: str, folder: int) -> bytes:
        # Looked at before it is opened: opening a device may already do something.
        before = os.lstat(name, dir_fd=folder)
        self._remember(name, before)
        if not stat.S_ISREG(before.st_mode):
            raise _not_regular(name)
        try:
            fd = open_entry(name, folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:  # became a link or a socket meanwhile
                raise _not_regular(name) from error
            raise
        try:
            found = os.fstat(fd)
            self._remember(name, found)
            if not stat.S_ISREG(found.st_mode):
                raise _not_regular(name)
            if found.st_nlink == 0:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            if found.st_nlink > 1:
                raise UntrustedError("file_linked", f"{shown(name)} has {found.st_nlink} names; a file of the inbox has one")
            return self._read(fd, found.st_size, name)
        finally:
            os.close(fd)

    def _read(self, fd: int, size: int, name: str) -> bytes:
        too_large = UntrustedError("file_too_large", f"{shown(name)} is longer than {self._max_bytes} bytes")
        if size > self._max_bytes:
            raise too_large
        data = bytearray()
        while chunk := os.read(fd, self._max_bytes + 1 - len(data)):
            data += chunk
            if len(data) > self._max_bytes:
                raise too_large
        if not data:
            raise UntrustedError("file_empty", f"{shown(name)} is empty")
        return bytes(data)

    def discard(self, name: str) -> bool:
        """Remove what :meth:`take` looked at; absent is done.

        The folder is not synced: a file that a power cut brings back is known by the journal, or is refused once more.
        A file that was put under that name since (another inode, size or time) stays, for it was not looked at: False then.
        A folder is removed when empty, else hidden under a dotted name once, for the admin to look into.

        Raises:
            HostError: ``inbox_discard_failed``; the file is still there, and will be listed again.
        """
        if not is_single(name):
            return True
        try:
            with opened_folder(self._path) as folder:
                gone = self._discard(name, folder)
        except FileNotFoundError:
            gone = True
        except OSError as error:
            raise HostError("inbox_discard_failed", f"{shown(name)} could not be removed: {error.strerror}") from error
        self._looked_at.pop(name, None)
        return gone

    def _discard(self, name: str, folder: int) -> bool:
        looked_at = self._looked_at.get(name)
        now = os.lstat(name, dir_fd=folder)
        if looked_at is not None and looked_at != _identity(now):
            return False
        hidden = f"{_HIDDEN}{secrets.token_hex(8)}"
        if stat.S_ISDIR(now.st_mode):
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in _HIDDEN_ERRORS:
                    raise
                os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
            return True
        # Between that look and an unlink, another file could be moved to this name and be lost unread: a revocation, say. So it
        # goes to a name nobody else has, is looked at there, and comes back under a new visible name if it is another one.
        os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
        if looked_at is not None and looked_at != _identity(os.lstat(hidden, dir_fd=folder)):
            _return(hidden, folder)
            return False
        os.unlink(hidden, dir_fd=folder)
        return True

    def _remember(self, name: str, found: os.stat_result) -> None:
        self._looked_at[name] = _identity(found)
        self._looked_at.move_to_end(name)
        if len(self._looked_at) > _REMEMBERED_MAX:
            self._looked_at.popitem(last=False)


def _return(hidden: str, folder: int) -> None:
    """Back among what is to be taken, under a name that nobody else has."""
    os.rename(hidden, f"returned-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=folder)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _not_regular(name: str) -> UntrustedError:
    return UntrustedError("file_not_regular", f"{shown(name)} is no regular file")
