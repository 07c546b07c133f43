"""Telling tenants on their terminals how long is left, and why it ended.

A terminal's slave belongs to its user, who can stop its output: every write is non-blocking and what does not fit is dropped.
"""

import contextlib
import os
import stat
from collections.abc import Collection
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
    line = f"\r\n*** {one_line(message)} ***\r\n".encode()
    return sum(_write(path, line, uids) for path in terminals_of(uids, pts)) if uids else 0


def _write(path: Path, line: bytes, uids: Collection[int]) -> bool:
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return False
    try:
        # Numbers of terminals are given out again at once: what was opened may be another user's by now.
        return os.fstat(descriptor).st_uid in uids and os.write(descriptor, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(descriptor)
