"""How much room there is, and how much is used: for those who watch a host. Nothing here raises."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def free_bytes(folder: Path) -> int | None:
    """Free on the file system that holds it, what is kept for root not counted; None where it can't be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def device_of(folder: Path) -> int | None:
    """Which file system it is on (st_dev); None where it can't be looked at."""
    found = _looked_at(folder)
    return None if found is None else found.st_dev


def bytes_of(files: Iterable[Path]) -> int:
    """The sizes of these files together; one that is not there has none."""
    return sum(found.st_size for file in files if (found := _looked_at(file)))


def _looked_at(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
