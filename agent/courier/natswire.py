"""NATS without a network: subjects, the index of a host's tokens, what a live message is worth, credentials. All pure.

docs/FLEET.md has the whole; in short, for host token T and bucket B:

* ``$KV.B.T.<id>`` is one token. Its headers say which numbering it is of (``Tidegate-Stream``) and which id came before it
  (``Tidegate-Previous``), so that a host sees at once that it missed one.
* ``$KV.B.index.T`` lists the ids there are. A host asks for it by name, and then for each token by name: that is what a
  broker can hold it to. Asking by content ("the next after N") would let every host read every other's.
* ``$KV.B.T.index.stored`` is kept by no stream: the word that an index is stored whose newest id is ``Tidegate-Previous``. A broker
  delivers live what it has not stored yet. So who begins to listen behind a token, and asks before its index is there, hears this.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.courier.ndjson import line
from agent.courier.transport import RECORD_MAX, Cursor, Record
from agent.errors import CourierError
from agent.trust.jwk import raw_public

STREAM_HEADER = "Tidegate-Stream"
PREVIOUS_HEADER = "Tidegate-Previous"
OFFSET_HEADER = "Tidegate-Offset"
COMPLETE_HEADER = "Tidegate-Complete"
INDEX_MAX = 256 * 1024  # bytes
LIVE_MAX = 8000  # tokens of one host
BATCH_BYTES = 64 * 1024  # of records in one message: bigger ones only cost memory (FACTS: ingest)
IDENT_MAX = 2**63 - 1

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SEED = re.compile(r"(?<![A-Z2-7])SU[A-Z2-7]{56}(?![A-Z2-7])")
_JWT = re.compile(r"BEGIN NATS USER JWT-+\s+([A-Za-z0-9_.-]+)\s+-+END NATS USER JWT")
_DECIMAL = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Subjects:
    """The subjects of one host. ``token`` is its host token, 43 characters of base64url.

    Raises:
        CourierError: ``nats_name``: the token or the bucket's name has characters that mean something in a subject.
    """

    token: str
    bucket: str = "tidegate"

    def __post_init__(self) -> None:
        """Nothing that was not checked gets into a subject: ``>`` or ``*`` would widen it."""
        if not _TOKEN.fullmatch(self.token) or not _NAME.fullmatch(self.bucket):
            raise CourierError("nats_name", f"host token {self.token[:64]!r} or bucket {self.bucket[:64]!r} can't be in a subject")

    @property
    def tokens(self) -> str:
        """What the host listens to."""
        return f"$KV.{self.bucket}.{self.token}.>"

    @property
    def inbox(self) -> str:
        """The prefix of its replies."""
        return f"_INBOX.{self.token}"

    @property
    def records(self) -> str:
        """Where its records go."""
        return f"tidegate.records.{self.token}"

    @property
    def get_index(self) -> str:
        """Asks for its index."""
        return f"$JS.API.DIRECT.GET.KV_{self.bucket}.$KV.{self.bucket}.index.{self.token}"

    def get_token(self, ident: int) -> str:
        """Asks for one token."""
        return f"$JS.API.DIRECT.GET.KV_{self.bucket}.$KV.{self.bucket}.{self.token}.{ident}"

    def recording(self, ident: str) -> str:
        """Where a recording goes. Raises CourierError (``nats_name``) for an id that can't be in a subject."""
        if not _NAME.fullmatch(ident):
            raise CourierError("nats_name", f"recording {ident[:64]!r} can't be in a subject")
        return f"tidegate.recordings.{self.token}.{ident}"

    def get_recording(self, ident: str) -> str:
        """Asks for a recording's last piece."""
        return f"$JS.API.DIRECT.GET.TIDEGATE_RECORDINGS.{self.recording(ident)}"


@dataclass(frozen=True, slots=True)
class Index:
    """A host's tokens at the broker: ids that are there, ascending; ``last`` was the newest ever."""

    stream: str
    last: int
    live: tuple[int, ...]

    def after(self, cursor: Cursor) -> tuple[int, ...]:
        """What a host with this cursor lacks. A cursor of another numbering, or ahead of this one, counts as none."""
        known = cursor.last if cursor.stream == self.stream and cursor.last <= self.last else 0
        return tuple(ident for ident in self.live if ident > known)


def parse_index(data: bytes) -> Index:
    """Read ``{"stream": "...", "last": N, "tokens": [[id, pushed at], ...]}``.

    Raises:
        CourierError: ``courier_protocol``: it is not that, or out of bounds.
    """
    try:
        if len(data) > INDEX_MAX:
            raise ValueError(f"{len(data)} bytes")
        found = json.loads(data)
        stream, last, live = found["stream"], found["last"], tuple(row[0] for row in found["tokens"])
        if not isinstance(stream, str) or not 1 <= len(stream) <= 128 or type(last) is not int or not 0 <= last <= IDENT_MAX:
            raise ValueError("stream or last")
        ordered = all(type(ident) is int for ident in live) and list(live) == sorted(set(live))
        if len(live) > LIVE_MAX or not ordered or (live and not 0 < live[0] <= live[-1] <= last):
            raise ValueError("tokens")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise CourierError("courier_protocol", f"the index of this host's tokens is malformed: {error!r}"[:300]) from error
    return Index(stream, last, live)


