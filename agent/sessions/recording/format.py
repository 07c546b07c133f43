"""The recording's bytes: its constants, its values, and the few functions that both writer and reader need. See docs/RECORDINGS.md.

::

    file    = HEADER record*
    block   = "B" seq:u32 length:u32 payload chain:32
    seal    = "S" seq:u32 length:u32 JWS
    payload = at:varint frame*                  (microseconds from the recording's begin to its first frame)
    frame   = kind:u8 delta:varint length:varint bytes   (microseconds since the frame before; 0 for a block's first)

Integers are big-endian, varints are LEB128. Every record, a seal as well, goes into the hash chain:
``chain = SHA-256(chain before + header of 9 bytes + payload)``, which begins with SHA-256(HEADER). So nothing that stands
before a seal can be moved, not even another seal.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]

HEADER = b"TGREC\x01\n"
BLOCK, SEAL = b"B", b"S"
RECORD = struct.Struct(">cII")  # what, seq, length of the payload
SIZE = struct.Struct(">HH")  # columns, rows
CHAIN_BYTES = 32
SEAL_TYP = "recording-seal+jwt"

FRAME_MAX = 64 * 1024  # bytes of one frame's data; longer output becomes several frames
BLOCK_MAX = 64 * 1024  # a block is closed once it has this many: small enough to stay in the caches on its way
PAYLOAD_MAX = 512 * 1024  # what a reader takes: BLOCK_MAX, one more frame, and some room
SEAL_MAX = 8 * 1024  # characters of a JWS
VARINT_MAX = 9  # bytes: 63 bits


class Kind(IntEnum):
    """What a frame holds."""

    META = ord("m")  # JSON, the first frame of all
    OUT = ord("o")  # what the terminal showed, or stdout
    ERR = ord("e")  # stderr of a command without a terminal
    STDIN = ord("n")  # stdin of a command without a terminal
    INPUT = ord("i")  # the keyboard, where grant and policy allow it
    RESIZE = ord("r")  # columns, rows: two u16
    EVENT = ord("v")  # JSON with a "type"
    END = ord("x")  # JSON, the last frame of all


STREAMS = frozenset({Kind.OUT, Kind.ERR, Kind.STDIN, Kind.INPUT})  # may be split anywhere


@dataclass(frozen=True, slots=True)
class Frame:
    """One thing that happened, ``at_us`` microseconds after the recording began (monotonic)."""

    kind: Kind
    at_us: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Seal:
    """The host's signature over everything up to and with block ``seq``; not verified by reading it. ``offset``: its first byte."""

    offset: int
    seq: int
    jws: str


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in the file is not as it was written. ``offset``: first byte of the record that is wrong; ``code``: one of
    ``not_a_recording``, ``cut``, ``hash``, ``order``, ``structure``, ``frame``."""

    offset: int
    code: str
    what: str


@dataclass(frozen=True, slots=True)
class Block:
    """A block of frames as it stands in the file, ``offset`` to ``end``. ``head``: the chain's value after it."""

    offset: int
    end: int
    seq: int
    payload: bytes
    head: bytes


def first_chain() -> bytes:
    """The chain's value before the first record."""
    return hashlib.sha256(HEADER).digest()


def varint(value: int) -> bytes:
    """LEB128 of a number from 0 to 2**63 - 1."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def unvarint(data: bytes, at: int) -> tuple[int, int]:
    """The number at ``at``, and where it ends.

    Raises:
        ValueError: it is cut, or longer than 9 bytes.
    """
    value = 0
    for index in range(VARINT_MAX):
        if at + index >= len(data):
            break
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a number is cut or too long")


def described(frame: Frame) -> Mapping[str, Json]:
    """The JSON object of a META, EVENT or END frame; empty when it holds none."""
    try:
        found = json.loads(frame.data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def size_of(frame: Frame) -> tuple[int, int] | None:
    """Columns and rows of a RESIZE frame."""
    return SIZE.unpack(frame.data) if len(frame.data) == SIZE.size else None
