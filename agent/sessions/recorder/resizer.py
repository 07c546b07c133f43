"""A bare interpreter that forks one tiny process for each terminal, which says when its window has changed.

Only a terminal's foreground group gets SIGWINCH, so somebody must lead a session there; it is a process of its own for each, and
small: dash where the host has it (0.12 MB), else a fork of this program, which imports next to nothing (0.3 MB). Run by
:mod:`agent.sessions.recorder.windows`, with a socket as standard input: each message brings two descriptors, the terminal and the
write end of a pipe that gets a byte for each change.
"""

import _signal
import _socket
import fcntl
import gc
import posix
import sys
import termios

DASH = "/bin/dash"
SCRIPT = "trap 'echo w' WINCH; echo w; while :; do read x; done"
_MESSAGE = 16


def _watch(terminal: int, told: int) -> None:
    """The forked process: until the terminal hangs up (SIGHUP) or nobody reads the pipe. Holds no descriptor of the terminal."""
    posix.setsid()
    changes = {_signal.SIGWINCH}
    _signal.pthread_sigmask(_signal.SIG_BLOCK, changes)
    _signal.signal(_signal.SIGHUP, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    posix.dup2(told, 1)
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    posix.dup2(posix.open("/dev/null", posix.O_RDWR), 0)
    posix.dup2(0, 2)
    posix.closerange(3, 65536)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    try:
        silent, kept = posix.pipe()  # nobody ever writes there, and it has no end
        posix.dup2(silent, 0)
        posix.set_inheritable(kept, True)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, changes)
        posix.execv(DASH, ["tidegate-window", "-c", SCRIPT])
    except OSError:
        _signal.pthread_sigmask(_signal.SIG_BLOCK, changes)
    wait, write = _signal.sigwait, posix.write
    write(1, b"w")  # it may have changed before anybody looked
    while True:
        wait(changes)
        try:  # noqa: SIM105  (contextlib is not imported here)
            write(1, b"w")
        except BlockingIOError:
            pass  # the reader has enough to wake up for


def main() -> None:
    """Serve until the recorder hangs up."""
    served = _socket.socket(fileno=posix.dup(0))
    for number in (_signal.SIGHUP, _signal.SIGTERM, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # no zombies
    gc.freeze()
    gc.disable()
    while True:
        data, control, _flags, _address = served.recvmsg(_MESSAGE, _socket.CMSG_LEN(8), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        fds = [int.from_bytes(body[at : at + 4], sys.byteorder) for _, _, body in control for at in range(0, len(body), 4)]
        if len(fds) == 2:
            try:
                child = posix.fork()
            except OSError:
                child = -1
            if child == 0:
                try:
                    _watch(*fds)
                finally:
                    posix._exit(0)
        for fd in fds:
            posix.close(fd)


if __name__ == "__main__":
    main()
