"""Which system calls change the host, and the seccomp filter that stops a traced process at each of them.

Counted are calls that change files, folders, their metadata or mounts, that make such a change durable, and signals; of
``systemctl`` and its like also what they send over a socket, since that is an order. Of every program that tidegated runs, not
only of itself. Not counted: writes to pipes, terminals, /dev and the sweep's own files, other sockets, locks, and looking.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import NamedTuple

OWN = "/run/crash"  # the sweep's own files in the host

_FD_CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "ftruncate", "fallocate", "ioctl", "fchmod", "fchown"),
    *("fsync", "fdatasync", "sync_file_range", "fsetxattr", "fremovexattr"),
)
_PATH_CALLS = (
    *("creat", "truncate", "rename", "unlink", "mkdir", "rmdir", "chmod", "chown", "lchown", "mknod", "utime", "utimes"),
    *("setxattr", "lsetxattr", "removexattr", "lremovexattr", "umount2", "pivot_root", "acct"),
)
_AT_CALLS = (
    *("openat", "unlinkat", "mkdirat", "renameat", "renameat2", "linkat", "mknodat", "fchmodat", "fchownat", "utimensat"),
    "futimesat",
)
# Name → where its target is: ("fd", argument), ("path", argument), or ("at", argument of the folder, argument of the path).
_TARGETS: dict[str, tuple[str, int, int]] = {
    **dict.fromkeys(_FD_CALLS, ("fd", 0, 0)),
    **dict.fromkeys(("copy_file_range", "splice"), ("fd", 2, 0)),
    **dict.fromkeys(_PATH_CALLS, ("path", 0, 0)),
    **dict.fromkeys(("link", "symlink", "mount", "move_mount"), ("path", 1, 0)),
    **dict.fromkeys(_AT_CALLS, ("at", 0, 1)),
    "open": ("path", 0, 0),
    "symlinkat": ("at", 1, 2),
    "sync": ("none", 0, 0),
    "syncfs": ("fd", 0, 0),
    "sethostname": ("none", 0, 0),
    **dict.fromkeys(("kill", "tkill", "pidfd_send_signal"), ("pid", 0, 1)),
    "tgkill": ("pid", 1, 2),
    **dict.fromkeys(("sendmsg", "sendto", "sendmmsg"), ("socket", 0, 0)),
}
_OPEN_FLAGS = {"openat": 2, "open": 1}  # argument with the flags; only calls that make or empty a file are stopped at
_SET_FLAGS = 0x40086602  # FS_IOC_SETFLAGS (chattr(1)), the one ioctl that is counted
_TRACE = 0x7FF00000  # SECCOMP_RET_TRACE
_ALLOW = 0x7FFF0000
_NO_NEW_PRIVS = 3  # SCMP_FLTATR_CTL_NNP: off, since sudo(8) is one of the programs the agent runs
_MASKED_EQ = 7  # SCMP_CMP_MASKED_EQ
_AT_FDCWD = -100
_ORDERING = ("systemctl", "loginctl", "busctl", "systemd-")  # what these send is an order; what others send asks who is who


class Call(NamedTuple):
    """One mutating call a traced process is about to make. ``own``: by the agent itself, not by a program it runs."""

    name: str
    target: str
    program: str
    own: bool
    processes: int  # traced processes alive at that moment

    def __str__(self) -> str:
        """As reports name it."""
        return f"{self.name} {self.target}" + ("" if self.own else f" (by {self.program})")


class _Compare(ctypes.Structure):
    """struct scmp_arg_cmp (seccomp_rule_add(3))."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class Filter:
    """The filter, made once; :meth:`load` puts it on the calling process and all it starts."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._library.seccomp_rule_add_array.argtypes = (
            *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare)),
        )
        self.names: dict[int, str] = {}
        self._context = ctypes.c_void_p(self._library.seccomp_init(_ALLOW))
        self._library.seccomp_attr_set(self._context, _NO_NEW_PRIVS, 0)
        for name in _TARGETS:
            number = self._library.seccomp_syscall_resolve_name(name.encode())
            if number >= 0:  # not every architecture has all of them
                self.names[number] = name
                self._stop_at(name, number)

    def load(self) -> None:
        """From here on this process stops at them; without a tracer they would fail."""
        if self._library.seccomp_load(self._context) != 0:
            raise OSError(ctypes.get_errno(), "no seccomp filter can be loaded here")

    def _stop_at(self, name: str, number: int) -> None:
        at = _OPEN_FLAGS.get(name)
        if at is not None:
            for flag in (os.O_CREAT, os.O_TRUNC):
                self._rule(number, [_Compare(at, _MASKED_EQ, flag, flag)])
        elif name == "ioctl":
            self._rule(number, [_Compare(1, _MASKED_EQ, 0xFFFFFFFF, _SET_FLAGS)])
        else:
            self._rule(number, [])

    def _rule(self, number: int, compares: list[_Compare]) -> None:
        array = (_Compare * max(1, len(compares)))(*compares)
        if self._library.seccomp_rule_add_array(self._context, _TRACE, number, len(compares), array) != 0:
            raise OSError(f"no rule for call {number}")


def describe(pid: int, name: str, arguments: tuple[int, ...], program: str, *, own: bool) -> str | None:
    """What the call of that stopped process is about; None when it changes nothing that counts."""
    kind, first, second = _TARGETS[name]
    if kind == "pid":
        return f"{_signed(arguments[first])} with signal {arguments[second]}"
    if kind == "none":
        return ""
    if kind == "fd":
        target = _of_descriptor(pid, arguments[first])
    elif kind == "socket":
        return "a socket" if not own and program.startswith(_ORDERING) else None
    else:
        folder = arguments[first] if kind == "at" else _AT_FDCWD
        target = _path(pid, folder, _string(pid, arguments[second if kind == "at" else first]))
        if name.startswith("mkdir") and os.path.lexists(f"/proc/{pid}/root{target}"):
            return None  # nothing changes: it is there
    counted = target.startswith("/") and not target.startswith((f"{OWN}/", "/dev/", "/memfd:", "/proc/self/fd"))
    return target if counted or target.startswith("/dev/shm") else None


def _of_descriptor(pid: int, fd: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/fd/{_signed(fd)}").readlink())
    except OSError:
        return ""


def _path(pid: int, folder: int, path: str) -> str:
    if path.startswith("/"):
        return path
    try:
        base = Path(f"/proc/{pid}/cwd").readlink() if _signed(folder) == _AT_FDCWD else Path(_of_descriptor(pid, folder))
    except OSError:
        return path
    return f"{base}/{path}"


def _string(pid: int, address: int) -> str:
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            return (memory.read(4096 - address % 4096) or b"").split(b"\0", 1)[0].decode(errors="backslashreplace")
    except OSError:
        return "?"


def _signed(value: int) -> int:
    """An int argument, as the C library passed it in a 64-bit register."""
    return int(struct.unpack("i", struct.pack("I", value & 0xFFFFFFFF))[0])
