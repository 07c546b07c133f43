"""at(1) jobs: all of a tenant's, or those that would run with a group a login no longer has.

atd takes the gid from the job itself, where ``sg`` put it.
"""

import contextlib
import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path

from agent.errors import HostError
from agent.host.trees import names_in, opened

SPOOLS = (Path("/var/spool/cron/atjobs"), Path("/var/spool/at"))  # Debian's, Fedora's
_HEAD = re.compile(rb"^# atrun uid=(\d+) gid=(\d+)$", re.MULTILINE)


def drop_jobs(uid: int, gids: Collection[int] | None, spools: Sequence[Path] = SPOOLS) -> int:
    """Unlink the jobs of ``uid``, all or those with one of these gids; returns how many. A spool that is not there is fine.

    Raises:
        HostError: ``at_spool``: a spool can't be read, or a job not removed.
    """
    dropped = 0
    for spool in spools:
        try:
            with opened(str(spool)) as folder:
                for name in names_in(folder):
                    dropped += _drop(folder, name, uid, gids)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostError("at_spool", f"{spool}: {error.strerror}") from error
    return dropped


def _drop(folder: int, name: str, uid: int, gids: Collection[int] | None) -> bool:
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(name, dir_fd=folder)
        if found.st_uid != uid or not stat.S_ISREG(found.st_mode):
            return False
        if gids is None:
            os.unlink(name, dir_fd=folder)
            return True
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        try:
            head = _HEAD.search(os.read(fd, 4096))
        finally:
            os.close(fd)
        if head and int(head[2]) in gids:
            os.unlink(name, dir_fd=folder)
            return True
    return False
