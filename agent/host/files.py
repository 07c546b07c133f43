"""Single files: atomic writes, bounded reads, unlinking. Nothing here follows a symlink at the last component.

A write is a new file of a hidden temporary name in the same folder, with owner, mode and content complete and synced
before :func:`os.rename` puts it in place: a reader sees the old file or the new one, and a crash leaves at most a dotfile
that sshd, sudo and nss-systemd skip.
"""

import contextlib
import errno
import itertools
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from agent.errors import HostError

READ_MAX = 1 << 20  # bytes
TEMPORARY = ".tidegate-"
_WRITERS = 4  # of one path at once, that unfinished files have names of their own for; a fifth takes a random one


@contextlib.contextmanager
def folder(path: Path) -> Iterator[int]:
    """An open descriptor of a folder. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """A descriptor of the folder; a link in its place is refused. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def open_entry(name: str, folder: int) -> int:
    """Open for reading without following a link, waiting for a FIFO's writer, or taking a terminal. Raises OSError."""
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=folder)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte; :func:`os.write` may write less. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def atomic_write(path: Path, data: bytes, mode: int = 0o644, *, uid: int = 0, gid: int = 0, like: int | None = None) -> None:
    """Put a file with exactly these bytes at ``path``, whole or not at all, durable on return.

    Args:
        mode: permission bits, set before the file has its name (the umask does not matter).
        like: descriptor of a file whose owner, mode and extended attributes (SELinux label, ACL) are taken instead.

    Raises:
        HostError: ``write_failed``; the old file is then still in place.
    """
    try:
        with folder(path.parent) as parent:
            temporary, fd = _unfinished(path, parent)
            try:
                try:
                    _dress(fd, mode, uid, gid, like)
                    write_all(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise
            os.fsync(parent)
    except OSError as error:
        raise HostError("write_failed", f"{path} could not be written: {error.strerror}") from error


def _unfinished(path: Path, parent: int) -> tuple[str, int]:
    """A new file beside the path, by one of few names: what a kill leaves of it is found without looking through the folder."""
    for name in (*_slots(path), temporary_for(path).name):
        with contextlib.suppress(FileExistsError):
            return name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
    raise FileExistsError(errno.EEXIST, "every name for its unfinished file is taken")


def _slots(path: Path) -> list[str]:
    return [f"{TEMPORARY}{path.name}.{number}" for number in range(_WRITERS)]


def temporary_for(path: Path) -> Path:
    """A name beside it for while it is unfinished; what a kill leaves under it, :func:`clear_leftovers` knows again."""
    return path.with_name(f"{TEMPORARY}{path.name}.{secrets.token_hex(6)}")


def _dress(fd: int, mode: int, uid: int, gid: int, like: int | None) -> None:
    """Owner, then mode (chown clears set-id bits), then attributes."""
    if like is None:
        if os.geteuid() == 0:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
        return
    pattern = os.fstat(like)
    if (pattern.st_uid, pattern.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(fd, pattern.st_uid, pattern.st_gid)
    os.fchmod(fd, stat.S_IMODE(pattern.st_mode))
    try:
        names = os.listxattr(like)
    except OSError:  # a filesystem without extended attributes has none to copy
        return
    for name in names:
        os.setxattr(fd, name, os.getxattr(like, name))


def read_bounded(path: Path, limit: int = READ_MAX) -> bytes | None:
    """The bytes of a regular file; None when absent. A FIFO or device never blocks it.

    Raises:
        HostError: ``not_a_file`` (symlink, FIFO, folder, ...), ``file_too_long`` (more than ``limit`` bytes), ``read_failed``.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        code = "not_a_file" if path.is_symlink() else "read_failed"
        raise HostError(code, f"{path} could not be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise HostError("not_a_file", f"{path} is no regular file")
        return read_fd(fd, limit, str(path))
    finally:
        os.close(fd)


def read_fd(fd: int, limit: int, name: str) -> bytes:
    """All from the descriptor's position on, at most ``limit`` bytes. Raises HostError ``file_too_long``, ``read_failed``."""
    data = bytearray()
    try:
        while chunk := os.read(fd, min(1 << 16, limit + 1 - len(data))):
            data += chunk
            if len(data) > limit:
                raise HostError("file_too_long", f"{name} is longer than {limit} bytes")
    except OSError as error:
        raise HostError("read_failed", f"{name} could not be read: {error.strerror}") from error
    return bytes(data)


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Write over so many bytes in place, synced: no new block, so that it works on a full disk. Never follows a symlink.

    Raises:
        HostError: ``write_failed``.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.pwrite(fd, data, at)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise HostError("write_failed", f"{path} could not be changed: {error.strerror}") from error


def remove(path: Path) -> None:
    """Unlink; absent is done. A symlink goes itself, never its target. Raises HostError ``remove_failed``."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise HostError("remove_failed", f"{path} could not be removed: {error.strerror}") from error


def sync_folder(path: Path) -> None:
    """Wait until what was removed from a folder is gone on the disk too; an absent one is done.

    Nothing is lost by an unlink that is not synced, but it may come back when the power goes, and a journal on another file
    system, which was synced, says that it is gone.

    Raises:
        HostError: ``remove_failed``.
    """
    try:
        with folder(path) as fd:
            os.fsync(fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError("remove_failed", f"what was removed from {path} may come back: {error.strerror}") from error


def clear_unwritten(path: Path) -> None:
    """Remove what a killed :func:`atomic_write` of this path left beside it. Only where nobody else writes the path now.

    However many files the folder holds: opening a grant writes into folders that have several for each live grant.
    """
    folder = str(path.parent)
    for name in _slots(path):
        with contextlib.suppress(OSError):  # none is there, mostly; or it stays, hidden
            os.unlink(f"{folder}/{name}")  # noqa: PTH108  # a Path of each costs ten times what looking for it does


def clear_leftovers(path: Path) -> None:
    """The same, and what was left under a name of :func:`temporary_for`: the whole folder is looked through."""
    _clear(path.parent, f"{TEMPORARY}{path.name}.")


def clear_unfinished(folder: Path) -> None:
    """Remove every file that a kill left unfinished in a folder of Tidegate's own, where nobody writes now."""
    _clear(folder, TEMPORARY)


def _clear(folder: Path, prefix: str) -> None:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(prefix)]:
            with contextlib.suppress(HostError):  # it stays, hidden
                remove(Path(entry.path))


def exists(path: Path) -> bool:
    """Whether something has that name, a dangling symlink included. What can't be looked at counts as there."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def identity(path: Path) -> tuple[int, ...] | None:
    """Device, inode, size, mtime and ctime of the file that a path leads to; None where it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def names(path: Path, most: int = 10_000) -> tuple[str, ...]:
    """What a folder holds, sorted, at most so many; nothing where it can't be listed."""
    try:
        with os.scandir(path) as entries:
            return tuple(sorted(entry.name for entry in itertools.islice(entries, most)))
    except OSError:
        return ()


def is_own(found: os.stat_result) -> bool:
    """Whether it is a regular file of this process's own user."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def own_files(folder: int, name: re.Pattern[str], most: int = 65_536) -> list[tuple[re.Match[str], int]]:
    """Of an open folder that others may write to: its own files (:func:`is_own`) of such a name, each with its bytes, unsorted.

    Another's under such a name counts for nothing. At most ``most`` entries are looked at. Raises OSError.
    """
    found: list[tuple[re.Match[str], int]] = []
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, most):
            match = name.fullmatch(entry.name)
            if match is None:
                continue
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                status = entry.stat(follow_symlinks=False)
                if is_own(status):
                    found.append((match, status.st_size))
    return found


def make_folder(path: Path, mode: int = 0o755) -> None:
    """A root-owned folder of that mode, with its parents (0755). Raises HostError ``write_failed``."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        with opened_folder(path) as fd:
            if os.geteuid() == 0:
                os.fchown(fd, 0, 0)
            os.fchmod(fd, mode)
    except OSError as error:
        raise HostError("write_failed", f"folder {path} could not be made: {error.strerror}") from error
