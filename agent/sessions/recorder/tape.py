"""One recording on disk: frames go in, blocks come out within 20 ms, and what the disk would not take is owed to it.

A tape that is ``failing`` takes frames no more: who required it holds its session still, who did not goes on and a gap is noted.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.model.plan import Json
from agent.sessions.recorder.loop import Loop, Timer
from agent.sessions.recording import Kind, Writer

FLUSH_S = 0.02
Charge = Callable[[int], bool]


class Tape:
    """``charge(bytes)``: whether the folder has room for so much more. ``failed`` is called when writing begins to fail."""

    def __init__(self, loop: Loop, path: Path, fd: int, writer: Writer, *, size: int, cap: int, charge: Charge) -> None:
        self.path, self.fd, self.writer = path, fd, writer
        self.failing = ""
        self.required = False
        self.dirty = False  # written, and not yet synced
        self.syncing = False
        self.failed: Callable[[], None] = lambda: None
        self.wrote: Callable[[], None] = lambda: None
        self._loop = loop
        self._size, self._cap, self._charge = size, cap, charge
        self._owed = b""
        self._flush: Timer | None = None
        self._lost = 0
        self._closing = False

    def frame(self, kind: Kind, data: bytes) -> bool:
        """Note something; False: it must not go on. What fails and is not required is counted as lost."""
        if self.failing and not self.required:
            self._lost += len(data)
            return True
        writer = self.writer
        writer.frame(kind, data, time.monotonic_ns())
        if self.failing:
            return False
        if writer.closed:  # a whole block
            return self.flush() or not self.required
        if self._flush is None:
            self._flush = self._loop.after(FLUSH_S, self.flush)
        return True

    def event(self, **event: Json) -> bool:
        """An EVENT frame."""
        return self.frame(Kind.EVENT, json.dumps(event).encode())

    def flush(self) -> bool:
        """Write all that waits; False where the disk does not take it."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self.fd < 0:
            return False
        return self._write(self.writer.take())

    def seal(self, jws: str) -> bool:
        """Note the host's signature over what is written."""
        return self._write(self.writer.seal(jws)) if not self._owed else False

    def retry(self) -> bool:
        """Try again to write what is owed; True: it is written, and so is how much was lost meanwhile."""
        if not self._write(b""):
            return False
        self.failing = ""
        lost, self._lost = self._lost, 0
        if lost:
            self.event(type="gap", why="the recording could not be written", bytes=lost)
        return self.flush()

    def fail(self, why: str) -> None:
        """Writing does not work, for a reason found elsewhere (a sync)."""
        if not self.failing:
            self.failing = why
            self.failed()

    def close(self) -> None:
        """When nobody syncs it any more."""
        self._closing = True
        if self.fd >= 0 and not self.syncing:
            os.close(self.fd)
            self.fd = -1

    def synced(self, why: str) -> None:
        """A sync is over; ``why`` it failed, if it did."""
        self.syncing = False
        if self._closing:
            self.close()
        elif why:
            self.fail(why)

    def _write(self, data: bytes) -> bool:
        if data and not self._owed and self.fd >= 0:
            self._owed = data
        elif data:
            self._owed += data
        if not self._owed:
            return True
        try:
            self._room()
            while self._owed:
                count = os.pwrite(self.fd, self._owed, self._size)
                self._size += count
                self._charge(count)
                self._owed = self._owed[count:]
                self.dirty = True
        except OSError as error:
            self.fail(error.strerror or str(error))
            return False
        self.wrote()
        return True

    def _room(self) -> None:
        if self._size + len(self._owed) > self._cap:
            raise OSError(errno.EFBIG, "this recording has reached its greatest size")
        if not self._charge(0):
            raise OSError(errno.EDQUOT, "the recordings' folder has reached its greatest size")


def create(loop: Loop, path: Path, meta: Mapping[str, Json], *, cap: int, charge: Charge) -> Tape:
    """A new recording, its beginning written. Raises OSError where even that can't be."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    tape = Tape(loop, path, fd, Writer(meta, time.monotonic_ns()), size=0, cap=cap, charge=charge)
    if tape.flush():
        return tape
    os.close(fd)
    path.unlink(missing_ok=True)
    raise OSError(errno.EIO, tape.failing)
