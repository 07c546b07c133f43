"""The files of the trail: opened without trust, appended whole or not at all, rotated, bounded. Everything raises OSError.

The folder may be writable by someone less trusted, so nothing is taken for granted between two calls: the current file is
opened anew each time, never through a link, and compared with what was left there.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from agent.host.files import is_own, open_entry, own_files

CURRENT = "events.ndjson"
_NUMBERED = re.compile(r"events\.(\d{12})\.ndjson")
_TAIL_BYTES = 256 * 1024  # longer than any line (agent.audit.ocsf.LINE_MAX)
_MODE = 0o640


@dataclass(frozen=True, slots=True)
class Dropped:
    """Files deleted to keep the bound: how many events, how many bytes."""

    files: tuple[str, ...] = ()
    count: int = 0
    bytes: int = 0


class Lines:
    """One trail's files, used as ``with lines:`` around ``make_room`` and ``append``. Not thread-safe.

    ``last_sequence`` is the number of the last event on the disk, 0 for none. ``trouble`` is a code, kept until an append
    succeeds: ``file_replaced``, ``file_cut``, ``file_torn`` (ended in half a line, which is cut off), ``file_untrusted``.
    ``dropped`` is what was deleted since the last append that succeeded.
    """

    def __init__(self, folder: Path, *, file_bytes: int, total_bytes: int) -> None:
        self.last_sequence = 0
        self.trouble = ""
        self.dropped = Dropped()
        self._path = folder
        self._file_bytes = file_bytes
        self._total_bytes = total_bytes
        self._known: tuple[int, int, int] | None = None  # device, inode and size as the last append left them
        self._folder = -1
        self._fd = -1
        self._size = 0

    def __enter__(self) -> "Lines":
        """Open folder and file; repair what is not as it was left."""
        try:
            self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._fd = self._open()
            self._examine()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Give the descriptors back; the next call looks afresh."""
        self._close()

    def make_room(self, length: int) -> None:
        """Rotate when ``length`` more bytes do not fit the file; delete the oldest files when they do not fit the total."""
        if length > self._total_bytes:
            raise OSError(errno.EFBIG, "more events at once than the trail may hold")
        full = self._size > 0 and self._size + length > self._file_bytes
        if full:
            self._rotate()
        if full or self._known is None:
            self._drop_oldest(max(self._size + length, self._file_bytes))

    def append(self, data: bytes, last_sequence: int) -> None:
        """One write and one fdatasync(2). When either fails, the file is cut back to what it was."""
        try:
            _write_once(self._fd, data)
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        found = os.fstat(self._fd)
        self._size = found.st_size
        self._known = (found.st_dev, found.st_ino, found.st_size)
        self.last_sequence = last_sequence
        self.trouble = ""
        self.dropped = Dropped()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(CURRENT, flags, dir_fd=self._folder)
        except FileNotFoundError:
            if self._known is not None:  # told here, since its inode number may be given to the new file
                self.trouble = "file_replaced"
            return self._create()
        except OSError as error:
            # A link, a folder, a socket, a FIFO without a reader: nothing of ours. Anything else is the disk's fault.
            if error.errno not in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
                raise
            self._put_aside()
            return self._create()
        found = os.fstat(fd)
        if is_own(found) and found.st_nlink == 1:
            return fd
        os.close(fd)
        self._put_aside()
        return self._create()

    def _create(self) -> int:
        fd = os.open(
            CURRENT,
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            _MODE,
            dir_fd=self._folder,
        )
        try:
            if os.geteuid() == 0:  # readable by whoever the folder is for
                os.fchown(fd, 0, os.fstat(self._folder).st_gid)
            os.fchmod(fd, _MODE)
            os.fsync(self._folder)
        except OSError:
            os.close(fd)
            raise
        return fd

    def _put_aside(self, name: str = CURRENT) -> None:
        """Keep what stands in the way, under a hidden name: it is someone's mistake or someone's attack."""
        os.rename(name, f".untrusted-{secrets.token_hex(8)}", src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self.trouble = "file_untrusted"

    def _examine(self) -> None:
        found = os.fstat(self._fd)
        self._size = found.st_size
        if self._known == (found.st_dev, found.st_ino, found.st_size):
            return
        if self._known is not None and self._known[:2] != (found.st_dev, found.st_ino):
            self.trouble = self.trouble or "file_replaced"
        elif self._known is not None and found.st_size < self._known[2]:
            self.trouble = self.trouble or "file_cut"
        start = max(0, self._size - _TAIL_BYTES)
        tail = os.pread(self._fd, _TAIL_BYTES, start)
        whole = tail.rfind(b"\n") + 1
        if whole != len(tail):
            os.ftruncate(self._fd, start + whole)
            self._size = start + whole
            self.trouble = self.trouble or "file_torn"
        last = tail[:whole].rstrip(b"\n").rpartition(b"\n")[2]
        self.last_sequence = max(self.last_sequence, _sequence_of(last), *(number for number, _, _ in self._numbered()), 0)

    def _numbered(self) -> list[tuple[int, str, int]]:
        """Our own full files by age: the number of the last event, the name, the bytes."""
        return sorted((int(match[1]), match.string, size) for match, size in own_files(self._folder, _NUMBERED))

    def _rotate(self) -> None:
        name = f"events.{self.last_sequence:012d}.ndjson"
        with contextlib.suppress(FileNotFoundError):
            if not is_own(os.lstat(name, dir_fd=self._folder)):  # a folder there could not be replaced
                self._put_aside(name)
        os.rename(CURRENT, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.close(self._fd)
        self._fd = -1
        self._fd = self._create()
        found = os.fstat(self._fd)
        self._size = 0
        self._known = (found.st_dev, found.st_ino, 0)

    def _drop_oldest(self, needed: int) -> None:
        files = self._numbered()
        total = sum(size for _, _, size in files)
        for _, name, size in files:
            if total + needed <= self._total_bytes:
                break
            total -= size
            count = self._count_lines(name)
            try:
                os.unlink(name, dir_fd=self._folder)
            except FileNotFoundError:  # carried away meanwhile
                continue
            gone = self.dropped
            self.dropped = Dropped((*gone.files, name), gone.count + count, gone.bytes + size)

    def _count_lines(self, name: str) -> int:
        try:
            fd = open_entry(name, self._folder)
        except OSError:
            return 0
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return 0
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))

    def _close(self) -> None:
        for fd in (self._fd, self._folder):
            if fd >= 0:
                os.close(fd)
        self._fd = self._folder = -1


def _write_once(fd: int, data: bytes) -> None:
    """A short write to a regular file means that the disk is full, or a limit is reached."""
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sequence_of(line: bytes) -> int:
    try:
        number = json.loads(line)["metadata"]["sequence"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return number if isinstance(number, int) and 0 < number < 1 << 53 else 0
