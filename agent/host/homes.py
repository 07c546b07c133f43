"""Homes: made from /etc/skel under a hidden name and renamed when whole; packed away without following a link; removed.

The name a home has is only ever given to a finished tree that its user owns, so that a kill at any point leaves either
nothing, or a hidden folder of root's that the next try or the removal clears.
"""

import contextlib
import os
import stat
import tarfile
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import HomeDisposal
from agent.host.files import clear_leftovers, folder, make_folder, temporary_for
from agent.host.packing import Packer
from agent.host.trees import mount_id, names_in, opened, remove_tree

SKEL = Path("/etc/skel")
SKEL_ENTRIES, SKEL_BYTES = 2_000, 16 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def _half_made(name: str) -> str:
    """The hidden name a home has until it is whole; one for each login, so that a leftover is found again."""
    return f".tidegate-new-{name}"


def _remove_half_made(base: int, path: Path, uid: int) -> list[str]:
    """What a kill left under the hidden name: root's, or given to the user already when only the rename was missing."""
    name = _half_made(path.name)
    try:
        owner = os.lstat(name, dir_fd=base).st_uid
    except FileNotFoundError:
        return []
    return remove_tree(base, name, uid if owner == uid else 0, str(path.parent / name))


def create_home(path: Path, uid: int, gid: int, skel: Path = SKEL) -> None:
    """Make a home of mode 0700 with what is in ``skel``. One of the same uid that is there already is kept as it is.

    Raises:
        HostError: ``home_taken`` (the path is there and is not that uid's), ``home_failed``.
    """
    try:
        if not path.parent.exists():
            make_folder(path.parent)
        with folder(path.parent) as base:
            if _owned(base, path, uid):
                return
            left = _remove_half_made(base, path, uid)
            if left:
                raise HostError("home_failed", f"an unfinished home is in the way: {left[0]}")
            os.mkdir(_half_made(path.name), 0o700, dir_fd=base)
            with opened(_half_made(path.name), base) as home:
                with contextlib.suppress(FileNotFoundError), opened(str(skel)) as source:
                    _Skeleton(uid, gid).copy(source, home)
                os.fchown(home, uid, gid)
                os.fchmod(home, 0o700)
            os.rename(_half_made(path.name), path.name, src_dir_fd=base, dst_dir_fd=base)
    except OSError as error:
        raise HostError("home_failed", f"home {path} could not be made: {error.strerror}") from error


def _owned(base: int, path: Path, uid: int) -> bool:
    """Whether the home is there, finished. Raises HostError ``home_taken`` when something else has its name."""
    try:
        found = os.lstat(path.name, dir_fd=base)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise HostError("home_taken", f"{path} is there already and belongs to uid {found.st_uid}")
    return True


class _Skeleton:
    """A copy of /etc/skel: folders, regular files and symlinks, all given to the user; anything else is left out."""

    def __init__(self, uid: int, gid: int) -> None:
        self.uid, self.gid = uid, gid
        self.entries, self.bytes = SKEL_ENTRIES, SKEL_BYTES

    def copy(self, source: int, target: int) -> None:
        """Copy one folder's content. Raises OSError; HostError ``home_failed`` when it is beyond all reason."""
        for name in names_in(source):
            self.entries -= 1
            if self.entries < 0:
                raise HostError("home_failed", f"the skeleton has more than {SKEL_ENTRIES} entries")
            found = os.lstat(name, dir_fd=source)
            if stat.S_ISDIR(found.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                with opened(name, source) as inner_source, opened(name, target) as inner_target:
                    self.copy(inner_source, inner_target)
                    self._give(inner_target, found.st_mode)
            elif stat.S_ISLNK(found.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
                os.chown(name, self.uid, self.gid, dir_fd=target, follow_symlinks=False)
            elif stat.S_ISREG(found.st_mode):
                self._file(name, source, target, found.st_mode)

    def _file(self, name: str, source: int, target: int, mode: int) -> None:
        with os.fdopen(os.open(name, _READ, dir_fd=source), "rb") as old:
            data = old.read(self.bytes + 1)
        self.bytes -= len(data)
        if self.bytes < 0:
            raise HostError("home_failed", f"the skeleton holds more than {SKEL_BYTES} bytes")
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=target)
        with os.fdopen(fd, "wb") as new:
            new.write(data)
            self._give(fd, mode)

    def _give(self, fd: int, mode: int) -> None:
        os.fchown(fd, self.uid, self.gid)
        os.fchmod(fd, mode & 0o777)  # no set-id bits, whatever the skeleton has


def dispose_home(path: Path, uid: int, archive_to: Path | None) -> HomeDisposal:
    """Delete a home, first packing it into the file ``archive_to`` when that is given. Absent is done.

    An archive that is there already was finished by an earlier try, and is kept: the tree may be half gone by now.

    Raises:
        HostError: ``archive_failed``; the home is then untouched.
    """
    left: list[str] = []
    archived = archive_to is not None and archive_to.exists()
    try:
        with folder(path.parent) as base:
            left += _remove_half_made(base, path, uid)
            if archive_to is not None and not archived:
                clear_leftovers(archive_to)  # of a killed try: it may be gigabytes
                archived = _archive(base, path, uid, archive_to)
            left += remove_tree(base, path.name, uid, str(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        left.append(f"{path}: {error.strerror}")
    return HomeDisposal(archive=str(archive_to) if archived else None, left=tuple(left))


def _archive(base: int, path: Path, uid: int, target: Path) -> bool:
    """Pack the tree into ``target`` (0600, root's), atomically. False when there is no such home of that uid."""
    temporary = temporary_for(target)
    try:
        with opened(path.name, base) as home:
            if os.fstat(home).st_uid != uid or mount_id(home) != mount_id(base):
                return False
            make_folder(target.parent, 0o700)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as raw:
                with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3, format=tarfile.PAX_FORMAT) as tar:
                    Packer(tar, mount_id(home)).pack(home, path.name)
                raw.flush()
                os.fsync(fd)
            temporary.rename(target)
            with folder(target.parent) as parent:
                os.fsync(parent)
    except (FileNotFoundError, NotADirectoryError) as error:
        if temporary.exists():
            raise HostError("archive_failed", f"{path} could not be packed: {error.strerror}") from error
        return False
    except (OSError, tarfile.TarError) as error:
        raise HostError("archive_failed", f"{path} could not be packed: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return True
