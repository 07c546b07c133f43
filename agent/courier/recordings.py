"""Recordings, carried while they grow: each from where the other side has it durably, and marked once it has all of it."""

import contextlib
import os
import re
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.courier.backoff import Backoff
from agent.courier.status import Status
from agent.courier.transport import PIECE_MAX, Transport
from agent.courier.waiting import Bell, News
from agent.errors import CourierError, HostError
from agent.host.files import open_entry, opened_folder
from agent.sessions.recorder.store import OPEN, SUFFIX

_IDENT = re.compile(r"r-[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")  # as agent.sessions.recording.catalogue has it
_TOGETHER_S = 0.2  # a session that goes on writes fifty times a second
_LOOK_AGAIN_S = 300.0
_REFUSED_CAP_S = 3600.0
_OF_ONE = frozenset({"courier_refused", "courier_protocol", "recording_unreadable"})  # its own fault, perhaps: the others go on


@dataclass(slots=True)
class _Carried:
    """One recording on its way. ``offset``: what the other side has, -1 as long as nobody has asked."""

    offset: int = -1
    not_before: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(5.0, _REFUSED_CAP_S))


class Marks:
    """The recordings that were carried whole: an empty file for each, which the recorder reads (it removes these first)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make_folder(self) -> None:
        """Raises OSError."""
        self._folder.mkdir(mode=0o755, exist_ok=True)
        self._folder.chmod(0o755)

    def all(self) -> set[str]:
        """Raises OSError."""
        return {path.name for path in self._folder.iterdir() if _IDENT.fullmatch(path.name)}

    def put(self, ident: str) -> None:
        """Durable on return. Raises OSError."""
        fd = os.open(self._folder / ident, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        with opened_folder(self._folder) as folder:
            os.fsync(folder)

    def remove(self, ident: str) -> None:
        """The recording itself is gone."""
        with contextlib.suppress(OSError):
            (self._folder / ident).unlink()


class Shipper:
    """One thread's work: every recording that is not marked, a piece at a time in turn."""

    def __init__(
        self, transport: Transport, sessions: Path, marks: Marks, status: Status, stop: threading.Event, bell: Bell
    ) -> None:
        self._transport, self._sessions, self._marks, self._status = transport, sessions, marks, status
        self._stop, self._bell = stop, bell
        self._backoff = Backoff()
        self._open: dict[str, _Carried] = {}
        self._marked: set[str] = set()

    def run(self) -> None:
        """Until ``stop`` is set. Errors of the network and the disk are told, and it is tried again."""
        while not self._stop.is_set():
            try:
                self._marks.make_folder()
                with News(self._bell, [self._sessions]) as news:
                    self.look()
                    todo = set(self._open)
                    while not self._stop.is_set():
                        again = self._round(todo)
                        todo = again | self._news(news, 0.0 if again else self._idle_s())
            except (CourierError, HostError) as error:
                self._failed(error.code, error)
            except OSError as error:
                self._failed("sessions_unreadable", error)

    def look(self) -> None:
        """The whole folder: what is new, what is gone. Raises OSError."""
        with opened_folder(self._sessions) as folder:
            names = os.listdir(folder)  # noqa: PTH208  # by its descriptor
        there = {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}
        self._marked = self._marks.all()
        for ident in self._marked - there:
            self._marks.remove(ident)
        self._marked &= there
        for ident in set(self._open) - there:
            self._gone(ident)
        for ident in there - self._marked:
            if _IDENT.fullmatch(ident):
                self._open.setdefault(ident, _Carried())
        self._status.backlog("recordings", len(self._open))

    def _news(self, news: News, timeout_s: float) -> set[str]:
        names = news.wait(timeout_s)
        if not names and names is not None:
            return self._due()
        if timeout_s:  # nothing else to do: let more come
            self._stop.wait(_TOGETHER_S)
            more = news.wait(0)
            names = None if more is None or names is None else names | more
        if names is None:
            self.look()
            return set(self._open)
        idents = {name.removesuffix(SUFFIX).removesuffix(OPEN) for name in names}
        for ident in idents:
            self._noticed(ident)
        self._status.backlog("recordings", len(self._open))
        return (idents & set(self._open)) | self._due()  # sessions that write all the time hold up no other's next try

    def _due(self) -> set[str]:
        now = time.monotonic()
        return {ident for ident, carried in self._open.items() if 0 < carried.not_before <= now}

    def _noticed(self, ident: str) -> None:
        if not _IDENT.fullmatch(ident):
            return
        if not (self._sessions / f"{ident}{SUFFIX}").exists():
            self._gone(ident)
        elif ident not in self._marked:
            self._open.setdefault(ident, _Carried())

    def _gone(self, ident: str) -> None:
        """Removed by the recorder: to keep its bounds, or since the session never was."""
        carried = self._open.pop(ident, None)
        if carried is not None and carried.offset > 0:
            self._status.lost("recordings", 1, f"recording {ident} was removed before it was carried whole")
        if ident in self._marked:
            self._marked.discard(ident)
            self._marks.remove(ident)

    def _idle_s(self) -> float:
        waiting = [carried.not_before for carried in self._open.values() if carried.not_before]
        return max(0.05, min(_LOOK_AGAIN_S, min(waiting) - time.monotonic())) if waiting else _LOOK_AGAIN_S

    def _round(self, todo: set[str]) -> set[str]:
        """A piece of each; those that have more to carry now. Raises CourierError, OSError."""
        more: set[str] = set()
        now = time.monotonic()
        for ident in sorted(todo):
            carried = self._open.get(ident)
            if self._stop.is_set() or carried is None or carried.not_before > now:
                continue
            try:
                if self._piece(ident, carried):
                    more.add(ident)
            except CourierError as error:
                carried.offset = -1  # whatever the other side has now, it will say
                if error.code not in _OF_ONE:
                    raise
                carried.not_before = now + carried.backoff.failed()
                self._status.problem(f"recording {ident}", str(error))
            else:
                self._backoff.worked()
                self._status.problem("recordings", "")
        return more

    def _piece(self, ident: str, carried: _Carried) -> bool:
        """Whether there is more of it. Raises CourierError, OSError."""
        if carried.offset < 0:
            carried.offset = self._transport.recording_size(ident)
        running = (self._sessions / f"{ident}{OPEN}").exists()  # looked at before the size: after it, nothing is written
        try:
            data, size = self._read(f"{ident}{SUFFIX}", carried.offset)
        except FileNotFoundError:
            self._gone(ident)
            return False
        if carried.offset > size:
            raise CourierError("courier_protocol", f"says it has {carried.offset} bytes of {ident}, which has {size}")
        complete = not running and carried.offset + len(data) == size
        if not data and not complete:
            return False
        found = self._transport.send_recording(ident, carried.offset, data, complete=complete)
        advanced, carried.offset = found > carried.offset, found
        if found > size or not (advanced or found == size):
            raise CourierError("courier_protocol", f"says it has {found} bytes of {ident} after a piece of {len(data)}")
        carried.not_before = 0.0
        carried.backoff.worked()
        self._status.problem(f"recording {ident}", "")
        if complete and found == size:
            self._marks.put(ident)
            self._marked.add(ident)
            del self._open[ident]
            self._status.backlog("recordings", len(self._open))
            return False
        return found < size or not running

    def _read(self, name: str, offset: int) -> tuple[bytes, int]:
        with opened_folder(self._sessions) as folder:
            try:
                fd = open_entry(name, folder)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise CourierError("recording_unreadable", f"{name}: {error.strerror}") from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise CourierError("recording_unreadable", f"{name} is no regular file")
            size = found.st_size
            return os.pread(fd, min(PIECE_MAX, max(0, size - offset)), offset) if offset < size else b"", size
        finally:
            os.close(fd)

    def _failed(self, code: str, error: Exception) -> None:
        if self._stop.is_set():
            return
        self._status.problem("recordings", f"{code}: {error}")
        self._stop.wait(self._backoff.failed())
