"""Whose member somebody is, as the name service says: getgrouplist(3), with everybody else running meanwhile.

Python's own keeps the interpreter to itself while it waits. The answer may be a server's that is out of reach, or of a systemd that
answers nobody (45 seconds): that long no deadline of any grant would be looked at.
"""

import ctypes
import os

_LIBC = ctypes.CDLL(None)  # whose calls let the other threads run
_ENOUGH = 64
_MOST = 65536 + 1  # NGROUPS_MAX, and the primary one


def gids_of(name: str, primary: int) -> list[int]:
    """GIDs of all groups that list the name, and ``primary``. Like os.getgrouplist, of which this is the same call.

    Raises:
        ValueError: the name has a NUL in it.
        OSError: it is in more groups than the kernel knows of.
    """
    login = os.fsencode(name)
    if b"\0" in login:
        raise ValueError("a name with a NUL")
    for room in (_ENOUGH, _MOST):
        found, count = (ctypes.c_uint32 * room)(), ctypes.c_int(room)
        if _LIBC.getgrouplist(login, ctypes.c_uint32(primary), found, ctypes.byref(count)) >= 0:
            return list(found[: count.value])
    raise OSError(f"{name} is in more than {_MOST} groups")
