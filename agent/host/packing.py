"""Packing trees that a stranger filled into a tar: by descriptors, no symlink followed, no mount crossed, bounded."""

import io
import os
import stat
import tarfile
import time
from dataclasses import dataclass, field

from agent.host.trees import mount_id, names_in, opened, printable

ARCHIVE_BYTES = 4 << 30  # bytes of file content one archive takes; what does not fit is listed in it by name
ARCHIVE_DEPTH = 64
ARCHIVE_S = 60.0  # after so many seconds no further file is begun
SKIPPED_MAX = 1000  # lines of the list of what was not taken
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@dataclass
class Packer:
    """Walks trees by descriptors and adds folders, regular files and symlinks (as links) to a tar."""

    tar: tarfile.TarFile
    mount: int
    budget: int = ARCHIVE_BYTES
    skipped: list[str] = field(default_factory=list)
    deadline: float = field(default_factory=lambda: time.monotonic() + ARCHIVE_S)
    taken: set[tuple[int, int]] | None = None  # device and inode of all that went in, where somebody wants to know

    def pack(self, top: int, name: str) -> None:
        """The whole tree, then a list of what was not taken and why, where there is something to list."""
        self._folder(top, name, 0)
        self.list_skipped(name)

    def add(self, parent: int, name: str, label: str) -> None:
        """One entry of an open folder, with all that is in it."""
        self._try(parent, name, label, 0)

    def list_skipped(self, name: str) -> None:
        """Put the list of what was not taken into the folder ``name`` of the tar."""
        if self.skipped:
            note = "\n".join([*self.skipped, ""]).encode()
            info = tarfile.TarInfo(f"{name}/TIDEGATE-NOT-ARCHIVED.txt")
            info.size, info.mode = len(note), 0o600
            self.tar.addfile(info, io.BytesIO(note))

    def _folder(self, fd: int, label: str, depth: int) -> None:
        self.tar.addfile(self._info(label, os.fstat(fd), tarfile.DIRTYPE))
        for name in names_in(fd):
            self._try(fd, name, f"{label}/{name}", depth)

    def _try(self, parent: int, name: str, label: str, depth: int) -> None:
        try:
            why = self._entry(parent, name, label, depth)
        except OSError as error:
            if error.errno is not None and not isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            why = error.strerror
        if why and len(self.skipped) < SKIPPED_MAX:
            self.skipped.append(f"{printable(label)}: {why}")

    def _entry(self, parent: int, name: str, label: str, depth: int) -> str | None:
        """Add one entry; the reason when it was not taken."""
        found = os.lstat(name, dir_fd=parent)
        if stat.S_ISLNK(found.st_mode):
            info = self._info(label, found, tarfile.SYMTYPE)
            info.linkname = os.readlink(name, dir_fd=parent)
            self.tar.addfile(info)
        elif stat.S_ISDIR(found.st_mode):
            if depth >= ARCHIVE_DEPTH:
                return f"more than {ARCHIVE_DEPTH} folders deep"
            with opened(name, parent) as fd:
                if mount_id(fd) != self.mount:
                    return "another file system is mounted there"
                self._folder(fd, label, depth + 1)
        elif stat.S_ISREG(found.st_mode):
            return self._file(parent, name, label)
        else:
            return "no regular file"
        return None

    def _file(self, parent: int, name: str, label: str) -> str | None:
        with os.fdopen(os.open(name, _READ, dir_fd=parent), "rb") as source:
            found = os.fstat(source.fileno())
            if not stat.S_ISREG(found.st_mode) or mount_id(source.fileno()) != self.mount:
                return "no regular file of this file system"
            if time.monotonic() > self.deadline:
                return f"not begun within {ARCHIVE_S:.0f} s"
            if found.st_size > self.budget:
                return f"{found.st_size} bytes: the archive is full"
            self.budget -= found.st_size
            info = self._info(label, found, tarfile.REGTYPE)
            info.size = found.st_size
            self.tar.addfile(info, _Padded(source))
        return None

    def _info(self, label: str, found: os.stat_result, kind: bytes) -> tarfile.TarInfo:
        if self.taken is not None:
            self.taken.add((found.st_dev, found.st_ino))
        info = tarfile.TarInfo(label)
        info.type, info.mode, info.mtime = kind, stat.S_IMODE(found.st_mode), int(found.st_mtime)
        info.uid, info.gid = found.st_uid, found.st_gid
        return info


class _Padded(io.RawIOBase):
    """A file that goes on as zeros should it shrink while it is read, so that the tar stays well-formed."""

    def __init__(self, source: io.BufferedReader) -> None:
        super().__init__()
        self._source = source

    def read(self, size: int = -1) -> bytes:
        """Exactly ``size`` bytes."""
        data = self._source.read(size) or b""
        return data + bytes(max(0, size - len(data)))
