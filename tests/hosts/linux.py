"""The few system calls that Python 3.11 has no function for. Not mount(8): it keeps notes of its own in /run."""

import contextlib
import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
_MNT_DETACH = 0x2
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError."""
    arguments = (source.encode(), str(target).encode(), kind.encode() if kind else None)
    _checked(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {kind} on {target}")


def unmount(target: Path) -> None:
    """umount2(2), detaching at once even where a process still has a file open there. Raises OSError."""
    _checked(_libc.umount2(str(target).encode(), _MNT_DETACH), f"umount {target}")


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """setns(2). Raises OSError."""
    _checked(_libc.setns(fd, flags), "setns")


def set_name(name: str) -> None:
    """Set the name ps shows for this process (15 characters)."""
    _checked(_libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of all orphans among this process's descendants (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def reap() -> bool:
    """Reap what children have ended; True when there are none any more."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def forget_login() -> None:
    """Clear the audit login uid: a host's daemons must not carry that of the developer who started the tests."""
    with contextlib.suppress(OSError):  # never set, or not permitted to change: then it is what it is
        Path("/proc/self/loginuid").write_text("4294967295")
