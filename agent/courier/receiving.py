"""From the network into the inbox: each token a file, byte for byte, and only then the cursor moves. Believed is nothing of it."""

import contextlib
import hashlib
import logging
import os
import stat
import threading
import time
from pathlib import Path

from agent.courier.backoff import Backoff
from agent.courier.pace import Pace
from agent.courier.settings import Limits
from agent.courier.state import CursorFile
from agent.courier.status import Status
from agent.courier.transport import TOKEN_MAX, Received, Transport
from agent.courier.waiting import Bell, News
from agent.errors import CourierError, HostError
from agent.host.files import opened_folder, write_all

_SUFFIX, _PART = ".jws", ".part"
_LOOK_AGAIN_S = 30.0  # a full inbox is looked at again by then, though inotify told nothing
log = logging.getLogger("tidegate.courier")


class Drop:
    """The inbox as the courier sees it: a folder to put files into, and to look at how full it is."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self._limits = limits

    def clear(self) -> None:
        """Remove what a kill left unfinished; its token comes again. Raises OSError."""
        with opened_folder(self.folder) as folder, os.scandir(folder) as entries:
            for name in [entry.name for entry in entries if entry.name.startswith(".") and entry.name.endswith(_SUFFIX + _PART)]:
                with contextlib.suppress(OSError):  # somebody else's: it lies in nobody's way
                    os.unlink(name, dir_fd=folder)

    def full(self) -> bool:
        """Whether as many files, or bytes, wait there as may. Raises OSError."""
        count = size = 0
        with opened_folder(self.folder) as folder, os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    count += 1
                    size += found.st_size if stat.S_ISREG(found.st_mode) else 0
                if count >= self._limits.inbox_files or size >= self._limits.inbox_bytes:
                    return True
        return False

    def put(self, ident: int, token: bytes) -> str:
        """One token, durable on return; its name. The same token again is the same file. Raises OSError."""
        name = f"{ident:020d}-{hashlib.sha256(token).hexdigest()[:16]}{_SUFFIX}"
        part = f".{name}{_PART}"
        with opened_folder(self.folder) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                try:
                    write_all(fd, token)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(part, dir_fd=folder)
                raise
            os.fsync(folder)
        return name


class Receiver:
    """One thread's work: receive until told to stop, over as many connections as it takes."""

    def __init__(
        self,
        transport: Transport,
        drop: Drop,
        cursor: CursorFile,
        status: Status,
        limits: Limits,
        stop: threading.Event,
        bell: Bell,
    ) -> None:
        self._transport, self._drop, self._file, self._status = transport, drop, cursor, status
        self._stop, self._bell = stop, bell
        self._cursor = cursor.read()
        self._pace = Pace(limits.tokens_per_minute)
        self._backoff = Backoff()

    def run(self) -> None:
        """Until ``stop`` is set. Never raises an error of the network or the disk: both are told and tried again."""
        self._status.token(self._cursor.last)
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._drop.clear()
                with contextlib.closing(self._transport.receive(self._cursor, self._stop)) as tokens:  # type: ignore[type-var]  # a generator
                    for received in tokens:
                        self._take(received)
                        if self._stop.is_set():
                            return
                why = CourierError("courier_unreachable", "the control plane ended the connection")
            except CourierError as error:
                why = error
            except HostError as error:
                why = CourierError(error.code, error.reason)
            except OSError as error:
                why = CourierError("inbox_unwritable", f"{self._drop.folder}: {error.strerror}")
            if not self._stop.is_set():
                self._status.down(why)
                self._stop.wait(self._backoff.failed(time.monotonic() - began))

    def _take(self, received: Received) -> None:
        if len(received.token) > TOKEN_MAX:
            self._status.lost(
                "tokens_too_long", 1, f"token {received.cursor.last} is longer than {TOKEN_MAX} bytes and was dropped"
            )
        else:
            self._pace.take(1, self._stop)
            self._await_room()
            if self._stop.is_set():
                return
            self._drop.put(received.cursor.last, received.token)
        self._file.write(received.cursor)
        self._cursor = received.cursor
        self._status.token(received.cursor.last)

    def _await_room(self) -> None:
        if not self._drop.full():
            return
        log.warning("the inbox is full: nothing is received until tidegated has taken some of it")
        self._status.problem("inbox", "inbox_full: nothing is received until tidegated has taken some of it")
        with News(self._bell, [self._drop.folder]) as news:
            while not self._stop.is_set() and self._drop.full():
                news.wait(_LOOK_AGAIN_S)
        self._status.problem("inbox", "")
