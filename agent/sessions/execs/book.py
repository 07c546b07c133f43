"""One grant's file of execs: append-only, bounded, recovered after a kill, and its SHA-256 at any time.

It lies in a folder that is root's alone. What the disk does not take, and what is past the bound, is counted and told.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path

from agent.errors import HostError
from agent.host.clock import rfc3339
from agent.sessions.execs import lines

LIMIT = 32 << 20  # bytes of one grant
_RESERVE = 4096  # for the lines that say what is missing
_CHUNK = 1 << 20
_ONE_WRITE = 4 << 20


class Book:
    """Not thread-safe. Opening makes the file, or goes on after the last whole line of it.

    Raises:
        HostError: ``execs_unwritable``; ``execs_busy`` when another process writes it.
    """

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self.path = path
        self.execs = self.gaps = self.lost = self.unwritten = 0
        self.recovered = self.full = False
        self.dirty = False
        self._limit = limit
        self._hash = hashlib.sha256()
        self._size = 0
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._trouble = ""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise HostError("execs_unwritable", f"{path}: {error.strerror}") from error
        try:
            self._take_over()
        except OSError as error:
            os.close(self._fd)
            raise HostError("execs_unwritable", f"{path}: {error.strerror}") from error
        except HostError:
            os.close(self._fd)
            raise

    @property
    def new(self) -> bool:
        """Whether nothing stands in it."""
        return not self._size and not self._waiting

    def write(self, text: bytes, *, kind: str = lines.EXEC, lost: int = 0) -> bool:
        """Add a line; False when there is no room for it. :meth:`flush` brings it to the file."""
        room = self._limit if kind in {lines.GAP, lines.LIMIT, lines.END} else self._limit - _RESERVE
        if self._size + self._waiting_size + len(text) > room:
            self.unwritten += kind == lines.EXEC
            if not self.full and kind != lines.LIMIT:
                self.full = True
                self.write(lines.line(lines.LIMIT, bytes=self._limit), kind=lines.LIMIT)
            return False
        self._waiting.append(text)
        self._waiting_size += len(text)
        self._count(kind, lost, 1)
        if self._waiting_size > _ONE_WRITE:
            self.flush()
        return True

    def flush(self, at_ns: int = 0) -> bool:
        """Into the file, whole or not at all; what it does not take is counted as unwritten, and told once it takes some again."""
        if not self._waiting:
            return True
        data, texts = b"".join(self._waiting), self._waiting
        self._waiting, self._waiting_size = [], 0
        if self._trouble:
            data = lines.of_gap(at_ns, self._trouble, None) + data
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(28, "No space left on device")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            for text in texts:
                kind = lines.kind_of(text)
                self._count(kind, lines.gap_in(text) if kind == lines.GAP else 0, -1)
                self.unwritten += kind == lines.EXEC
            self._trouble = f"the disk: {error.strerror}"
            return False
        self.gaps += bool(self._trouble)
        self._trouble = ""
        self._size += len(data)
        self._hash.update(data)
        self.dirty = True
        return True

    def sync(self) -> None:
        """fdatasync(2) of what was flushed. A failure is told as a gap by the next flush."""
        if self.dirty:
            self.dirty = False
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._trouble = f"the disk: {error.strerror}"

    def close(self, at_ns: int) -> dict[str, object]:
        """Write its last line, and sync; the summary that a receipt carries."""
        told = {"execs": self.execs, "gaps": self.gaps, "lost": self.lost, "unwritten": self.unwritten}
        self.write(lines.line(lines.END, at=rfc3339(at_ns), **told), kind=lines.END)
        self.flush(at_ns)
        self.sync()
        found = self.summary()
        os.close(self._fd)
        return found

    def summary(self) -> dict[str, object]:
        """What the file holds: its first ``bytes`` have this SHA-256. ``lost``: events that never came, as far as known."""
        return {
            "file": self.path.name, "bytes": self._size, "sha256": self._hash.hexdigest(), "execs": self.execs,
            "gaps": self.gaps, "lost": self.lost, "unwritten": self.unwritten,
        }  # fmt: skip

    def _take_over(self) -> None:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
            raise HostError("execs_unwritable", f"{self.path} is not a file of ours")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise HostError("execs_busy", f"{self.path} is written by another process") from error
        rest = b""
        for start in range(0, found.st_size, _CHUNK):
            *whole, rest = (rest + os.pread(self._fd, _CHUNK, start)).split(b"\n")
            for text in whole:
                kind = lines.kind_of(text)
                self._count(kind, lines.gap_in(text) if kind == lines.GAP else 0, 1)
                self.full |= kind == lines.LIMIT
                self._hash.update(text + b"\n")
                self._size += len(text) + 1
        if rest:  # a line that a kill cut
            os.ftruncate(self._fd, self._size)
        self.recovered = self._size > 0

    def _count(self, kind: str, lost: int, by: int) -> None:
        self.execs += by * (kind == lines.EXEC)
        self.gaps += by * (kind == lines.GAP)
        self.lost += by * lost
