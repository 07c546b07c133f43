"""One file put into a folder, whole or not at all, durable on return."""

import contextlib
import os
import secrets

TEMPORARY = ".tidegate-"


def atomic_write(folder: int, name: str, data: bytes, *, mode: int) -> None:
    """Write under a hidden name, sync, rename, sync the folder. As root, the file gets the folder's group.

    Args:
        folder: descriptor of the folder.
        mode: permission bits, whatever the umask.

    Raises:
        OSError: nothing is then under ``name`` that was not there before.
    """
    temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        try:
            if os.geteuid() == 0:
                os.fchown(fd, 0, os.fstat(folder).st_gid)
            os.fchmod(fd, mode)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)
