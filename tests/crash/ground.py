"""The host between two points: as it was before any grant, whatever the last one left; and as a reboot would leave it."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agent.errors import JournalError
from agent.journal import Journal
from tests.crash import checks
from tests.hosts.snapshot import Snapshot

_KEPT = Path("/opt/crash/baseline")
_MADE_AT_FIRST = ("/run/userdb", "/run/tidegate/keys", str(checks.STATE / "memberships"))
_EMPTIED = ("spool/inbox", "spool/outbox", "archive", "memberships")


class Ground:
    """``baseline``: what the host is like with tidegated running and nothing open."""

    def __init__(self) -> None:
        self.baseline: Snapshot = {}

    def keep(self) -> None:
        """Take the host as it is now for what it must always be again. Folders that the first grant would make are made."""
        for folder in _MADE_AT_FIRST:
            Path(folder).mkdir(parents=True, exist_ok=True)
        Path("/etc/.pwd.lock").touch(0o600)
        self.baseline = checks.snapshot()
        shutil.rmtree(_KEPT, ignore_errors=True)
        for path in filter(os.path.exists, checks.PATHS):
            Path(f"{_KEPT}{path}").parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", path, f"{_KEPT}{path}"], check=True, timeout=60)

    def reset(self) -> None:
        """An empty journal, an empty spool, and what a failed point left put right. No tidegated may run."""
        _remove([*checks.STATE.glob("state.db*"), *checks.STATE.glob("orders.reserve")])
        if (checks.STATE / "host.jwk").exists():  # a host that had one and has no journal has lost it
            Journal(checks.STATE / "state.db").close()
        for folder in _EMPTIED:
            _remove((checks.STATE / folder).glob("*"))
        now = checks.snapshot() if self.baseline else {}
        for path in sorted(now.keys() - self.baseline.keys(), reverse=True):
            with contextlib.suppress(OSError):
                Path(path).rmdir() if now[path].kind == "folder" else Path(path).unlink()
        for path, entry in sorted(self.baseline.items()):
            if now.get(path) != entry:
                subprocess.run(["cp", "-a", "--no-target-directory", f"{_KEPT}{path}", path], check=False, timeout=30)

    def forget_this_boot(self) -> None:
        """As a reboot leaves it: nothing in /run, and a journal of another boot. No tidegated may run."""
        for folder in (Path("/run/tidegate"), Path("/run/userdb")):
            _remove(folder.iterdir())
        with contextlib.closing(sqlite3.connect(checks.STATE / "state.db")) as db:
            db.execute("UPDATE grants SET boot_id='another'")
            db.commit()


def ordered() -> bool:
    """Whether the journal that a killed tidegated left says that a grant is to end. Changes nothing."""
    try:
        with contextlib.closing(Journal(checks.STATE / "state.db", read_only=True)) as journal:
            return any(record.cause is not None for record in journal.live())
    except JournalError:
        return False


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
