"""Folders watched through watchdog (inotify(7)): a callback for each file that is complete. Nothing polls.

Seen at once: a file moved in, a file closed after writing, and anything created that is no regular file (nobody closes a
FIFO). A regular file that was only created is still being written, so it waits for its close; but link(2) creates a whole
file and no close ever follows. So each created file gets one look after ``settle_s`` seconds: one that nobody has open
for writing is told then. A callback is a hint: rescan the whole folder on each, since the kernel drops events on overflow.
"""

import contextlib
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from watchdog import events
from watchdog.observers.inotify import InotifyObserver

from agent.errors import HostError
from agent.host.files import opened_folder
from agent.spool.entries import is_being_written, is_passing, is_regular

_PENDING_MAX = 4096
_JOIN_S = 5.0
_REPORTED = ("moved", "closed", "created", "deleted", "modified")
_FILTER = (
    "FileMovedEvent",
    "DirMovedEvent",
    "FileClosedEvent",
    "FileCreatedEvent",
    "DirCreatedEvent",
    "FileDeletedEvent",
    "DirDeletedEvent",
)
_FILTER_ADMIN = (*_FILTER, "FileModifiedEvent")
_logger = logging.getLogger("tidegate.watch")

OnChange = Callable[[Path, str], None]


class Watch:
    """Calls ``on_change(folder, name)`` from threads of its own; names that are not meant yet (dotted, .tmp, .part) are left out.

    The folder itself being deleted or moved away is told with an empty name: nothing more comes from it until a new start.

    Args:
        removals: tell also what was deleted, moved away, or given another owner or mode (policies and keys; the inbox has no use
            for it).
        settle_s: seconds until the one look at a regular file that was created and not closed.
    """

    def __init__(self, paths: Sequence[Path], on_change: OnChange, *, removals: bool = False, settle_s: float = 0.2) -> None:
        self._folders = {os.fspath(path): path for path in paths}
        self._on_change = on_change
        self._removals = removals
        self._settle = _Settle(settle_s, self._look)
        self._observer: InotifyObserver | None = None

    def start(self) -> None:
        """Watch from now on; what is there already is the caller's to scan, after this returns.

        Raises:
            HostError: ``watch_unavailable``: a folder is missing or a link, or the kernel's inotify limits are reached.
        """
        _pair_moves_at_once()
        observer = None
        try:
            for path in self._folders.values():  # before anything is started: watchdog 2.2.1 leaks a descriptor over a missing one
                with opened_folder(path):
                    pass
            observer = InotifyObserver(generate_full_events=True)
            for folder in self._folders:
                observer.schedule(_Handler(folder, self._seen), folder, **_only_what_is_told(observer.schedule, self._removals))
            observer.start()
        except OSError as error:
            if observer is not None:
                _stop(observer)
            raise HostError("watch_unavailable", f"{', '.join(self._folders)}: {error.strerror or error}") from error
        self._observer = observer
        self._settle.start()

    def stop(self) -> None:
        """No callback after this returns, except one that is running in this very thread. Stopping twice is done."""
        observer, self._observer = self._observer, None
        self._settle.stop()
        if observer is not None:
            _stop(observer)

    def _seen(self, folder: str, event: events.FileSystemEvent) -> None:
        if event.event_type not in _REPORTED or (event.event_type == "modified" and not self._removals):
            return
        moved = event.event_type == "moved"
        if event.event_type == "deleted" or moved:
            self._gone(folder, os.fsdecode(event.src_path or ""), was_moved=moved)
        if moved or event.event_type != "deleted":
            path = os.fsdecode((event.dest_path if moved else event.src_path) or "")
            # Modified: written to, or chmod and chown (inotify's IN_ATTRIB), which no close follows. Looked at like a created one.
            self._came(folder, path, created=event.event_type in {"created", "modified"})

    def _gone(self, folder: str, path: str, *, was_moved: bool) -> None:
        if path == folder and not was_moved:
            self._tell(folder, "")
        elif self._removals and os.path.dirname(path) == folder:  # noqa: PTH120 - names may hold any bytes
            self._tell(folder, os.path.basename(path))  # noqa: PTH119

    def _came(self, folder: str, path: str, *, created: bool) -> None:
        parent, name = os.path.split(path)
        if parent != folder or not name:
            return
        if is_passing(name):
            return
        if created and (regular := self._is_regular(folder, name)) is not False:
            if regular:
                self._settle.add(folder, name)
            return
        self._settle.forget(folder, name)
        self._tell(folder, name)

    @staticmethod
    def _is_regular(folder: str, name: str) -> bool | None:
        try:
            with opened_folder(Path(folder)) as fd:
                return is_regular(name, fd)
        except OSError:
            return None

    def _look(self, folder: str, name: str) -> None:
        """The one delayed look. A file with a writer will be closed, and that is told; one that is gone is no news."""
        try:
            with opened_folder(Path(folder)) as fd:
                if not is_regular(name, fd) or is_being_written(name, fd):
                    return
        except OSError:
            return
        self._tell(folder, name)

    def _tell(self, folder: str, name: str) -> None:
        if is_passing(name):
            return
        try:
            self._on_change(self._folders[folder], name)
        except Exception:  # the thread is not ours to lose: no event would come any more
            _logger.exception("a watched change could not be handled")


