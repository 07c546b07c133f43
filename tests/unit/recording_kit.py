"""Recordings for tests: a host's key, seals by it, and small files of every kind of record."""

import io
from collections.abc import Mapping

from agent import trust
from agent.sessions.recording import SEAL_TYP, Block, Damage, Frame, Json, Kind, Records, Seal, Writer, read

MS = 1_000_000  # nanoseconds
IDENT = "r-20261122T051500-0a1b2c3d"
META: Mapping[str, Json] = {
    "id": IDENT,
    "jti": "g-1",
    "sub": "alice@example.com",
    "login": "jit-alice",
    "uid": 70000,
    "host": "urn:tidegate:test",
    "began": "2026-11-22T05:15:00.000000Z",
    "remote": "192.0.2.7",
    "kind": "pty",
    "command": "",
    "term": "xterm-256color",
    "cols": 80,
    "rows": 24,
    "input": False,
}


def meta(**changes: Json) -> dict[str, Json]:
    """A META frame's object."""
    return {**META, **changes}


def seal(key: trust.HostKey, host_id: str, writer: Writer, *, final: object = False, **changes: object) -> str:
    """A seal of IDENT by that host, over all that was taken."""
    claims = {"iss": host_id, "recording": IDENT, "jti": "g-1", "iat": 1, "final": final, **writer.claims(), **changes}
    return key.sign(SEAL_TYP, claims)


class Host:
    """A host that seals recordings."""

    def __init__(self, host_id: str = "urn:tidegate:test") -> None:
        self.host_id = host_id
        self.key = trust.HostKey.unsaved()
        self.ring = trust.keyring({"keys": [self.key.public_jwk(host_id)]})

    def seal(self, writer: Writer, *, final: object = False, **changes: object) -> str:
        """A seal over all that was taken."""
        return seal(self.key, self.host_id, writer, final=final, **changes)


def small(host: Host, *, final: bool = True) -> bytes:
    """Four blocks, two seals (one of them late: a block came before it), an end."""
    writer = Writer(meta(), 0)
    writer.frame(Kind.OUT, b"$ ", 5 * MS)
    data = writer.take()
    writer.frame(Kind.OUT, "gr\u00fcn\r\n".encode()[:3], 25 * MS)
    writer.resize(100, 30, 26 * MS)
    data += writer.take()
    first = host.seal(writer)
    writer.frame(Kind.OUT, "gr\u00fcn\r\n".encode()[3:], 50 * MS)
    writer.event({"type": "exec", "argv": ["id"]}, 51 * MS)
    data += writer.take() + writer.seal(first)
    writer.end("exit", 90 * MS, 0)
    data += writer.take()
    return data + (writer.seal(host.seal(writer, final=True)) if final else b"")


def items(data: bytes) -> list[Frame | Seal | Damage]:
    """All that a reader finds."""
    return list(read(io.BytesIO(data)))


def pieces(data: bytes) -> list[bytes]:
    """The header and each record of a sound recording."""
    parser = Records()
    ends = [7]
    for _item in parser.feed(data):
        assert isinstance(_item, Block | Seal)
        ends.append(parser.offset)
    return [data[start:end] for start, end in zip([0, *ends], [*ends], strict=False) if end > start]