class Worth(Enum):
    """What a live message is worth."""

    NEW = "new"  # the next one
    OLD = "old"  # was taken before, or is no token any more
    LOOK = "look"  # not the next one: look at the index
    FOREIGN = "foreign"  # was not put there by the control plane


@dataclass(frozen=True, slots=True)
class Live:
    """One message of the subscription, as it came."""

    subject: str
    data: bytes
    headers: Mapping[str, str]

    @property
    def stream(self) -> str:
        """The numbering it says it is of."""
        return self.headers.get(STREAM_HEADER, "")

    @property
    def stored(self) -> bool:
        """Whether it is no token, but the word that an index is stored."""
        return self.subject.endswith(".index.stored")

    @property
    def ident(self) -> int:
        """The token's id, 0 if the subject has none."""
        return decimal(self.subject.rpartition(".")[2]) or 0


def judge(live: Live, at: Cursor) -> Worth:
    """What to do with a live message, for one who has everything up to ``at``.

    A host may name any subject for a reply, another host's among them, and the broker then sends its answer there. Such an
    answer has no headers, or says from which stream it was read (``Nats-Stream``), which no host can prevent: it is foreign.
    ``at`` without a stream means that there is no index yet; the first token of all is then the next one.
    """
    stream, previous = live.stream, decimal(live.headers.get(PREVIOUS_HEADER, ""))
    if "Nats-Stream" in live.headers or not 1 <= len(stream) <= 128 or previous is None or not (live.ident or live.stored):
        return Worth.FOREIGN
    if stream != at.stream and (at.stream or previous):
        return Worth.LOOK
    if live.stored:
        return Worth.OLD if previous <= at.last else Worth.LOOK
    if live.ident <= at.last or not live.data:
        return Worth.OLD
    if previous > at.last:
        return Worth.LOOK
    return Worth.NEW


def decimal(text: str) -> int | None:
    """A number of at most 19 digits, up to 2^63-1; None for anything else."""
    return number if _DECIMAL.fullmatch(text) and (number := int(text)) <= IDENT_MAX else None


def pack(records: Sequence[Record], limit: int = BATCH_BYTES) -> tuple[list[tuple[tuple[str, ...], bytes]], dict[str, str]]:
    """Records as messages of about ``limit`` bytes (keys, body), in order; and those that are too large for any (key → code)."""
    messages: list[tuple[tuple[str, ...], bytes]] = []
    refused: dict[str, str] = {}
    keys: list[str] = []
    body = b""
    for record in records:
        made = line(record)
        if len(made) > RECORD_MAX:
            refused[record.key] = "record_too_large"
            continue
        if keys and len(body) + len(made) > limit:
            messages.append((tuple(keys), body))
            keys, body = [], b""
        keys.append(record.key)
        body += made
    if keys:
        messages.append((tuple(keys), body))
    return messages, refused


def pieces(data: bytes, offset: int, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """``(offset, bytes, whether it is the last)`` of at most ``size`` bytes each; one empty piece for empty data."""
    for start in range(0, max(len(data), 1), size):
        yield offset + start, data[start : start + size], start + size >= len(data)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a credentials file holds: an nkey, and the JWT that speaks for it where there is one."""

    key: Ed25519PrivateKey
    jwt: str = ""

    @property
    def public(self) -> str:
        """The nkey's public form, ``U...``."""
        raw = bytes([20 << 3]) + raw_public(self.key.public_key())
        return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")

    def sign(self, nonce: str) -> bytes:
        """The signature under the server's nonce, base64."""
        return base64.b64encode(self.key.sign(nonce.encode()))


def parse_credentials(text: str) -> Credentials:
    """Read a ``.creds`` file, or one that holds an nkey's user seed alone (``SU...``).

    Raises:
        CourierError: ``nats_credentials``: there is not exactly one whole user seed in it.
    """
    seeds = set(_SEED.findall(text))
    if len(seeds) != 1:
        raise CourierError("nats_credentials", f"the credentials file holds {len(seeds)} user seeds, not one")
    raw = base64.b32decode(seeds.pop() + "=" * 6)
    if binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise CourierError("nats_credentials", "the user seed in the credentials file is damaged")
    jwt = _JWT.search(text)
    return Credentials(Ed25519PrivateKey.from_private_bytes(raw[2:34]), jwt[1] if jwt else "")
