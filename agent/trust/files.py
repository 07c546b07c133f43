"""Key files: read only when nobody but root (or this user) can have written them, and written once, whole, and durably."""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from agent.errors import ConfigError

KEY_FILE_MAX = 256 * 1024
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_ANY = stat.S_IRWXG | stat.S_IRWXO


def read_key_file(path: Path, *, secret: bool = False, guarded: bool = True) -> bytes:
    """The bytes of a key file, looked at through the descriptor that is read, so that nothing can be swapped in between.

    ``secret``: others may not read it either. ``guarded`` False: owner and mode do not matter, and a symlink is followed
    (for a JWK Set that a person names on the command line, and trusts by naming it).

    Raises:
        ConfigError: ``key_file_missing``, ``key_file_unreadable``, ``key_file_kind`` (a symlink, fifo, folder),
            ``key_file_owner``, ``key_file_mode``, ``key_file_size``.
    """
    descriptor = _open(path, guarded=guarded)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("key_file_kind", "is no regular file", path=path)
        if guarded:
            check_guard(path, status, _OTHERS_ANY if secret else _OTHERS_WRITE)
        with open(descriptor, "rb", closefd=False) as file:  # a descriptor, not a path
            data = file.read(KEY_FILE_MAX + 1)
    except OSError as caught:
        raise ConfigError("key_file_unreadable", f"can't be read: {os.strerror(caught.errno or 0)}", path=path) from caught
    finally:
        os.close(descriptor)
    if len(data) > KEY_FILE_MAX:
        raise ConfigError("key_file_size", f"is longer than {KEY_FILE_MAX} bytes", path=path)
    return data


def _open(path: Path, *, guarded: bool) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a fifo must not make us wait
    try:
        return os.open(path, flags | (os.O_NOFOLLOW if guarded else 0))
    except FileNotFoundError as caught:
        raise ConfigError("key_file_missing", "is not there", path=path) from caught
    except OSError as caught:
        if caught.errno == errno.ELOOP:
            raise ConfigError("key_file_kind", "is a symlink", path=path) from caught
        raise ConfigError("key_file_unreadable", f"can't be opened: {os.strerror(caught.errno or 0)}", path=path) from caught


def check_guard(path: Path, status: os.stat_result, forbidden: int = _OTHERS_WRITE) -> None:
    """Refuse what another user could have put there.

    Raises:
        ConfigError: ``key_file_owner``, ``key_file_mode``.
    """
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError("key_file_owner", f"belongs to uid {status.st_uid}, not to root", path=path)
    if status.st_mode & forbidden:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError("key_file_mode", f"its mode {mode:04o} lets others at it", path=path)


def write_secret(path: Path, data: bytes) -> None:
    """Create ``path`` with mode 0600, whole or not at all, on disk when this returns; never over a file that is there.

    The bytes go to a temporary name first and are then linked: a power cut leaves no half a key under the real name, and
    two that race leave one.

    Raises:
        FileExistsError: something of that name is there, and stays as it is.
        ConfigError: ``key_file_unwritable``.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.link(temporary, path, follow_symlinks=False)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _sync_folder(path.parent)
    except FileExistsError:
        raise
    except OSError as caught:
        raise ConfigError("key_file_unwritable", f"can't be written: {os.strerror(caught.errno or 0)}", path=path) from caught


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
