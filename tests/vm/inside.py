"""What is run inside a machine, by its agent: looking, knocking over clocks, watching who dies when.

The whole file is sent, and one function of it called; so it imports nothing of the tests. Everything goes in and out as JSON.
"""

import contextlib
import hashlib
import json
import os
import secrets
import select
import socket
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

SOCKET = "/run/tidegate/control.sock"
STATE = "/var/lib/tidegate"
INBOX, OUTBOX, DATABASE = f"{STATE}/spool/inbox", f"{STATE}/spool/outbox", f"{STATE}/state.db"
FIRST_UID, LAST_UID = 70000, 99999
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}


def ask(op: str, arguments: dict[str, Any]) -> Any:
    """One question to tidegated, over its socket; None while it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(250)
            connection.connect(SOCKET)
            connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            answer = json.loads(connection.makefile().readline())
    except (OSError, ValueError):
        return None
    return answer["result"] if answer["ok"] else {"refused": answer}


def drop(name: str, content: str) -> int:
    """Put a grant into the inbox like a good writer whose file outlives a power cut; returns the wall time in ns."""
    temporary = f"{INBOX}/.tmp-{secrets.token_hex(6)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, content.encode())
    os.fsync(fd)
    os.close(fd)
    Path(temporary).rename(f"{INBOX}/{name}")
    folder = os.open(INBOX, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return time.time_ns()


def snapshot(*tops: str) -> dict[str, Any]:
    """Everything below these paths, as tests.hosts.snapshot has it."""
    seen: dict[str, Any] = {}
    for top in tops:
        _visit(top, seen)
    return seen


def _visit(path: str, seen: dict[str, Any]) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path)
        kind, content, size = _KINDS.get(stat.S_IFMT(found.st_mode), "device"), "", 0
        if kind == "link":
            content = str(Path(path).readlink())
        elif kind == "file":
            data = Path(path).read_bytes()
            content, size = hashlib.sha256(data).hexdigest(), len(data)
        seen[path] = (kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, size, content)
        if kind == "folder":
            for name in os.listdir(path):  # noqa: PTH208 - names only, and none of them a Path
                _visit(f"{path}/{name}", seen)


def tenants() -> list[int]:
    """Process ids of all that runs as a tenant, whichever of its uids says so."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        if name.isdigit() and _is_tenant(name):
            found.append(int(name))
    return found


def _is_tenant(pid: str) -> bool:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    uids = text.partition("\nUid:")[2].split("\n")[0].split()
    return "\nState:\tZ" not in text and any(FIRST_UID <= int(uid) <= LAST_UID for uid in uids)


def live_as(login: str) -> int:
    """Leave behind what tenants leave: two processes that go on, files at home and in shared folders. Returns the uid."""
    import pwd

    entry = pwd.getpwnam(login)
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            _leave_files(entry.pw_dir)
            for fd in range(3, 256):
                with contextlib.suppress(OSError):
                    os.close(fd)
            os.execv("/bin/sleep", ["sleep", "86400"])
    return entry.pw_uid


def _leave_files(home: str) -> None:
    Path(home, "notes").write_text("work\n" * 1000)
    Path(home, "kept").mkdir(exist_ok=True)
    for folder in (f"{home}/kept", "/tmp", "/var/tmp"):
        Path(folder, f"left-{os.getpid()}").write_text("left")


def journal() -> dict[str, Any]:
    """What SQLite says of the journal, and the grants in it: jti, state, cause."""
    with contextlib.closing(sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True, timeout=10)) as database:
        check = database.execute("PRAGMA integrity_check").fetchone()[0]
        grants = database.execute("SELECT jti, state, cause FROM grants ORDER BY id").fetchall()
        receipts = database.execute("SELECT jws FROM receipts WHERE shipped=1").fetchall()
    return {"check": check, "grants": [list(row) for row in grants], "receipts": [row[0] for row in receipts]}


def receipts() -> list[str]:
    """Every receipt in the outbox."""
    return [path.read_text().strip() for path in sorted(Path(OUTBOX).glob("[!.]*-receipt-*"))]


def end_of(seconds: float, step_s: float, steps: list[float]) -> dict[str, Any]:
    """Set the wall clock by ``step_s`` (and by each of ``steps``, one every 20 ms), and watch until no tenant lives.

    Times in nanoseconds: ``began`` and ``dead`` on the boot clock, ``resumed`` the moment after the first suspend on it,
    ``wall`` the wall clock at the end; ``dead`` is None when one lives after so many seconds.
    """
    began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    asleep = _asleep_ns()
    for each in ([step_s] if step_s else []) + steps:
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns() + int(each * 1e9))
        if steps:
            time.sleep(0.02)
    resumed = None
    waiting = select.poll()
    descriptors = [os.pidfd_open(pid) for pid in tenants()]  # told of, not asked for: asking would keep the processor busy
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in waiting.poll(20):
            waiting.unregister(descriptor)
            descriptors.remove(descriptor)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if resumed is None and _asleep_ns() - asleep > 500_000_000:
            resumed = now
        late = now - began > seconds * 1e9
        if not descriptors or late:
            left = bool(descriptors) or bool(tenants())
            return {"began": began, "dead": None if left else now, "resumed": resumed, "wall": time.time_ns()}


def _asleep_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()


def clocks() -> list[int]:
    """The wall clock and the boot clock, in nanoseconds."""
    return [time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)]
