"""Telling tenants on their terminals how long is left, and why it ended.

A terminal's slave belongs to its user, who can stop its output: every write is non-blocking and what does not fit is dropped.
"""

import contextlib
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path

from agent.model.text import one_line

_PTS = Path("/dev/pts")


def terminals_of(uids: Collection[int], pts: Path = _PTS) -> list[Path]:
    """Pseudo-terminals (pts(4)) that belong to one of these users now."""
    found = []
    with contextlib.suppress(OSError):
        for path in pts.iterdir():
            with contextlib.suppress(OSError):
                status = path.lstat()
                if stat.S_ISCHR(status.st_mode) and status.st_uid in uids:
                    found.append(path)
    return found


def tell(uids: Collection[int], message: str, pts: Path = _PTS) -> int:
    """Write one line to every terminal of these users; returns how many took it whole."""
    return tell_each(dict.fromkeys(uids, message), pts)


def tell_each(messages: Mapping[int, str], pts: Path = _PTS) -> int:
    """The same, with a message for each uid: however many there are, the terminals are looked through once."""
    lines = {uid: f"\r\n*** {one_line(message)} ***\r\n".encode() for uid, message in messages.items()}
    return sum(_write(path, lines) for path in terminals_of(lines, pts)) if lines else 0


def _write(path: Path, lines: Mapping[int, bytes]) -> bool:
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return False
    try:
        # Numbers of terminals are given out again at once: what was opened may be another user's by now.
        line = lines.get(os.fstat(descriptor).st_uid)
        return line is not None and os.write(descriptor, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(descriptor)
