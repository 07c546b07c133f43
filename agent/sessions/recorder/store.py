"""The folder of recordings: so many bytes and days, the oldest that are over go first, and those shipped before those not."""

import contextlib
import logging
import os
import time
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.host.files import opened_folder

log = logging.getLogger("tidegate")

SUFFIX = ".tgr"
OPEN = ".open"
_DAY_S = 86400.0
_AGAIN_S = 1.0  # a folder that stays over its quota is not counted at each write


@dataclass(frozen=True, slots=True)
class _Found:
    ident: str
    size: int
    changed: float
    shipped: bool


class Store:
    """``live``: ids that are being recorded, which are never removed. ``size``: bytes in the folder, as far as known."""

    def __init__(self, folder: Path, live: Container[str], *, quota: int, keep_days: float, shipped: Path | None = None) -> None:
        self.folder = folder
        self._shipped = shipped
        self.size = 0
        self._again = 0.0
        self._live, self._quota, self._keep_s = live, quota, keep_days * _DAY_S

    def path(self, ident: str) -> Path:
        """Where a recording is."""
        return self.folder / f"{ident}{SUFFIX}"

    def charge(self, count: int) -> bool:
        """So many bytes more are there; False where the folder is over its quota though all that may go is gone."""
        self.size += count
        if self.size > self._quota and time.monotonic() >= self._again:
            self.tidy()
            self._again = time.monotonic() + _AGAIN_S
        return self.size <= self._quota

    def begun(self, ident: str) -> None:
        """Mark one as running, for the start after a crash. Raises OSError."""
        os.close(os.open(self.folder / f"{ident}{OPEN}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640))

    def ended(self, ident: str) -> None:
        """It is over."""
        (self.folder / f"{ident}{OPEN}").unlink(missing_ok=True)

    def unfinished(self) -> list[str]:
        """Ids that were running when whoever recorded them died."""
        return sorted(path.stem for path in self.folder.glob(f"*{OPEN}") if path.stem not in self._live)

    def tidy(self) -> None:
        """Count, and remove what is too old or too much."""
        found = self._list()
        self.size = sum(each.size for each in found)
        now = time.time()
        for each in found:
            if each.ident in self._live or not (self.size > self._quota or now - each.changed > self._keep_s):
                continue
            why = "the folder is over its quota" if self.size > self._quota else "it is too old"
            try:
                self.path(each.ident).unlink()
                self.ended(each.ident)
            except OSError as error:
                log.error("recording %s can't be removed: %s", each.ident, error.strerror)
                continue
            self.size -= each.size
            log.warning("recording %s is removed (%d bytes, %s): %s", each.ident, each.size, _shipped(each), why)

    def _marks(self, idents: Iterable[str]) -> set[str]:
        """Which of these the courier says it has carried away whole: its folder, its word. A lie costs the order in which they go.

        Each is asked for by its name: what else lies in that folder, and how much, costs the recorder nothing.
        """
        found: set[str] = set()
        if self._shipped is None:
            return found
        with contextlib.suppress(OSError), opened_folder(self._shipped) as folder:  # or there is no courier on this host
            for ident in idents:
                with contextlib.suppress(OSError):
                    os.stat(ident, dir_fd=folder, follow_symlinks=False)
                    found.add(ident)
        return found

    def _list(self) -> list[_Found]:
        found = []
        with os.scandir(self.folder) as entries:
            names = {entry.name: entry for entry in entries}
        shipped = self._marks([name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)])
        for name, entry in names.items():
            if name.endswith(SUFFIX):
                ident = name.removesuffix(SUFFIX)
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                found.append(_Found(ident, status.st_size, status.st_mtime, ident in shipped))
        return sorted(found, key=lambda each: (not each.shipped, each.ident))  # ids begin with the time


def _shipped(found: _Found) -> str:
    return "shipped" if found.shipped else "not shipped"
