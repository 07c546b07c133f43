"""What inbox and watch know about a single name in a folder that someone less trusted may write to."""

import errno
import fcntl
import os
import signal
import stat
import time

from agent.host.files import open_entry
from agent.model.text import one_line

_PASSING_SUFFIXES = (".tmp", ".part")


def is_passing(name: str) -> bool:
    """Whether a name says that the file is not meant yet: hidden, or ending in ``.tmp`` or ``.part``."""
    return name.startswith(".") or name.endswith(_PASSING_SUFFIXES)


def is_single(name: str) -> bool:
    """Whether it names an entry of the folder itself, and nothing above or below."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def shown(name: str) -> str:
    """The name for an answer or a log: one line, bytes that are no UTF-8 as ``\\xNN``, at most 255 characters."""
    return one_line(name, 255)


def is_regular(name: str, folder: int) -> bool | None:
    """As lstat(2) sees it; None when absent. Raises OSError for anything else."""
    try:
        return stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return None


def is_being_written(name: str, folder: int, quiet_s: float = 0.2) -> bool:
    """Whether some process has the regular file open for writing now; False when absent or unreadable.

    The kernel knows: it grants a read lease (F_SETLEASE, fcntl(2)) only on a file that nobody has open for writing. Where
    it gives no leases (a network filesystem, no CAP_LEASE), a file changed in the last ``quiet_s`` seconds counts as being
    written.
    """
    try:
        fd = open_entry(name, folder)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return False
        # Someone opening the file in the microseconds of the lease makes the kernel signal us: by default SIGIO, which kills.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EWOULDBLOCK}:
                return True
            return time.time() - found.st_mtime < quiet_s
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(fd)
