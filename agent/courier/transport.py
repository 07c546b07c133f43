"""What every way to a control plane offers the courier: calls that block, each bounded in bytes and time.

A transport only moves bytes. What comes in is believed by tidegated alone, after it has looked at the signatures; what goes
out was signed before. Its caller runs :meth:`Transport.receive` in one thread, :meth:`Transport.send` and
:meth:`Transport.renew` in another, the two of recordings in a third, all at once.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.model.plan import Json

TOKEN_MAX = 64 * 1024  # bytes; what the inbox takes (agent.spool.inbox)
RECORD_MAX = 256 * 1024  # bytes of one record as a line of JSON
BATCH_MAX = 1 << 20  # bytes of one batch of records
BATCH_RECORDS_MAX = 1000
PIECE_MAX = 1 << 20  # bytes of a recording sent at once


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far tokens were taken. ``stream`` names the other side's numbering: another one makes ``last`` mean nothing."""

    stream: str = ""
    last: int = 0


@dataclass(frozen=True, slots=True)
class Received:
    """One token, byte for byte, and the cursor once it is safely in the inbox. One that is longer than ``TOKEN_MAX`` comes cut, and
    still longer than that: the caller drops it and goes on."""

    cursor: Cursor
    token: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What goes out. ``key`` (at most 200 characters) is the same each time it is sent; ``kind``: answer, receipt, event."""

    key: str
    kind: str
    body: Json


@dataclass(frozen=True, slots=True)
class Acked:
    """What the other side keeps durably now, and what it will never take (key → its code)."""

    acked: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Renewed:
    """A new client certificate: the chain and the CA as PEM, its end in seconds since the epoch."""

    certificate: str
    ca: str
    expires: int


class Transport(Protocol):
    """One control plane, over one kind of network. Every method raises :class:`agent.errors.CourierError` when it can't."""

    def receive(self, cursor: Cursor, stop: threading.Event) -> Iterator[Received]:
        """Tokens behind ``cursor`` as they come; blocks between. Ends when ``stop`` is set; raises when the connection is lost."""
        ...

    def send(self, records: Sequence[Record]) -> Acked:
        """Send one batch. What is neither acked nor refused is sent again later."""
        ...

    def recording_size(self, ident: str) -> int:
        """How many bytes of the recording the other side keeps durably; 0 for one it does not know."""
        ...

    def send_recording(self, ident: str, offset: int, data: bytes, *, complete: bool) -> int:
        """Send the piece at ``offset``; returns the durable size, which may be another one than hoped for: go on from there."""
        ...

    def renew(self, csr: str) -> Renewed:
        """A new certificate for the key of this PEM request (RFC 2986)."""
        ...

    def close(self) -> None:
        """Hang up; a blocked call ends soon. May be called from any thread, and twice."""
        ...
