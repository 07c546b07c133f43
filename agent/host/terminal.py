"""Taking a terminal out of its user's reach, for the recorder: what root has to do, and nothing else.

Every descriptor that anybody had of the old terminal is dead afterwards, those on their way through a socket too: what is
opened anew is the recorder's alone. sshd's end goes on working (the way of login(1): vhangup, then open again), and what was
typed by then is typed into the new one.
"""

import contextlib
import fcntl
import grp
import logging
import os
import stat
import termios
from dataclasses import dataclass

from agent.errors import HostError
from agent.host import typeahead

log = logging.getLogger("tidegate")

_TIOCVHANGUP = 0x5437  # asm-generic/ioctls.h; needs CAP_SYS_ADMIN
_PTS_MAJORS = range(136, 144)  # devices.txt: Unix98 PTY slaves


@dataclass(frozen=True, slots=True)
class Taken:
    """``theirs``: it was the user's, and is no more; ``anew``: the old one, opened; ``typed_ahead``: bytes carried over."""

    theirs: bool
    anew: int
    typed_ahead: int = 0


def take(old: int, new: int, uid: int, giver: int) -> Taken:
    """Take ``old`` from the user and give them ``new``. Where it was never theirs (an admin's, with `su`), it is only opened anew.

    ``giver``: whose ``new`` must be, since it is given away and typed into; an admin's is nobody's to give.

    Both are descriptors of pseudo-terminals (pts(4)); the caller closes all of them. Opened anew, since flags such as
    O_NONBLOCK belong to the open file description, which others may share.

    Raises:
        HostError: ``not_a_terminal``, ``terminal_failed``.
    """
    owner = _owner(old)
    if _owner(new) != giver:
        raise HostError("not_a_terminal", "the new terminal is not the recorder's own")
    typed_ahead = 0
    try:
        if owner == uid:
            os.fchown(old, 0, 0)
            os.fchmod(old, 0)  # nobody opens it from here on
            typed_ahead = _carry_over(old, new)
            fcntl.ioctl(old, _TIOCVHANGUP)
        anew = _open_anew(old)
        os.fchown(new, uid, _tty_group())
        os.fchmod(new, 0o620)
    except OSError as error:
        raise HostError("terminal_failed", f"the terminal could not be taken: {error.strerror}") from error
    return Taken(owner == uid, anew, typed_ahead)


def _carry_over(old: int, new: int) -> int:
    """What the hang-up would throw away; returns how many bytes. A key that comes in the microseconds until then is lost."""
    reader = _open_anew(old)
    try:
        lines = typeahead.typed(reader)
        typeahead.retype(new, lines)
    except (OSError, termios.error) as error:
        log.warning("what was typed before a session began is lost: %s", error)
        return 0
    finally:
        os.close(reader)
    return sum(map(len, lines))


def _open_anew(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK)


def _owner(fd: int) -> int:
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) not in _PTS_MAJORS:
        raise HostError("not_a_terminal", "that is no pseudo-terminal")
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:  # opened anew by root it would be more than they had
        raise HostError("not_a_terminal", "that terminal is not open for reading and writing")
    return found.st_uid


def _tty_group() -> int:
    """As sshd gives a terminal (sshpty.c); -1 leaves the group as it is."""
    with contextlib.suppress(KeyError):
        return grp.getgrnam("tty").gr_gid
    return -1
