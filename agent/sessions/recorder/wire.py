"""tidegate-shell's one question and the recorder's one answer, over SOCK_SEQPACKET (unix(7)) with descriptors (SCM_RIGHTS).

Whoever connects may be any process of any user: a message is bounded, its parts are checked, and descriptors that came along with
anything wrong are given back to the kernel at once.
"""

import array
import contextlib
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from agent.sessions.recorder.closing import close_elsewhere

KINDS = ("pty", "pipe", "sftp")
COMMAND_MAX = 32768
_MESSAGE_MAX = COMMAND_MAX + 1024
_REMOTE_MAX = 200
_TERM_MAX = 64
_STDS = 3
_PTS_MAJORS = range(136, 144)  # Documentation/admin-guide/devices.txt


class WireError(Exception):
    """What came is no question; the text is for the one who asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """``fds``: standard input, output and error. ``remote`` and ``term`` are the tenant's own words (SSH_CONNECTION, TERM)."""

    kind: str
    command: str
    remote: str
    term: str
    fds: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int


def peer_of(connection: socket.socket) -> Peer:
    """Raises OSError."""
    pid, uid, _gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    return Peer(pid, uid)


def receive(connection: socket.socket, most: int, size: int) -> tuple[bytes, list[int]]:
    """One message and its descriptors (``most`` at most: the kernel drops the others). Raises BlockingIOError, WireError."""
    data, control, flags, _ = connection.recvmsg(size, socket.CMSG_LEN(most * 4), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, body in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) // 4 * 4])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_elsewhere(fds)
        raise WireError("more than one question may hold, or the recorder has no descriptor left")
    return data, list(fds)


def ask(connection: socket.socket) -> Question | None:
    """The question, None where the other has gone. Raises BlockingIOError, WireError; OSError where the connection is no good."""
    data, fds = receive(connection, _STDS, _MESSAGE_MAX)
    if not data and not fds:
        return None
    try:
        parts = data.decode(errors="replace").split("\0")
        if len(fds) != _STDS or not 3 <= len(parts) <= 5 or parts[0] != "1" or parts[1] not in KINDS:
            raise WireError("not a question this recorder knows")
    except WireError:
        close_elsewhere(fds)
        raise
    parts += ["", ""]
    return Question(parts[1], parts[2][:COMMAND_MAX], parts[3][:_REMOTE_MAX], parts[4][:_TERM_MAX], (fds[0], fds[1], fds[2]))


def answer(connection: socket.socket, word: str, *texts: str, fds: Sequence[int] = ()) -> bool:
    """Send it, if it goes at once; a process that does not read has asked for nothing."""
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    with contextlib.suppress(OSError):
        connection.sendmsg(["\0".join((word, *texts)).encode()], control, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return True
    return False


@dataclass(frozen=True, slots=True)
class What:
    """What a descriptor is: ``terminal`` (a pts), ``socket`` (connected stream of unix(7)), ``pipe``, or ``other``; and which."""

    kind: str
    key: tuple[int, int]


class _Statx(ctypes.Structure):
    _fields_ = (
        ("head", ctypes.c_uint32 * 7),
        ("mode", ctypes.c_uint16),
        ("spare", ctypes.c_uint16),
        ("ino", ctypes.c_uint64),
        ("between", ctypes.c_uint64 * 11),
        ("rdev_major", ctypes.c_uint32),
        ("rdev_minor", ctypes.c_uint32),
        ("dev_major", ctypes.c_uint32),
        ("dev_minor", ctypes.c_uint32),
        ("rest", ctypes.c_uint64 * 14),
    )


_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC, _STATX_TYPE_MODE_INO = 0x1000, 0x4000, 0x1 | 0x2 | 0x100


def what_is(fd: int) -> What:
    """Without asking a file system about it: one of the tenant's own (FUSE) might never answer (statx(2), AT_STATX_DONT_SYNC)."""
    found = _Statx()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if _LIBC.statx(fd, b"", flags, _STATX_TYPE_MODE_INO, ctypes.byref(found)):
        return What("other", (0, 0))
    device = os.makedev(found.dev_major, found.dev_minor)
    if stat.S_ISCHR(found.mode) and found.rdev_major in _PTS_MAJORS:
        return What("terminal", (0, os.makedev(found.rdev_major, found.rdev_minor)))
    if stat.S_ISFIFO(found.mode):
        return What("pipe", (device, found.ino))
    if stat.S_ISSOCK(found.mode) and _is_stream(fd):
        return What("socket", (device, found.ino))
    return What("other", (device, found.ino))


def _is_stream(fd: int) -> bool:
    copy = -1
    try:
        copy = os.dup(fd)
        with socket.socket(fileno=copy) as found:
            copy = -1
            found.getpeername()  # or it is not connected
            return (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        if copy >= 0:
            os.close(copy)
        return False
