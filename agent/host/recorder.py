"""What recording stands on: the recorder's own account, and a tidegate-shell that its tenant can't look into.

tidegate-shell runs as the tenant for some milliseconds before it has handed the session over. Its interpreter is a copy of this
host's python that nobody may read: the kernel makes such a process non-dumpable from its exec on (would_dump() in fs/exec.c),
so that no other process of the tenant's can trace it or take its descriptors (ptrace(2), proc(5)).
"""

import contextlib
import os
import pwd
import stat
from pathlib import Path

from agent.config import Config
from agent.errors import HostError
from agent.host import files
from agent.host.contract import RecorderSeen

ACCOUNT = "tidegate-recorder"
INTERPRETER = "tenant-python"
PYTHON = Path("/usr/bin/python3")
_MODE = 0o711
_PYTHON_MAX = 64 << 20
_LINE_MAX = 128


def look(config: Config) -> RecorderSeen:
    """Whether sessions can be recorded here, by whom, or why not."""
    shell = config.paths.tenant_shell
    try:
        uid = pwd.getpwnam(ACCOUNT).pw_uid
    except KeyError:
        return RecorderSeen(why=f"there is no account {ACCOUNT}")
    return RecorderSeen(uid, _unguarded(shell))


def guard(config: Config, python: Path = PYTHON) -> str:
    """Have the copy be of the python of now; returns what is wrong, empty when nothing is. Never raises."""
    copy = config.paths.tenant_shell.with_name(INTERPRETER)
    try:
        source = python.resolve(strict=True)
        if not _same(source, copy):
            data = files.read_bounded(source, _PYTHON_MAX)
            if data is None:
                return f"{source} is gone"
            files.atomic_write(copy, data, _MODE)
            made = source.stat()
            os.utime(copy, ns=(made.st_mtime_ns, made.st_mtime_ns))
    except (HostError, OSError) as error:
        return f"tidegate-shell's interpreter {copy} could not be made: {error}"
    return _unguarded(config.paths.tenant_shell)


def own(sessions: Path) -> None:
    """The folder of recordings: the recorder's alone, on hosts where no tmpfiles.d makes it so. Without the account root's."""
    with contextlib.suppress(KeyError, OSError):
        account = pwd.getpwnam(ACCOUNT)
        if sessions.lstat().st_uid == 0:
            os.chown(sessions, account.pw_uid, -1, follow_symlinks=False)


def _same(source: Path, copy: Path) -> bool:
    """By size and time, which the copy is given: the file is of several megabytes, and the package manager's."""
    try:
        left, right = source.stat(), copy.lstat()
    except FileNotFoundError:
        return False
    return (left.st_size, left.st_mtime_ns, _MODE) == (right.st_size, right.st_mtime_ns, stat.S_IMODE(right.st_mode))


def _unguarded(shell: Path) -> str:
    """Why a tenant could get at tidegate-shell while it hands a session over; empty when it could not."""
    copy = shell.with_name(INTERPRETER)
    try:
        with shell.open("rb") as file:
            first = file.readline(_LINE_MAX)
        found = copy.lstat()
    except OSError as error:
        return f"tidegate-shell or its interpreter is missing: {error.filename}: {error.strerror}"
    if not first.startswith(b"#!" + bytes(copy) + b" "):
        return f"{shell} is not run by {copy}"
    if found.st_uid != 0 or not stat.S_ISREG(found.st_mode) or found.st_mode & 0o066:
        return f"{copy} must be root's, a file, and readable to nobody else"
    return ""
