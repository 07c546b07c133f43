"""Frames → the bytes of a recording. No I/O: the caller appends what it is given to the file, in that order."""

import base64
import hashlib
import json
from collections.abc import Mapping

from agent.sessions.recording.format import (
    BLOCK,
    BLOCK_MAX,
    FRAME_MAX,
    HEADER,
    RECORD,
    SEAL,
    SEAL_MAX,
    SIZE,
    STREAMS,
    Json,
    Kind,
    first_chain,
    varint,
)

_COMPACT_PARTS = 3
_FRAME_HEAD = 8  # bytes before a frame's own, about: a block of the smallest frames, with 13 each, is still below PAYLOAD_MAX
_END = Kind.END  # an enumeration's member is looked up by a function: not for each frame


def encode(value: Mapping[str, Json]) -> bytes:
    """JSON of META, EVENT and END frames: ASCII, no spaces."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode("ascii")


class Writer:
    """One recording that is being written. Times are of one monotonic clock, in nanoseconds; one that goes back counts as no time.

    ``at_ns`` is now; the META frame stands at 0. What :meth:`take` and :meth:`seal` return must reach the file in that order.
    """

    def __init__(self, meta: Mapping[str, Json], at_ns: int) -> None:
        self.seq = -1  # of the last closed block
        self.head = first_chain()  # the chain's value after that block, which a seal signs
        self.size = 0  # bytes produced so far
        self.sealed = -1  # the newest block that a seal covers
        self.ended = False  # an END frame was given
        self._chain = self.head  # the same after every seal too
        self._zero_ns = at_ns
        self._last_us = 0  # of the frame before
        self.closed = 0  # bytes that are final and not yet taken
        self._out: list[bytes] = []  # those
        self._frames: list[tuple[Kind, bytes, int]] = []  # of the open block, with their times: made bytes when it is closed
        self._open = 0  # their bytes
        self._emit(HEADER)
        self.frame(Kind.META, encode(meta), at_ns)

    @classmethod
    def going_on(
        cls, *, seq: int, head: bytes, chain: bytes, size: int, sealed: int, ended: bool, last_us: int, at_ns: int
    ) -> "Writer":
        """A writer for a file of which this much is there; for :func:`agent.sessions.recording.recover`."""
        writer = cls({}, at_ns - last_us * 1000)
        writer._out, writer._frames, writer._open, writer.closed = [], [], 0, 0
        writer.seq, writer.head, writer.size, writer.sealed, writer.ended = seq, head, size, sealed, ended
        writer._chain, writer._last_us = chain, last_us
        return writer

    def frame(self, kind: Kind, data: bytes, at_ns: int) -> None:
        """Add a frame. Streams longer than FRAME_MAX become several; an empty one is none.

        Raises:
            ValueError: JSON or a size of more than FRAME_MAX bytes, or the recording has ended.
        """
        if self.ended:
            raise ValueError("the recording has ended")
        if 0 < len(data) <= FRAME_MAX or not (data or kind in STREAMS):
            self._frames.append((kind, data, at_ns))
            self._open += len(data) + _FRAME_HEAD
            if self._open >= BLOCK_MAX:
                self._close()
            self.ended = kind is _END
        elif kind in STREAMS:
            for start in range(0, len(data), FRAME_MAX):
                self.frame(kind, data[start : start + FRAME_MAX], at_ns)
        else:
            raise ValueError(f"a {kind.name} frame has at most {FRAME_MAX} bytes")

    def event(self, event: Mapping[str, Json], at_ns: int) -> None:
        """Add an EVENT frame: an object with a ``type``. Raises ValueError as :meth:`frame`."""
        self.frame(Kind.EVENT, encode(event), at_ns)

    def resize(self, columns: int, rows: int, at_ns: int) -> None:
        """Add a RESIZE frame (each at most 65535). Raises ValueError as :meth:`frame`."""
        self.frame(Kind.RESIZE, SIZE.pack(min(columns, 0xFFFF), min(rows, 0xFFFF)), at_ns)

    def end(self, why: str, at_ns: int, status: int | None = None) -> None:
        """Add the END frame, after which nothing may come; ``status`` as of waitpid. Raises ValueError as :meth:`frame`."""
        self.frame(Kind.END, encode({"why": why} if status is None else {"why": why, "status": status}), at_ns)

    def take(self) -> bytes:
        """Close the open block; everything not yet taken, b"" when there is nothing. The first begins with the file's header."""
        self._close()
        return self._taken()

    def claims(self) -> dict[str, Json]:
        """``seq``, ``head`` and ``bytes`` of a seal over all blocks up to now; after :meth:`take`, which closes them."""
        return {"seq": self.seq, "head": self.head.hex(), "bytes": self.size}

    def seal(self, jws: str) -> bytes:
        """A seal of this recording's, as bytes for the file (behind whatever is closed and not taken). Blocks may have come since.

        Raises:
            ValueError: it is no compact JWS, or names a block that is not there.
        """
        seq = covered(jws)
        if not 0 <= seq <= self.seq:
            raise ValueError(f"the seal is of block {seq}, and there are {self.seq + 1}")
        data = jws.encode("ascii")
        header = RECORD.pack(SEAL, seq, len(data))
        self._chain = hashlib.sha256(self._chain + header + data).digest()
        self._emit(header + data)
        self.sealed = max(self.sealed, seq)
        return self._taken()

    def _close(self) -> None:
        if not self._frames:
            return
        last_us = max((self._frames[0][2] - self._zero_ns) // 1000, self._last_us)
        parts = [varint(last_us)]
        for kind, data, at_ns in self._frames:
            at_us = max((at_ns - self._zero_ns) // 1000, last_us)
            parts += (bytes((kind,)), varint(at_us - last_us), varint(len(data)), data)
            last_us = at_us
        self._last_us = last_us
        payload = b"".join(parts)
        self.seq += 1
        header = RECORD.pack(BLOCK, self.seq, len(payload))
        found = hashlib.sha256(self._chain + header)
        found.update(payload)
        self.head = self._chain = found.digest()
        self._emit(b"".join((header, payload, self.head)))
        self._frames, self._open = [], 0

    def _emit(self, data: bytes) -> None:
        self._out.append(data)
        self.closed += len(data)
        self.size += len(data)

    def _taken(self) -> bytes:
        taken, self._out, self.closed = b"".join(self._out), [], 0
        return taken


def covered(jws: str) -> int:
    """The block that a compact JWS names in its claims. Raises ValueError."""
    parts = jws.split(".", _COMPACT_PARTS)
    if len(parts) != _COMPACT_PARTS or len(jws) > SEAL_MAX or not jws.isascii():
        raise ValueError("a seal must be a compact JWS")
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    seq = claims.get("seq") if isinstance(claims, dict) else None
    if not isinstance(seq, int):
        raise ValueError("a seal must name a block")  # noqa: TRY004  # it is the token that is wrong
    return seq
