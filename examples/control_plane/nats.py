"""The control plane's side of NATS: tokens out, records and recordings in. docs/FLEET.md has subjects, streams and reasons.

Tokens of one host must be pushed by one process at a time, in growing order of their ids, as a queue for each host gives them: a
host takes a token whose id it is past for an old one. Two writers are found out (:class:`PushError`), not borne.
"""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from examples.control_plane.nats_intake import Batch, Intake

__all__ = ["Batch", "Fleet", "PushError"]

log = logging.getLogger(__name__)

TOKEN_MAX = 64 * 1024
LIVE_MAX = 8000  # tokens of one host: what a courier takes in one index
KEEP_S = 91 * 86_400  # a token is gone after that by itself: no grant is longer than 90 days
RECORDINGS_S = 7 * 86_400
CACHED = 20_000  # indexes kept in memory
ANSWER_S = 10

_HOST = re.compile(r"[A-Za-z0-9_-]{43}")
_WRONG_SEQUENCE = 10071


class PushError(Exception):
    """The token was not pushed, or the ids of its host are not in order. Push it again; under a higher id for the latter."""


@dataclass(slots=True)
class _Index:
    """One host's index: the newest id ever, ids that are there with when they came, and the revision this was read at."""

    last: int = 0
    tokens: dict[int, int] = field(default_factory=dict)
    revision: int = 0


