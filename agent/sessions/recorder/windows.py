"""Who tells when a terminal's window changes: asks the resizer, a small program of its own, for a process for each terminal."""

import array
import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

log = logging.getLogger("tidegate")
_PROGRAM = Path(__file__).with_name("resizer.py")


class Windows:
    """Starts the resizer when first needed, and anew when it has died."""

    def __init__(self) -> None:
        self._program: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start the resizer. Raises OSError."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            argv = [sys.executable, "-I", "-S", "-E", "-B", str(_PROGRAM)]
            self._program = subprocess.Popen(argv, stdin=its.fileno(), stdout=subprocess.DEVNULL, close_fds=True, env={}, cwd="/")
        ours.setblocking(False)
        self._socket = ours

    def watch(self, terminal: int) -> int:
        """A pipe that has a byte for each change of the terminal's window, and its end when the terminal has hung up.

        Raises OSError.
        """
        ours, its = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._send(terminal, its)
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(its)
        return ours

    def stop(self) -> None:
        """Let it end; what it has forked goes with its terminals."""
        if self._socket is not None:
            self._socket.close()
        if self._program is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._program.wait(1.0)
        self._socket = self._program = None

    def _send(self, terminal: int, told: int) -> None:
        for again in (True, False):
            if self._socket is None:
                self.start()
            assert self._socket is not None  # noqa: S101  (start made it)
            fds = array.array("i", (terminal, told))
            try:
                self._socket.sendmsg([b"w"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                raise
            except OSError:
                log.warning("the process that tells of changed windows has died: it is started again")
                self.stop()
                if not again:
                    raise
            else:
                return
