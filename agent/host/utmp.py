"""Who sits where, as who(1), wall(1) and write(1) find it (utmp(5)): a login whose terminal was exchanged sits at the new one.

Hosts without that file (Debian 13 and later) have nothing to change.
"""

import ctypes
import logging
import os
import threading

log = logging.getLogger("tidegate")
_LINE, _LINE_MAX = 8, 32  # struct utmp: where ut_line is, on every architecture of Linux
_ENTRY_MAX = 512
_libc = ctypes.CDLL(None, use_errno=True)
_libc.getutxline.restype = _libc.pututxline.restype = ctypes.c_void_p
_libc.pututxline.argtypes = (ctypes.c_void_p,)
_one_at_a_time = threading.Lock()  # the library has one place in the file


def move(old: int, new: int) -> None:
    """The entry of one terminal becomes that of another (descriptors). Its ut_id stays, by which sshd finds it at the end."""
    wanted = ctypes.create_string_buffer(_ENTRY_MAX)
    line, other = _line(old), _line(new)
    ctypes.memmove(ctypes.addressof(wanted) + _LINE, line, len(line))
    with _one_at_a_time:
        _libc.setutxent()
        entry = _libc.getutxline(wanted)
        if entry:
            ctypes.memmove(entry + _LINE, other.ljust(_LINE_MAX, b"\0"), _LINE_MAX)
            if not _libc.pututxline(entry):
                log.warning("utmp still has a session at %s: %s", line.decode(), os.strerror(ctypes.get_errno()))
        _libc.endutxent()


def _line(fd: int) -> bytes:
    return os.ttyname(fd).removeprefix("/dev/").encode()[: _LINE_MAX - 1]
