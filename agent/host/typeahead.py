"""What somebody has typed before anything read it, carried from one terminal to another (termios(3), ioctl_tty(2)).

A hang-up throws it away, so whoever types faster than a login takes would lose it. The old terminal has shown it already, so
the new one shows nothing; and it is cooked already (erased, CR made NL), so no key in it means anything but itself.
"""

import contextlib
import copy
import fcntl
import os
import termios

_LONGEST = 4096  # more than a terminal holds (n_tty.c, N_TTY_BUF_SIZE)
_ENDS = 16  # of file, one after another: a terminal that is gone reads so for ever
_OFF = 0  # _POSIX_VDISABLE
_MEANING = (termios.VERASE, termios.VKILL, termios.VEOL, termios.VINTR, termios.VQUIT, termios.VSUSP)


def typed(fd: int) -> list[bytes]:
    """Take what waits in a terminal, a line each where it has lines; an empty one is an end of file (Ctrl-D).

    ``fd`` does not block, and nobody else reads there. The terminal has no lines afterwards: else a line that is not finished
    could not be taken. Raises OSError, termios.error.
    """
    found: list[bytes] = []
    while sum(map(len, found)) < _LONGEST and found[-_ENDS:] != [b""] * _ENDS:
        try:
            found.append(os.read(fd, _LONGEST))
        except BlockingIOError:
            break
    modes = termios.tcgetattr(fd)
    if modes[3] & termios.ICANON:
        modes[3] &= ~termios.ICANON
        modes[6][termios.VMIN], modes[6][termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSANOW, modes)
        with contextlib.suppress(BlockingIOError):
            found.append(os.read(fd, _LONGEST))
    return found


def retype(fd: int, lines: list[bytes]) -> None:
    """Put it into another terminal as if it were typed there and not shown. Raises OSError, termios.error (CAP_SYS_ADMIN)."""
    modes = termios.tcgetattr(fd)
    quiet = copy.deepcopy(modes)
    quiet[0] &= termios.ICRNL
    quiet[3] &= termios.ICANON
    for key in _MEANING:
        quiet[6][key] = _OFF
    termios.tcsetattr(fd, termios.TCSANOW, quiet)
    try:
        for line in lines:
            for byte in line or modes[6][termios.VEOF]:
                fcntl.ioctl(fd, termios.TIOCSTI, bytes((byte,)))
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, modes)
