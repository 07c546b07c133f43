"""The courier, as root knows it: its account, where it says how it stands, what it may reach (as in packaging/tmpfiles.conf)."""

import contextlib
import os
import pwd
from pathlib import Path

from agent.config import Paths
from agent.host.files import opened_folder

ACCOUNT = "tidegate-courier"
INBOX_MODE, OUTBOX_MODE, SESSIONS_MODE = 0o1770, 0o2770, 0o2750


def status_file(paths: Paths) -> Path:
    """Where the courier writes how it stands."""
    return paths.run_dir / "courier/status.json"


def share(paths: Paths) -> None:
    """Owners and modes of its own folder, the two spools, and the recordings to read, on hosts where no tmpfiles.d makes them so.

    Without the account everything stays root's. Never raises.
    """
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return
    for folder, mode in ((paths.inbox, INBOX_MODE), (paths.outbox, OUTBOX_MODE), (paths.sessions, SESSIONS_MODE)):
        _give(folder, -1, account.pw_gid, mode)
    _give(paths.courier, account.pw_uid, account.pw_gid, 0o711)


def _give(folder: Path, uid: int, gid: int, mode: int) -> None:
    with contextlib.suppress(OSError), opened_folder(folder) as fd:
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
