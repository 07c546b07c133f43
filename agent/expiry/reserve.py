"""Orders to end grants that the journal could not take: kept in files whose blocks were written before they were needed.

A revocation on a full disk is carried out all the same. Should the daemon die before there is room, nothing would say so any
more, and the next start would put the grant back. So each order goes over a page of a file that has all its blocks: in place,
synced, without a new one. The file on disk outlives a reboot; the second, in /run, is for a disk that takes nothing at all.
"""

import json
import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from agent.errors import HostError
from agent.host import files
from agent.journal import EndCause
from agent.model.text import one_line

log = logging.getLogger("tidegate")
_PAGE, _PAGES = 4096, 64
_NAMED_A_PAGE = 48  # digests of 64 characters, beside a text of 500 that JSON may double
_EMPTY = b"\0" * _PAGE

Order = tuple[EndCause, str]


class Reserve:
    """Order by digest of the grant's token: a journal that was begun anew has other ids. Thread-safe; nothing here raises."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._used: dict[tuple[Path, int], set[str]] = {}  # (file, page) → digests

    def recall(self) -> dict[str, Order]:
        """At start: every order that still stands there; makes the files where they are missing or of another size."""
        found: dict[str, Order] = {}
        with self._lock:
            self._used.clear()
            for path in self._paths:
                for page, (digests, order) in self._read(path):
                    self._used[path, page] = set(digests)
                    found |= dict.fromkeys(digests, order)
        return found

    def keep(self, digests: Sequence[str], cause: EndCause, text: str) -> bool:
        """Write an order down; False when neither file takes it."""
        with self._lock:
            parts = [digests[first : first + _NAMED_A_PAGE] for first in range(0, len(digests), _NAMED_A_PAGE)]
            kept = [self._keep(part, cause, text) for part in parts]
            return all(kept)

    def drop(self, digests: Collection[str]) -> None:
        """The journal has these now. A page is given back when it has them all."""
        with self._lock:
            for (path, page), waiting in list(self._used.items()):
                waiting.difference_update(digests)
                if not waiting and self._write(path, page, _EMPTY):
                    del self._used[path, page]

    def _keep(self, digests: Sequence[str], cause: EndCause, text: str) -> bool:
        value = {"cause": cause.value, "text": one_line(text), "grants": list(digests)}
        data = json.dumps(value).encode().ljust(_PAGE, b"\0")
        if len(data) > _PAGE:  # every character of the text escaped
            data = json.dumps({**value, "text": ""}).encode().ljust(_PAGE, b"\0")
        if any(set(digests) <= waiting for waiting in self._used.values()):
            return True  # a later try of the same
        for path in self._paths:
            page = next((page for page in range(_PAGES) if (path, page) not in self._used), None)
            if page is not None and self._write(path, page, data):
                self._used[path, page] = set(digests)
                return True
        return False

    @staticmethod
    def _write(path: Path, page: int, data: bytes) -> bool:
        try:
            files.overwrite(path, page * _PAGE, data)
        except HostError as error:
            log.error("the reserve for orders: %s", error)
            return False
        return True

    def _read(self, path: Path) -> Iterator[tuple[int, tuple[list[str], Order]]]:
        try:
            data = files.read_bounded(path, _PAGE * _PAGES)
            if data is None or len(data) != _PAGE * _PAGES:
                files.clear_leftovers(path)
                files.atomic_write(path, _EMPTY * _PAGES, 0o600)
                return
        except HostError as error:
            log.error("the reserve for orders: %s", error)
            return
        for page in range(_PAGES):
            text = data[page * _PAGE : (page + 1) * _PAGE].rstrip(b"\0")
            if text and (order := _parsed(text)):
                yield page, order


def _parsed(text: bytes) -> tuple[list[str], Order] | None:
    """None for a page that was being written when the power went: its order was never said to be kept."""
    try:
        value: Mapping[str, object] = json.loads(text)
        grants = value["grants"]
        if not isinstance(grants, list):
            return None
        return [str(digest) for digest in grants], (EndCause(str(value["cause"])), str(value["text"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
