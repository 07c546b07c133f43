"""The ends that bytes come from and go to. Each read and write returns at once, whatever the tenant does with a copy of it.

O_NONBLOCK belongs to the open file description, which the tenant may share and change; so sockets are asked by call
(MSG_DONTWAIT), and what can only be asked by the flag is asked again each time where the tenant may have a copy.
"""

import contextlib
import fcntl
import os
import socket
import termios
from collections.abc import Callable

Bytes = bytes | memoryview
_TERMINAL_READ = 4096  # the kernel gives no more at once
_TERMINAL_FULL = 2048
_ROOM = bytearray(1 << 18)  # one for all: a read is done with before the next begins
_VIEW = memoryview(_ROOM)


class End:
    """One descriptor. ``theirs``: the tenant may hold a copy of the same open file description."""

    __slots__ = ("fd", "theirs")
    both_ways = True  # one descriptor for reading and writing
    full = 1  # a read of less than this left nothing behind

    def __init__(self, fd: int, *, theirs: bool = False) -> None:
        self.fd = fd
        self.theirs = theirs
        os.set_blocking(fd, False)

    def read(self) -> Bytes | None:
        """What is there; b"" is the end, None is nothing now. What is returned holds until the next read of any end."""
        if self.theirs:
            os.set_blocking(self.fd, False)
        try:
            return _VIEW[: os.readv(self.fd, [_ROOM])]
        except BlockingIOError:
            return None
        except OSError:  # EIO: the other side of a terminal is gone
            return b""

    def write(self, data: Bytes) -> int:
        """How much was taken, 0 where nothing fits now; -1: nobody reads there any more."""
        if self.theirs:
            os.set_blocking(self.fd, False)
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def no_more(self) -> None:
        """Say that nothing more will be written, where that can be said without closing."""

    def deaf(self) -> None:
        """Say that nothing more will be read, so that who writes there is told by the kernel."""

    def close(self) -> None:
        """Give the descriptor back; twice is the same as once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class TerminalEnd(End):
    """A pseudo-terminal's master or slave (pty(7)).

    What one read gives is passed on at once: whoever shows it, and the kernel between, work while the next is read. To gather
    several first is slower, the more so the more.
    """

    __slots__ = ()
    full = _TERMINAL_FULL

    def read(self) -> Bytes | None:
        """See :meth:`End.read`."""
        if self.theirs:
            os.set_blocking(self.fd, False)
        try:
            return os.read(self.fd, _TERMINAL_READ)
        except BlockingIOError:
            return None
        except OSError:  # EIO: the other side is gone
            return b""


class PipeEnd(End):
    """One end of a pipe(7): closing it is how it says anything."""

    __slots__ = ()
    both_ways = False


class SocketEnd(End):
    """A connected stream socket of unix(7)."""

    __slots__ = ("_socket",)

    def __init__(self, fd: int, *, theirs: bool = False) -> None:
        self.fd = fd
        self.theirs = theirs
        self._socket = socket.socket(fileno=fd)

    def read(self) -> Bytes | None:
        """See :meth:`End.read`."""
        try:
            return _VIEW[: self._socket.recv_into(_ROOM, 0, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def write(self, data: Bytes) -> int:
        """See :meth:`End.write`."""
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def no_more(self) -> None:
        """See :meth:`End.no_more`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def deaf(self) -> None:
        """See :meth:`End.deaf`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """See :meth:`End.close`."""
        self._socket.close()
        self.fd = -1


def waits_for_a_secret(master: int) -> bool:
    """Whether what is typed now is a password, by all signs: a line is read and not shown (termios(3): ICANON without ECHO)."""
    try:
        local = termios.tcgetattr(master)[3]
    except termios.error:
        return True
    return bool(local & termios.ICANON) and not local & termios.ECHO


def raw(fd: int) -> None:
    """Let a terminal pass every byte as it is, both ways (termios(3), cfmakeraw)."""
    mode = termios.tcgetattr(fd)
    mode[0] = mode[1] = mode[3] = 0
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, mode)


def size_of(fd: int) -> bytes:
    """A terminal's struct winsize, as the kernel gives it: rows, columns, and two of pixels, 16 bit each. Raises OSError."""
    return fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8))


def set_size(fd: int, size: bytes) -> None:
    """The other way. Raises OSError."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, size)


Tap = Callable[[Bytes], bool]
