"""What must be true of the host and of the journal after a restart. Runs in the host, changes nothing."""

import contextlib
import hashlib
import os
import pwd
import re
import sqlite3
import stat
import subprocess
import tarfile
from collections.abc import Collection
from pathlib import Path

from tests.hosts.snapshot import DEFAULT_PATHS, Entry, Snapshot, differences

LOGIN, PERSON = "jit-crash", "deploy"
STATE = Path("/var/lib/tidegate")
PATHS = (*DEFAULT_PATHS, "/tmp", "/var/tmp", "/var/spool/at", "/run/lock")
_SHOWN = 6
_TIMER = re.compile(r"/run/systemd/transient/tidegate-backstop@[0-9-]+\.timer")
_TIMER_OF_A_GRANT = "/run/systemd/transient/tidegate-backstop@*.timer"


def snapshot(paths: tuple[str, ...] = PATHS) -> Snapshot:
    """All below these paths; sockets left out, since a killed daemon's stays and is made anew.

    A grant's timer has its due times in its name and its text, which another try of the same grant makes anew: it counts as there.
    """
    found: Snapshot = {}
    for path in paths:
        _visit(path, found)
    timers = [path for path in found if _TIMER.fullmatch(path)]
    found |= {_TIMER_OF_A_GRANT: Entry("timer", 0, 0, 0, 0, str(len(timers)))} if timers else {}
    # The recorder's folder is made by its unit at a boot, and the sweep's reboots are none.
    return {path: entry for path, entry in found.items() if path not in timers and not path.startswith("/run/tidegate/recorder")}


def _visit(path: str, found: Snapshot) -> None:
    with contextlib.suppress(FileNotFoundError):
        seen = os.lstat(path)
        mode = stat.S_IFMT(seen.st_mode)
        if mode == stat.S_IFSOCK:
            return
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}.get(mode, "other")
        content = str(Path(path).readlink()) if kind == "link" else ""
        if kind == "file":
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        size = seen.st_size if kind == "file" else 0
        found[path] = Entry(kind, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, size, content)
        if kind == "folder":
            for inner in Path(path).iterdir():
                _visit(str(inner), found)


def changed(reference: Snapshot, what: str, but: Collection[Path] = ()) -> list[str]:
    """How the host differs from what it must be like; ``but``: files that may be there or not."""
    now = snapshot()
    for path in but:
        now.pop(str(path), None)
    lines = differences(reference, now)
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [f"{what}: {line}" for line in [*lines[:_SHOWN], *more]]


def rights(login: str) -> str:
    """What sudo and NSS say of an account."""
    asked = [["sudo", "-n", "-l", "-U", login], ["id", login]]
    return "".join(subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20).stdout for argv in asked)


def journal(state: str) -> list[str]:
    """The journal is sound and says that nothing is live (``ended``), or that one grant is (``open``)."""
    with contextlib.closing(sqlite3.connect(STATE / "state.db", timeout=5)) as db:
        problems = [f"journal: {row[0]}" for row in db.execute("PRAGMA integrity_check") if row[0] != "ok"]
        grants = db.execute("SELECT id, state FROM grants").fetchall()
        if len(grants) > 1:
            problems.append(f"journal: {len(grants)} grants, of one token")
        for ident, is_now in grants:
            if is_now != state:
                problems.append(f"journal: the grant is {is_now}, not {state}")
            elif state == "ended":
                problems += _ended(db, ident)
    return problems


def _ended(db: sqlite3.Connection, ident: int) -> list[str]:
    def every(sql: str) -> list[str]:
        return [str(row[0]) for row in db.execute(sql, (ident,))]

    receipts = every("SELECT id FROM receipts WHERE grant_id=?")
    problems = [] if len(receipts) == 1 else [f"journal: {len(receipts)} receipts of one end"]
    problems += [f"outbox: no receipt {ident}" for ident in receipts if not list((STATE / "spool/outbox").glob(f"*-{ident}.jws"))]
    problems += [f"journal: a step is {found}" for found in every("SELECT state FROM steps WHERE grant_id=?") if found != "undone"]
    problems += [f"journal: a UID is {found}" for found in every("SELECT state FROM uids WHERE grant_id=?") if found != "tombstone"]
    return problems


def spool() -> list[str]:
    """The inbox is empty, every file has its answer, and no unfinished file is left in Tidegate's own folders."""
    problems = [f"inbox: {path.name} is left" for path in (STATE / "spool/inbox").iterdir()]
    if not list((STATE / "spool/outbox").glob("*-answer-*")):
        problems.append("outbox: no answer")
    folders = (STATE, STATE / "spool/outbox", STATE / "archive", STATE / "memberships", STATE / "sessions")
    left = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.name.startswith(".")]
    return problems + [f"unfinished: {path}" for path in left]


def undone(baseline: Snapshot, rights_before: str, uid: int) -> list[str]:
    """No way in, nothing left, all as it was."""
    problems = changed(baseline, "left")
    with contextlib.suppress(KeyError):
        problems.append(f"account: {pwd.getpwnam(LOGIN)}")
    if rights(PERSON) != rights_before:
        problems.append(f"rights of {PERSON}: {rights(PERSON)}")
    problems += [f"alive: {name}" for name in processes(uid)]
    problems += [f"membership: {path.name}" for path in (STATE / "memberships").glob("*")]
    return problems + _archives()


def _archives() -> list[str]:
    problems = []
    found = [path for path in (STATE / "archive").glob("*.tar.gz") if not path.name.endswith("-elsewhere.tar.gz")]
    for path in found:
        try:
            with tarfile.open(path) as tar:
                names = tar.getnames()
        except (OSError, tarfile.TarError) as error:
            problems.append(f"archive: {path.name}: {error}")
        else:
            problems += [] if any(name.endswith("/.profile") for name in names) else [f"archive: {path.name} is not whole"]
    return problems + ([f"archive: {len(found)} of one home"] if len(found) > 1 else [])


def processes(uid: int) -> list[str]:
    """Processes of that uid, and root's that carry it in their SUDO_UID."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            status = (folder / "status").read_text()
            uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
            if "\nState:\tZ" in status:
                continue
            if str(uid) in uids or f"SUDO_UID={uid}\0".encode() in (folder / "environ").read_bytes():
                found.append(f"{(folder / 'comm').read_text().strip()}[{folder.name}]")
    return found


def knock(key: Path) -> list[str]:
    """Try to log in, as the tenant, by the host's own sshd."""
    options = ["-F", "none", "-i", str(key), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]
    argv = ["ssh", *options, "-o", "UserKnownHostsFile=/dev/null", f"{LOGIN}@127.0.0.1", "true"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=30)
    return [] if done.returncode == 255 else [f"a login got in, with status {done.returncode}"]
