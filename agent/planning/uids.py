"""Choosing UIDs for new accounts: in turn through the range, so that one comes back as late as it can."""

from collections.abc import Callable, Iterator

from agent.config import Config
from agent.errors import UnenforceableError
from agent.host.contract import Reader


def free_uids(
    config: Config, last: int, spoken_for: frozenset[int], reader: Reader, in_use: Callable[[int], bool]
) -> Iterator[int]:
    """UIDs that no account, group, process or tombstone has, beginning after ``last``; each is yielded once.

    Raises:
        UnenforceableError: ``uids_exhausted`` when the whole range was gone through.
    """
    size = config.uid_last - config.uid_first + 1
    start = max(0, last + 1 - config.uid_first)
    for offset in range(size):
        uid = config.uid_first + (start + offset) % size
        if uid in spoken_for or reader.user_by_uid(uid) or reader.group_by_gid(uid) or in_use(uid):
            continue
        yield uid
    raise UnenforceableError("uids_exhausted", f"no UID is free from {config.uid_first} to {config.uid_last}")
