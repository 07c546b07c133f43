"""The recordings of a folder: whose each is, how long, and whether it goes on. Nothing here is verified."""

import contextlib
import errno
import fcntl
import os
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.sessions.recording.format import (
    BLOCK,
    CHAIN_BYTES,
    HEADER,
    PAYLOAD_MAX,
    RECORD,
    SEAL,
    SEAL_MAX,
    Block,
    Frame,
    Json,
    Kind,
    described,
)
from agent.sessions.recording.reader import frames, opened

SUFFIX = ".tgr"
IDENT = re.compile(r"r-[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_CHUNK = 1 << 20
_LONG = 16 * 1024
_LENGTHS = {BLOCK: (PAYLOAD_MAX, CHAIN_BYTES), SEAL: (SEAL_MAX, 0)}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record stands. ``what`` is BLOCK or SEAL."""

    offset: int
    end: int
    what: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One recording as it says of itself. ``state``: ``ended``, ``running`` (somebody has it open for writing), ``cut`` (no END and
    nobody writes it), ``unfinished`` (no END, and who may not ask can't know which), ``unreadable``."""

    ident: str
    meta: Mapping[str, Json]
    size: int
    lasted_us: int
    state: str
    end: Mapping[str, Json]


def identities(folder: Path, prefix: str = "") -> list[str]:
    """The ids of the recordings there, oldest first. Raises OSError."""
    names = (entry.name.removesuffix(SUFFIX) for entry in os.scandir(folder) if entry.name.endswith(SUFFIX))
    return sorted(name for name in names if IDENT.fullmatch(name) and name.startswith(prefix))


def places(file: BinaryIO, size: int) -> Iterator[Place]:
    """Where each whole record of the first ``size`` bytes stands, by the headers alone: quick for a gigabyte. Raises OSError."""
    offset, long = len(HEADER), False
    start, chunk = 0, b""
    while offset + RECORD.size <= size:
        if not start <= offset <= start + len(chunk) - RECORD.size:
            start, chunk = offset, os.pread(file.fileno(), RECORD.size if long else _CHUNK, offset)
            if len(chunk) < RECORD.size:
                return
        what, seq, length = RECORD.unpack_from(chunk, offset - start)
        most, after = _LENGTHS.get(what, (-1, 0))
        end = offset + RECORD.size + length + after
        if length > most or end > size:
            return
        yield Place(offset, end, what, seq)
        long = length > _LONG  # then the next header is far: nothing between is read
        offset = end


def block_at(file: BinaryIO, place: Place) -> Block:
    """A block by its place. Raises OSError."""
    data = os.pread(file.fileno(), place.end - place.offset, place.offset)
    return Block(place.offset, place.end, place.seq, data[RECORD.size : -CHAIN_BYTES], data[-CHAIN_BYTES:])


def being_written(file: BinaryIO) -> bool | None:
    """Whether any process has the file open for writing; None when that can't be known (only its owner and root may ask).

    The kernel gives a read lease on a file that nobody has open for writing, and no other (fcntl(2)). It is given back at once;
    whoever opens the file meanwhile waits for that, and the signal that would tell us is one that is ignored.
    """
    try:
        fcntl.fcntl(file.fileno(), fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file.fileno(), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    with contextlib.suppress(OSError):
        fcntl.fcntl(file.fileno(), fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def summary(path: Path) -> Summary:
    """What a recording says of itself. Raises OSError."""
    ident = path.name.removesuffix(SUFFIX)
    with opened(path) as file:
        writing = being_written(file)  # first: it may end while it is read
        size = os.fstat(file.fileno()).st_size
        first = last = None
        for place in places(file, size) if os.pread(file.fileno(), len(HEADER), 0) == HEADER else ():
            if place.what == BLOCK:
                first, last = first or place, place
        meta, found = _frames(file, first)[:1], _frames(file, last)[-1:]
    end = described(found[0]) if found and found[0].kind is Kind.END else None
    state = "running" if writing else "unfinished" if writing is None else "cut"
    if not meta or meta[0].kind is not Kind.META:
        return Summary(ident, {}, size, 0, "running" if writing else "unreadable", {})
    lasted_us = found[0].at_us if found else 0
    return Summary(ident, described(meta[0]), size, lasted_us, state if end is None else "ended", end or {})


def _frames(file: BinaryIO, place: Place | None) -> list[Frame]:
    return [item for item in frames(block_at(file, place)) if isinstance(item, Frame)] if place else []
