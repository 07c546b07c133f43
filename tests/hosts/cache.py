"""The cache folder, and the locks in it by which two test runs on one machine keep out of each other's way."""

import fcntl
import os
from pathlib import Path
from typing import Literal, overload

from tests.hosts.errors import HostUnavailable


def folder() -> Path:
    """The cache folder: `$TIDEGATE_CACHE`, else `tidegate` in the user's cache folder (as XDG has it). Made if absent.

    Raises:
        HostUnavailable: its path holds a character which overlayfs reads as a separator.
    """
    named = os.environ.get("TIDEGATE_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"
    base = base.absolute()
    if any(character in str(base) for character in ":,\\ \n"):
        raise HostUnavailable(f"the cache folder's path {str(base)!r} has a colon, comma, space or backslash in it")
    if base.is_relative_to("/run"):
        # A host's launcher hides the machine's /run from what it starts, so that nothing of a host can be left there.
        raise HostUnavailable("the cache folder cannot be in /run")
    base.mkdir(parents=True, exist_ok=True)
    return base


def run_folder() -> Path:
    """Where the live hosts of this cache keep their files: one folder and one lock file for each."""
    run = folder() / "run"
    run.mkdir(mode=0o755, exist_ok=True)
    return run


@overload
def lock(path: Path, wait: Literal[True]) -> int: ...
@overload
def lock(path: Path, wait: Literal[False]) -> int | None: ...
def lock(path: Path, wait: bool) -> int | None:
    """Take the exclusive flock of the file `path`, made if absent; returns its descriptor, or None if another has it.

    The lock goes with the last process that holds the descriptor, so a killed owner never leaves one behind.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return None
        # The last holder may have unlinked the file between our open and our lock: such a lock nobody else would see.
        try:
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except FileNotFoundError:
            pass
        os.close(fd)