class Fleet:
    """All hosts behind one NATS connection. Make the connection with nats-py, as your server wants it; :meth:`prepare` it once."""

    def __init__(self, client: Client, bucket: str = "tidegate", *, replicas: int = 1, spool_bytes: int = 1 << 30) -> None:
        """``replicas``: 3 in production. ``spool_bytes``: how much waits to be taken in, of each kind, before hosts keep theirs."""
        self._client, self._bucket = client, bucket
        self._stream = f"KV_{bucket}"
        self._replicas, self._spool = replicas, spool_bytes
        self._js: JetStreamContext = client.jetstream(timeout=ANSWER_S)
        self._epoch = ""
        self._indexes: OrderedDict[str, _Index] = OrderedDict()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    async def prepare(self) -> None:
        """Make bucket and streams where they are not, and learn which numbering of tokens this is."""
        for config in self._configs():
            with contextlib.suppress(BadRequestError):  # is there, with other limits: the admin's
                await self._js.add_stream(config)
        answer = await self._client.request(f"$JS.API.STREAM.INFO.{self._stream}", b"", timeout=ANSWER_S)
        found = json.loads(answer.data)
        if "created" not in found:
            raise PushError(f"the stream {self._stream} can't be made: {found.get('error')}")
        self._epoch = str(found["created"])

    async def push(self, host_token: str, ident: int, token: bytes) -> None:
        """Push one token. Once this returns the host gets it, now or when it comes. The same id again is harmless.

        Raises:
            PushError: it may not have been pushed, or ``ident`` is not above the last one.
        """
        self._check(host_token, ident)
        if not 1 <= len(token) <= TOKEN_MAX:
            raise PushError(f"a token of {len(token)} bytes")
        async with self._lock(host_token):
            index = await self._index(host_token)
            if ident in index.tokens:
                return
            if ident <= index.last:
                raise PushError(f"id {ident} is not above {index.last}, the host's last one")
            headers = {"Tidegate-Stream": self._epoch, "Tidegate-Previous": str(index.last)}
            await self._publish(f"$KV.{self._bucket}.{host_token}.{ident}", token, headers)
            now = int(time.time())
            kept = {each: when for each, when in index.tokens.items() if when > now - KEEP_S}
            if len(kept) >= LIVE_MAX:
                raise PushError(f"the host has {LIVE_MAX} tokens: expire some")
            await self._write(host_token, _Index(ident, {**kept, ident: now}, index.revision))
            word = {**headers, "Tidegate-Previous": str(ident)}  # for who came between the token and its index
            with contextlib.suppress(nats.errors.Error):  # the token is pushed; that host looks again in a few seconds anyway
                await self._client.publish(f"$KV.{self._bucket}.{host_token}.index.stored", b"", headers=word)

    async def expire(self, host_token: str, ident: int) -> None:
        """The token need not be delivered any more: it is over, or the host has answered. Unknown ones are fine."""
        self._check(host_token, ident)
        async with self._lock(host_token):
            index = await self._index(host_token)
            if ident in index.tokens:
                tokens = {each: when for each, when in index.tokens.items() if each != ident}
                await self._write(host_token, _Index(index.last, tokens, index.revision))
            try:
                await self._js.purge_stream(self._stream, subject=f"$KV.{self._bucket}.{host_token}.{ident}")
            except (nats.errors.Error, TimeoutError) as error:
                raise PushError(f"not purged: {error}") from error

    async def held(self, host_token: str) -> frozenset[int]:
        """The ids of the host's tokens that are there. Raises PushError."""
        self._check(host_token, 1)
        async with self._lock(host_token):
            return frozenset((await self._index(host_token)).tokens)

    def intake(self, name: str = "control-plane", batch: int = 64, *, alone: bool = False) -> AsyncIterator[Batch]:
        """What hosts sent, in batches; store each durably, then ``await batch.ack()``. Without it, it comes again after 30 s.

        Everything may come twice: dedupe records by ``(host, key)``, pieces by their offset. Several processes may share ``name``.
        ``alone``: none does; then what was not acknowledged before comes now, first and in order.
        """
        return Intake(self._js, name, batch, alone=alone).run()

    def _configs(self) -> tuple[StreamConfig, ...]:
        tokens = StreamConfig(
            name=self._stream, subjects=[f"$KV.{self._bucket}.*.*"], max_msgs_per_subject=1, max_age=KEEP_S,
            max_msg_size=300 * 1024, allow_direct=True,
        )  # fmt: skip
        # A record is gone once it was taken in; a full spool refuses, and the hosts keep theirs.
        records = StreamConfig(
            name="TIDEGATE_RECORDS", subjects=["tidegate.records.*"], retention=RetentionPolicy.WORK_QUEUE, max_bytes=self._spool
        )
        # The last piece says where a host goes on, so pieces stay a while.
        recordings = StreamConfig(
            name="TIDEGATE_RECORDINGS", subjects=["tidegate.recordings.*.*"], max_age=RECORDINGS_S, max_bytes=self._spool,
            allow_direct=True,
        )  # fmt: skip
        for config in (tokens, records, recordings):
            config.storage, config.num_replicas = StorageType.FILE, self._replicas
            config.discard, config.duplicate_window = DiscardPolicy.NEW, 600
        return tokens, records, recordings

    def _check(self, host_token: str, ident: int) -> None:
        if not _HOST.fullmatch(host_token) or not 0 < ident < 2**63:
            raise PushError("not a host token, or not an id")
        if not self._epoch:
            raise PushError("prepare() was not called")

    @contextlib.asynccontextmanager
    async def _lock(self, host_token: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(host_token, (asyncio.Lock(), 0))
        self._locks[host_token] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            users = self._locks[host_token][1] - 1
            self._locks[host_token] = lock, users
            if not users:
                del self._locks[host_token]

    async def _index(self, host_token: str) -> _Index:
        """The host's index, from memory if it was used before; forgotten when a write is not as expected."""
        known = self._indexes.get(host_token)
        if known is not None:
            self._indexes.move_to_end(host_token)
            return known
        try:
            found = await self._js.get_msg(self._stream, subject=self._index_subject(host_token), direct=True)
        except NotFoundError:
            return _Index()
        except (nats.errors.Error, TimeoutError) as error:
            raise PushError(f"the host's index can't be read: {error}") from error
        read = json.loads(found.data or b"{}")
        if read.get("stream") != self._epoch:  # restored from elsewhere: the hosts must see a new numbering
            return _Index(revision=found.seq or 0)
        return _Index(read["last"], dict(read["tokens"]), found.seq or 0)

    async def _write(self, host_token: str, index: _Index) -> None:
        body = {"stream": self._epoch, "last": index.last, "tokens": sorted(index.tokens.items())}
        headers = {"Nats-Expected-Last-Subject-Sequence": str(index.revision)}
        self._indexes.pop(host_token, None)
        data = json.dumps(body, separators=(",", ":")).encode()
        index.revision = await self._publish(self._index_subject(host_token), data, headers)
        self._indexes[host_token] = index
        while len(self._indexes) > CACHED:
            self._indexes.popitem(last=False)

    def _index_subject(self, host_token: str) -> str:
        return f"$KV.{self._bucket}.index.{host_token}"

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str]) -> int:
        try:
            return (await self._js.publish(subject, data, timeout=ANSWER_S, stream=self._stream, headers=headers)).seq
        except APIError as error:
            why = "another process pushes to this host" if error.err_code == _WRONG_SEQUENCE else str(error)
            raise PushError(f"not pushed: {why}") from error
        except (nats.errors.Error, TimeoutError) as error:
            raise PushError(f"not pushed: {type(error).__name__} {error}") from error
