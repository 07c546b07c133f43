"""The trail of events, read where it grows: each line once, as far as the other side has said that it keeps it.

``events.ndjson`` is tailed and never touched; a numbered file is deleted once a later one is being read, so that the newest
number is always on the disk. Where reading stands is known by inode and by the bytes before it, so a rotation changes nothing,
and another file in its place is read from its beginning. A line that can't be read and numbers that are missing are told as lost.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from agent.courier import ndjson
from agent.courier.state import read_object, whole, write_object
from agent.courier.transport import RECORD_MAX, Record
from agent.host.files import open_entry, opened_folder

CURRENT = "events.ndjson"
KIND = "event"
_NUMBERED = re.compile(r"events\.([0-9]{12})\.ndjson")
_CHUNK = 512 * 1024  # longer than any line that is carried
_TAIL = 64
_KEY = re.compile(r"[A-Za-z0-9._:-]{1,128}")
Lost = Callable[[str, int, str], None]


@dataclass(frozen=True, slots=True)
class Position:
    """All before ``offset`` of that file is done with; ``tail``: the bytes before it. ``sequence``: the newest event's number."""

    device: int = 0
    inode: int = 0
    offset: int = 0
    sequence: int = 0
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Step:
    """One line on the way out. ``record`` is None for one that can't be carried; ``lost``: what to tell once it is done with."""

    record: Record | None
    after: Position
    lost: tuple[str, int, str] | None = None
    size: int = 0


class Events:
    """One trail. Used by one thread. ``lost(what, count, why)`` is told of what can't be carried."""

    def __init__(self, outbox: Path, state: Path, lost: Lost) -> None:
        self._outbox, self._state, self._lost = outbox, state, lost
        self._position = _read(state)

    def gather(self, count: int, size: int) -> tuple[list[Step], int]:
        """The next lines, at most so many and so many bytes as NDJSON; and how many bytes wait behind them. Raises OSError."""
        steps: list[Step] = []
        at, behind = self._position, 0
        with opened_folder(self._outbox) as folder:
            files = _opened(folder)
            try:
                start = next((index for index, (_, fd) in enumerate(files) if _is_at(fd, at)), None)
                if start is None:
                    at = Position(sequence=at.sequence)
                for name, _ in files[: start or 0]:  # older than the one that is being read
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)
                for name, fd in files[start or 0 :]:
                    found = os.fstat(fd)
                    if (found.st_dev, found.st_ino) != (at.device, at.inode):
                        at = Position(found.st_dev, found.st_ino, 0, at.sequence)
                    if len(steps) < count and size > 0:
                        for step in _steps(fd, at, found.st_size, finished=name != CURRENT):
                            if len(steps) >= count or step.size > size:
                                size = 0
                                break
                            steps.append(step)
                            size, at = size - step.size, step.after
                    behind += max(0, found.st_size - at.offset)
            finally:
                for _, fd in files:
                    os.close(fd)
        return steps, behind

    def done(self, steps: list[Step]) -> None:
        """These are done with, durably, and what of them is lost is told. Raises HostError ``write_failed``."""
        if not steps:
            return
        after = steps[-1].after
        value = {name: getattr(after, name) for name in ("device", "inode", "offset", "sequence")}
        write_object(self._state, {**value, "tail": after.tail.hex()})
        self._position = after
        for step in steps:
            if step.lost:
                self._lost(*step.lost)


def _read(state: Path) -> Position:
    found = read_object(state)
    device, inode, offset, sequence = (whole(found.get(name), 1 << 64) for name in ("device", "inode", "offset", "sequence"))
    tail = found.get("tail")
    try:
        return Position(device, inode, offset, sequence, bytes.fromhex(tail) if isinstance(tail, str) else b"")
    except ValueError:
        return Position()


def _opened(folder: int) -> list[tuple[str, int]]:
    """The files of the trail, oldest first, opened before any is read: what is rotated meanwhile is not missed, nor read twice."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _NUMBERED.fullmatch(entry.name))
    found: list[tuple[str, int]] = []
    # The current one first: were it rotated between the two, it would be among the numbered under a name that was not listed.
    for name in (CURRENT, *names):
        with contextlib.suppress(OSError):
            fd = open_entry(name, folder)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                found.append((name, fd))
            else:
                os.close(fd)
    return found[1:] + found[:1] if found and found[0][0] == CURRENT else found


def _is_at(fd: int, at: Position) -> bool:
    found = os.fstat(fd)
    if (found.st_dev, found.st_ino) != (at.device, at.inode) or at.offset > found.st_size:
        return False
    return os.pread(fd, len(at.tail), max(0, at.offset - len(at.tail))) == at.tail


def _steps(fd: int, at: Position, size: int, *, finished: bool) -> Iterator[Step]:
    for line, end, tail in _lines(fd, at.offset, size):
        step = _step(line, replace(at, offset=end, tail=tail))
        yield step
        at = step.after
    if finished and at.offset < size:
        after = replace(at, offset=size, tail=b"")
        yield Step(None, after, ("events_torn", 1, "a file of events ends in half a line"))


def _lines(fd: int, offset: int, size: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Whole lines, where each ends, and the bytes before that; one that is too long comes empty."""
    skipping = False
    while offset < size:
        data = os.pread(fd, min(_CHUNK, size - offset), offset)
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            tail = data[max(0, end + 1 - _TAIL) : end + 1]
            yield (b"" if skipping else data[begin:end]), offset + end + 1, tail
            begin, skipping = end + 1, False
        if begin == 0 and len(data) < _CHUNK:
            return
        if begin == 0:
            begin, skipping = len(data), True
        offset += begin


def _step(line: bytes, after: Position) -> Step:
    try:
        body = json.loads(line) if len(line) <= RECORD_MAX else None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Step(None, after, ("events_unreadable", 1, f"a line of events that ends at byte {after.offset} can't be read"))
    metadata = body.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}
    uid, sequence = known.get("uid"), whole(known.get("sequence"), 1 << 53)
    key = uid if isinstance(uid, str) and _KEY.fullmatch(uid) else hashlib.sha256(line).hexdigest()
    record = Record(key, KIND, body)
    size = len(ndjson.line(record))
    lost = None
    if after.sequence and sequence > after.sequence + 1:
        missing = sequence - after.sequence - 1
        lost = ("events", missing, f"{missing} events before number {sequence} are not there any more")
    after = replace(after, sequence=sequence or after.sequence)
    if size > RECORD_MAX:
        return Step(None, after, ("events_too_long", 1, f"event {sequence} is longer than {RECORD_MAX} bytes"))
    return Step(record, after, lost, size)