class _Handler(events.FileSystemEventHandler):
    """Takes every event as it comes; the two versions of watchdog differ in which ``on_...`` they call."""

    def __init__(self, folder: str, seen: Callable[[str, events.FileSystemEvent], None]) -> None:
        self._folder = folder
        self._seen = seen

    def dispatch(self, event: events.FileSystemEvent) -> None:
        self._seen(self._folder, event)


class _Settle:
    """One thread that looks at each added name once, ``delay_s`` later, and sleeps without a deadline when there is none."""

    def __init__(self, delay_s: float, look: Callable[[str, str], None]) -> None:
        self._delay = delay_s
        self._look = look
        self._due: dict[tuple[str, str], float] = {}  # in the order added, which is the order due
        self._changed = threading.Condition()
        self._running = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._running = True
        self._thread = threading.Thread(target=self._run, name="tidegate-watch-settle", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._running = False
            self._due.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)
        self._thread = None

    def add(self, folder: str, name: str) -> None:
        with self._changed:
            if len(self._due) >= _PENDING_MAX:  # a flood: the oldest is found by the rescan that every callback asks for
                self._due.pop(next(iter(self._due)))
            self._due.pop((folder, name), None)
            self._due[folder, name] = time.monotonic() + self._delay
            self._changed.notify()

    def forget(self, folder: str, name: str) -> None:
        with self._changed:
            self._due.pop((folder, name), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._running:
                    return
                key = next(iter(self._due), None)
                left = None if key is None else self._due[key] - time.monotonic()
                if key is None or (left is not None and left > 0):
                    self._changed.wait(left)
                    continue
                del self._due[key]
            self._look(*key)


def _only_what_is_told(schedule: Callable[..., object], removals: bool) -> dict[str, Any]:
    """Where watchdog can filter in the kernel (since 4.0), ask for no opens, reads and writes."""
    if "event_filter" not in inspect.signature(schedule).parameters:
        return {}
    return {"event_filter": [getattr(events, name) for name in (_FILTER_ADMIN if removals else _FILTER)]}


def _pair_moves_at_once() -> None:
    """Take away watchdog's wait of 0.5 s for the other half of a move: everything behind it would wait too.

    We act on where a file came to; which name it had before is of no use. The class has changed its place between versions;
    where it is not found, moves are only late.
    """
    for module, name in (
        ("watchdog.observers.inotify_buffer", "InotifyBuffer"),
        ("watchdog.observers.inotify_move_event_grouper", "InotifyMoveEventGrouper"),
    ):
        with contextlib.suppress(ImportError, AttributeError):
            owner: Any = getattr(import_module(module), name)
            owner.delay = 0.0


def _stop(observer: InotifyObserver) -> None:
    observer.stop()
    if observer.is_alive() and observer is not threading.current_thread():
        observer.join(_JOIN_S)
