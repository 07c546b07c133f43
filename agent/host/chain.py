"""Everything that a path stands on: each folder, each folder that a symlink on the way leads through, and the file."""

import os
import stat
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import Node

_LINKS_MAX = 40  # as the kernel's own
_PARTS_MAX = 256
_LINE_MAX = 256  # of an interpreter, as the kernel reads it


def chain(path: Path) -> tuple[Node, ...]:
    """From ``/`` to the file, symlinks followed. It ends early where something is absent.

    Raises:
        HostError: ``path_unreadable``: too many links, or what can't be looked at.
    """
    found = [_node("/", os.lstat("/"))]
    here, todo, links, steps = "/", list(path.parts[1:]), 0, 0
    try:
        while todo:
            steps += 1
            part = todo.pop(0)
            if part == "..":
                here = str(Path(here).parent)
                continue
            there = str(Path(here) / part)
            status = os.lstat(there)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = Path(os.readlink(there))  # noqa: PTH115 - as text, unresolved
                todo = [*(target.parts[1:] if target.is_absolute() else target.parts), *todo]
                here = "/" if target.is_absolute() else here
            else:
                found.append(_node(there, status))
                here = there
            if links > _LINKS_MAX or steps > _PARTS_MAX:
                raise HostError("path_unreadable", f"{path}: too many symbolic links")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise HostError("path_unreadable", f"{path}: {error.strerror}") from error
    return tuple(found)


def _node(path: str, status: os.stat_result) -> Node:
    regular = stat.S_ISREG(status.st_mode)
    interpreter = _interpreter(path) if regular and status.st_mode & 0o111 else ""
    return Node(Path(path), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), stat.S_ISDIR(status.st_mode), interpreter)


def _interpreter(path: str) -> str:
    """The program of a ``#!`` line, empty where there is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        head = os.read(fd, _LINE_MAX)
    finally:
        os.close(fd)
    words = head.split(b"\n", 1)[0][2:].split() if head.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""
