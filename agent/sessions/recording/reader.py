"""Bytes → blocks, seals and frames. Memory is bounded by one block; damage is told, and reading goes on where it can."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from agent.sessions.recording.format import (
    BLOCK,
    CHAIN_BYTES,
    FRAME_MAX,
    HEADER,
    PAYLOAD_MAX,
    RECORD,
    SEAL,
    SEAL_MAX,
    Block,
    Damage,
    Frame,
    Kind,
    Seal,
    first_chain,
    unvarint,
)

CHUNK = 64 * 1024
_KINDS = {int(kind): kind for kind in Kind}
_MOST = {BLOCK: PAYLOAD_MAX, SEAL: SEAL_MAX}


class Source(Protocol):
    """What is read from: a file opened for bytes."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, b"" at the end."""


class Records:
    """A parser that is fed as bytes come, as when a recording is followed while it grows."""

    def __init__(self, middle: tuple[int, int, bytes] | None = None) -> None:
        """From the file's first byte on; or from ``middle``: the offset of a block, its seq, and the chain before it."""
        self.offset, self._next, self.chain = middle or (0, 0, first_chain())  # of the next record
        self._begun = middle is not None
        self._buffer = bytearray()
        self._lost = False  # where the next record begins is not known any more

    def feed(self, data: bytes) -> Iterator[Block | Seal | Damage]:
        """Every record that is whole now. After damage that hides where the next one begins, nothing more."""
        if not self._lost:
            self._buffer += data
        while (found := self._record() if self._begun else self._header()) is not None:
            yield from found
        if self._lost:
            self._buffer.clear()

    def close(self) -> Iterator[Damage]:
        """The file ends here: a record that is not whole is a cut."""
        if self._lost or (self._begun and not self._buffer):
            return
        if self._begun:
            yield Damage(self.offset, "cut", f"cut at byte {self.offset + len(self._buffer)}, in the record that begins here")
        elif HEADER.startswith(self._buffer):
            yield Damage(0, "cut", f"cut at byte {len(self._buffer)}, in the file's header")

    def _take(self, length: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        self.offset += length
        return taken

    def _header(self) -> list[Block | Seal | Damage] | None:
        if self._lost or (len(self._buffer) < len(HEADER) and HEADER.startswith(self._buffer)):
            return None
        if not self._buffer.startswith(HEADER):
            self._lost = True
            return [Damage(0, "not_a_recording", "does not begin as a recording of this version does")]
        self._take(len(HEADER))
        self._begun = True
        return []

    def _record(self) -> list[Block | Seal | Damage] | None:
        if self._lost or len(self._buffer) < RECORD.size:
            return None
        what, seq, length = RECORD.unpack_from(self._buffer)
        if length > _MOST.get(what, -1):
            self._lost = True
            return [Damage(self.offset, "structure", "no record begins here; what follows can't be read")]
        whole = RECORD.size + length + (CHAIN_BYTES if what == BLOCK else 0)
        if len(self._buffer) < whole:
            return None
        offset, record = self.offset, self._take(whole)
        covered = record[: RECORD.size + length]
        computed = hashlib.sha256(self.chain + covered).digest()
        return self._block(offset, seq, record, computed) if what == BLOCK else self._seal(offset, seq, covered, computed)

    def _block(self, offset: int, seq: int, record: bytes, computed: bytes) -> list[Block | Seal | Damage]:
        found: list[Block | Seal | Damage] = []
        stored = record[-CHAIN_BYTES:]
        if seq != self._next:
            found.append(Damage(offset, "order", f"block {seq} stands where block {self._next} belongs"))
        elif stored != computed:
            what = f"block {seq}: a byte of it, or of a seal before it, is not as written, or something is missing"
            found.append(Damage(offset, "hash", what))
        self._next, self.chain = seq + 1, stored  # from the stored value on, so that one change is told once
        found.append(Block(offset, self.offset, seq, record[RECORD.size : -CHAIN_BYTES], stored))
        return found

    def _seal(self, offset: int, seq: int, covered: bytes, computed: bytes) -> list[Block | Seal | Damage]:
        self.chain = computed
        text = covered[RECORD.size :]
        if not text.isascii():
            return [Damage(offset, "structure", "a seal has bytes outside ASCII")]
        return [Seal(offset, seq, text.decode("ascii"))]


def frames(block: Block) -> Iterator[Frame | Damage]:
    """The frames of one block; where one can't be read, that is told and the rest of the block is left."""
    payload, end = block.payload, len(block.payload)
    try:
        at_us, position = unvarint(payload, 0)
        while position < end:
            kind = _KINDS.get(payload[position])
            delta, position = unvarint(payload, position + 1)
            length, position = unvarint(payload, position)
            if kind is None or length > FRAME_MAX or position + length > end:
                raise ValueError("no frame")
            at_us += delta
            yield Frame(kind, at_us, payload[position : position + length])
            position += length
    except ValueError:
        yield Damage(block.offset, "frame", f"block {block.seq}: a frame can't be read; the rest of the block is left out")


def opened(path: Path) -> BinaryIO:
    """A recording's file for reading; the folder is the recorder's, so no link is followed. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return os.fdopen(descriptor, "rb", buffering=0)


def records(source: Source) -> Iterator[Block | Seal | Damage]:
    """Every record of a file, in order; the last item tells a cut, if there is one. Raises OSError."""
    parser = Records()
    while data := source.read(CHUNK):
        yield from parser.feed(data)
    yield from parser.close()


def unpacked(found: Iterable[Block | Seal | Damage]) -> Iterator[Frame | Seal | Damage]:
    """The same with each block's frames in its place."""
    for item in found:
        if isinstance(item, Block):
            yield from frames(item)
        else:
            yield item


def read(source: Source) -> Iterator[Frame | Seal | Damage]:
    """Every frame and seal of a recording, in order, and where it is damaged. Nothing of it is verified. Raises OSError."""
    return unpacked(records(source))
