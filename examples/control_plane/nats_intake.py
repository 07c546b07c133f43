"""What hosts sent over NATS, taken in by durable pull consumers: typed, in batches, acked once the caller has stored them."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

log = logging.getLogger(__name__)

RECORDS = "TIDEGATE_RECORDS"
ACK_S = 30
WAIT_S = 5.0
AGAIN_S = 0.5
KINDS = frozenset({"answer", "receipt", "event"})
KEY_MAX = 200
LINES_MAX = 1000

_SUBJECT = re.compile(r"tidegate\.(?:records\.([A-Za-z0-9_-]{43})|recordings\.([A-Za-z0-9_-]{43})\.([A-Za-z0-9_-]{1,128}))")
_DECIMAL = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class TakenRecord:
    """One record of a host's. ``body`` is JSON as it came."""

    host: str
    key: str
    kind: str
    body: object
    line: bytes = field(default=b"", compare=False, repr=False)  # the whole record


@dataclass(frozen=True, slots=True)
class TakenPiece:
    """A piece of a recording. ``offset`` may lie before what you have (it came twice); never take one that lies behind a gap."""

    host: str
    ident: str
    offset: int
    data: bytes
    complete: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """What came together. ``bad`` messages were none of a courier's, and will not come again."""

    records: tuple[TakenRecord, ...]
    pieces: tuple[TakenPiece, ...]
    bad: int
    ack: Callable[[], Awaitable[None]]


class Intake:
    """Both streams, as one sequence of batches."""

    def __init__(self, js: JetStreamContext, name: str, batch: int, *, alone: bool = False) -> None:
        """``name`` is the consumers' durable name; ``batch`` messages are asked for at once, of each stream."""
        self._js, self._name, self._batch, self._alone = js, name, batch, alone
        self._ready: asyncio.Queue[Batch] = asyncio.Queue(maxsize=2)  # what is not asked for waits at the broker

    async def run(self) -> AsyncIterator[Batch]:
        """Batches for ever. Raises what nats-py raises when the connection is given up."""
        pulls = [
            asyncio.create_task(self._pull(stream, subject))
            for stream, subject in ((RECORDS, "tidegate.records.*"), ("TIDEGATE_RECORDINGS", "tidegate.recordings.*.*"))
        ]
        try:
            while True:
                ready = asyncio.ensure_future(self._ready.get())
                try:
                    done, _ = await asyncio.wait({ready, *pulls}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not ready.done():
                        ready.cancel()
                if ready not in done:
                    await done.pop()  # raises: a pull ends in no other way
                yield await ready
        finally:
            pending = set(pulls)
            while pending:  # a cancellation that comes as an answer does is swallowed by nats-py's fetch: once is not enough
                for pull in pending:
                    pull.cancel()
                _, pending = await asyncio.wait(pending, timeout=0.2)

    async def _pull(self, stream: str, subject: str) -> None:
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_S, max_ack_pending=4 * self._batch)
        if self._alone:
            await self._begin_again(stream, config)
        consumer = await self._js.pull_subscribe(subject, durable=self._name, stream=stream, config=config)
        while True:
            try:
                messages = await consumer.fetch(self._batch, timeout=WAIT_S)
            except (nats.errors.TimeoutError, TimeoutError):
                continue
            except nats.errors.ConnectionClosedError:
                raise
            except nats.errors.Error as error:  # a broker that restarts; nats-py connects again
                log.warning("nats: taking in from %s: %r", stream, error)
                await asyncio.sleep(AGAIN_S)
                continue
            if messages:
                await self._ready.put(await _batch(messages))

    async def _begin_again(self, stream: str, config: ConsumerConfig) -> None:
        """Make the consumer anew, behind what was acknowledged without a gap. The old one would hold back what a process that is
        gone has taken and not acknowledged, and give what comes behind it first."""
        try:
            old = await self._js.consumer_info(stream, self._name)
        except NotFoundError:
            return
        floor = (old.ack_floor.stream_seq if old.ack_floor else 0) or 0
        await self._js.delete_consumer(stream, self._name)
        if stream != RECORDS and floor:  # a work queue gives all that it has: what was acknowledged is gone from it
            config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, floor + 1


async def _batch(messages: list[Msg]) -> Batch:
    records: list[TakenRecord] = []
    pieces: list[TakenPiece] = []
    good: list[Msg] = []
    for message in messages:
        try:
            taken = read(message.subject, message.headers or {}, message.data)
        except ValueError as error:
            log.warning("nats: dropped a message at %s: %s", message.subject, error)
            with contextlib.suppress(nats.errors.Error):
                await message.term()
            continue
        good.append(message)
        if isinstance(taken, TakenPiece):
            pieces.append(taken)
        else:
            records.extend(taken)

    async def ack() -> None:
        """Awaits that the broker knows. What it does not come to know comes again, so a failure is told and no error."""
        answers = await asyncio.gather(*(message.ack_sync(timeout=WAIT_S) for message in good), return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            log.warning("nats: %d of %d messages could not be acknowledged, and come again: %r", len(failed), len(good), failed[0])

    return Batch(tuple(records), tuple(pieces), len(messages) - len(good), ack)


def read(subject: str, headers: dict[str, str], data: bytes) -> TakenPiece | tuple[TakenRecord, ...]:
    """One message, as what it is. The host's token comes from the subject, which the broker has let only that host publish to.

    Raises:
        ValueError: it is none of a courier's. An answer of the broker's own that was led here says from which stream it is.
    """
    named = _SUBJECT.fullmatch(subject)
    if not named or "Nats-Stream" in headers or "Nats-Msg-Id" not in headers:
        raise ValueError("not sent by a courier")
    if named[1] is None:
        offset = headers.get("Tidegate-Offset", "")
        if not _DECIMAL.fullmatch(offset):
            raise ValueError("a piece without its offset")
        return TakenPiece(named[2], named[3], int(offset), data, headers.get("Tidegate-Complete") == "true")
    lines = data.split(b"\n")
    if lines.pop() != b"" or not 1 <= len(lines) <= LINES_MAX:
        raise ValueError("no whole lines, or too many")
    return tuple(_record(named[1], line) for line in lines)


def _record(host: str, line: bytes) -> TakenRecord:
    try:
        found = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(found, dict) or set(found) != {"key", "kind", "body"}:
        raise ValueError("a record has key, kind and body")
    key, kind = found["key"], found["kind"]
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_MAX or kind not in KINDS:
        raise ValueError("a record's key or kind")
    return TakenRecord(host, key, kind, found["body"], line)
