"""The courier's way over NATS (extra ``nats``): a core subscription for speed, and the index of tokens for what it missed.

Core NATS delivers at most once. So each live token says which one came before it, and whoever lacks that one looks at the
index first: at connect, after an overrun, at a gap, and now and then while all seems well. What is handed on is ordered, and
the cursor never passes a token that was not handed on, but for expired ones.
"""

import hashlib
import json
import logging
import random
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from nats.aio.msg import Msg

from agent.courier import natssettings, natswire
from agent.courier.natslink import Link
from agent.courier.natssettings import NatsSettings
from agent.courier.natswire import COMPLETE_HEADER, OFFSET_HEADER, Live, Worth
from agent.courier.places import Places
from agent.courier.settings import Settings
from agent.courier.transport import (
    BATCH_MAX,
    BATCH_RECORDS_MAX,
    PIECE_MAX,
    RECORD_MAX,
    TOKEN_MAX,
    Acked,
    Cursor,
    Received,
    Record,
    Renewed,
)
from agent.errors import CourierError

__all__ = ["NatsSettings", "NatsTransport", "connect"]

log = logging.getLogger("tidegate.courier")

PIECE = 256 * 1024  # bytes of a recording in one message; asking how far it came brings the last one back
WINDOW = 16  # requests on their way at once: 1 MiB of tokens
SETTLE_S = 10.0  # the index is looked at again so soon after connecting, then after twice as long each time, up to resync_s
TICK_S = 0.5  # how soon a stop is seen
LOOK_TRIES = 4  # at the index for one live message: it is written after the token
# It is behind us for a moment, or for as long as a control plane that was killed between the two takes to come back.
BEHIND_PAUSES_S = (0.25, 0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0)
LOOKS_PER_S = 4.0  # at the index because of live messages, at most: a flood of them costs the broker no more
TAILS = 256
WRONG_SEQUENCE = 10071  # JetStream: the subject's last message is another one than said


@dataclass(frozen=True, slots=True)
class _Tail:
    """Where a recording ends at the broker: bytes, and the sequence of the message they end in."""

    size: int = 0
    sequence: int = 0


def connect(settings: Settings, places: Places, up: Callable[[str], None]) -> "NatsTransport":
    """The transport that courier.yaml asks for; opens nothing yet. Raises ConfigError and CourierError."""
    return NatsTransport(natssettings.of(settings, places), up)


class NatsTransport:
    """:class:`agent.courier.transport.Transport` over NATS. It has one connection, made when it is needed, never mended."""

    def __init__(self, settings: NatsSettings, up: Callable[[str], None] = lambda _how: None) -> None:
        """No connection yet; ``up`` is told when one is made. Raises CourierError ``nats_name``: a token or bucket that is none."""
        self._settings, self._up = settings, up
        self._subjects = natswire.Subjects(settings.token, settings.bucket)
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._closed = False
        self._secret = secrets.token_bytes(32)
        self._tails: OrderedDict[str, _Tail] = OrderedDict()  # this and the next are of the one thread that sends recordings
        self._tails_of: Link | None = None
        self.foreign = 0  # live messages that the control plane did not send

    def receive(self, cursor: Cursor, stop: threading.Event) -> Iterator[Received]:
        """Tokens behind ``cursor``; see :meth:`agent.courier.transport.Transport.receive`."""
        link = self._connected()
        at, due, looked, tries = cursor, 0.0, -1 / LOOKS_PER_S, 0
        calm = min(SETTLE_S, self._settings.resync_s)
        held: Live | None = None
        while not stop.is_set():
            if link.overrun.is_set() or time.monotonic() >= due:
                link.overrun.clear()
                at = yield from self._catch_up(link, at, stop)
                looked = time.monotonic()
                due = looked + calm * random.uniform(0.5, 1.5)  # noqa: S311  # spreads load, keeps no secret
                calm = min(calm * 2, self._settings.resync_s)
            live, held = held or link.take(min(TICK_S, max(due - time.monotonic(), 0.01))), None
            if live is None:
                continue
            worth = natswire.judge(live, at)
            if worth is Worth.LOOK and tries < LOOK_TRIES:
                held, due, tries = live, 0.0, tries + 1  # judged again, once the index was looked at
                stop.wait(looked + 1 / LOOKS_PER_S - time.monotonic())
                continue
            tries = 0
            self._count(worth)
            if worth is Worth.NEW:
                at = Cursor(live.stream, live.ident)
                yield Received(at, live.data[: TOKEN_MAX + 1])

    def send(self, records: Sequence[Record]) -> Acked:
        """Publish the records in messages of about 64 KiB. An ack of JetStream's is an ack of all keys in its message."""
        if len(records) > BATCH_RECORDS_MAX:
            raise CourierError("nats_batch", f"{len(records)} records at once, above {BATCH_RECORDS_MAX}")
        link = self._connected()
        messages, refused = natswire.pack(records)
        if sum(len(body) for _, body in messages) > BATCH_MAX + RECORD_MAX:
            raise CourierError("nats_batch", f"a batch of more than {BATCH_MAX} bytes")
        acked: set[str] = set()
        failed: CourierError | None = None
        for start in range(0, len(messages), WINDOW):
            window = messages[start : start + WINDOW]
            asked = [(self._subjects.records, body, {"Nats-Msg-Id": self._once(body)}) for _, body in window]
            for (keys, _), answer in zip(window, link.ask(asked), strict=True):
                try:
                    _published(answer)
                    acked.update(keys)
                except CourierError as error:
                    failed = error
        if failed and not acked:
            raise failed
        return Acked(frozenset(acked), refused)

    def recording_size(self, ident: str) -> int:
        """How far the recording is at the broker: the offset of its last piece and that piece's length."""
        return self._tail(self._connected(), ident).size

    def send_recording(self, ident: str, offset: int, data: bytes, *, complete: bool) -> int:
        """Publish the bytes from ``offset`` on, each piece only behind the one before it. Returns the durable size."""
        if len(data) > PIECE_MAX:
            raise CourierError("nats_batch", f"{len(data)} bytes of a recording at once, above {PIECE_MAX}")
        link = self._connected()
        if self._tails_of is not link:
            self._tails.clear()
            self._tails_of = link
        tail = self._tails.get(ident) or self._tail(link, ident)
        if offset != tail.size:
            return tail.size
        for at, piece, last in natswire.pieces(data, offset, min(PIECE, link.max_payload // 2)):
            headers = {
                OFFSET_HEADER: str(at),
                "Nats-Expected-Last-Subject-Sequence": str(tail.sequence),
                "Nats-Msg-Id": self._once(f"{ident}:{at}:{tail.sequence}:{complete and last}:".encode() + piece),
            }
            if complete and last:
                headers[COMPLETE_HEADER] = "true"
            self._tails.pop(ident, None)  # not known until it is acked
            (answer,) = link.ask([(self._subjects.recording(ident), piece, headers)])
            sequence = _published(answer, conflict=True)
            if not sequence:
                return self._tail(link, ident).size
            tail = self._keep(ident, _Tail(at + len(piece), sequence))
        return tail.size

    def renew(self, csr: str) -> Renewed:
        """NATS issues no certificates: always CourierError ``renew_unavailable``; renew over https."""
        raise CourierError("renew_unavailable", "certificates are not renewed over NATS; the control plane's https does that")

    def close(self) -> None:
        """Hang up for good; a blocked call ends at once with ``courier_stopped``."""
        with self._lock:
            self._closed = True
            link, self._link = self._link, None
        if link:
            link.close()

    def _connected(self) -> Link:
        """The one connection; a new one if there is none or it was lost."""
        with self._lock:
            if self._closed:
                raise CourierError("courier_stopped", "the transport is closed")
            if self._link is not None and self._link.lost is None:
                return self._link
            old, self._link = self._link, None
            if old is not None:
                old.close()
            link = self._link = Link(self._settings)
        self._up("nats")
        return link

    def _catch_up(self, link: Link, at: Cursor, stop: threading.Event) -> Generator[Received, None, Cursor]:
        """All that the index has behind ``at``; returns where that leaves us."""
        index = self._index(link, at, stop)
        if index is None:
            return at
        wanted = index.after(at)
        at = Cursor(index.stream, at.last if at.stream == index.stream and at.last <= index.last else 0)
        for start in range(0, len(wanted), WINDOW):
            window = wanted[start : start + WINDOW]
            for ident, answer in zip(window, link.ask([(self._subjects.get_token(each), b"", {}) for each in window]), strict=True):
                if stop.is_set():
                    return at
                token = _got(answer)
                if token is None or not token.data:
                    continue  # expired since
                at = Cursor(index.stream, ident)
                yield Received(at, token.data[: TOKEN_MAX + 1])
        return Cursor(index.stream, index.last)

    def _index(self, link: Link, at: Cursor, stop: threading.Event) -> natswire.Index | None:
        """The index; None while there is none. One that is behind us is asked for again, for 10 s: too early a doubt of our own
        cursor would have all that counts come twice.
        """
        for pause in (*BEHIND_PAUSES_S, 0.0):
            (answer,) = link.ask([(self._subjects.get_index, b"", {})])
            found = _got(answer)
            if found is None:
                return None
            index = natswire.parse_index(found.data)
            if index.stream != at.stream or index.last >= at.last or not pause or stop.wait(pause):
                return index
        return None

    def _tail(self, link: Link, ident: str) -> _Tail:
        (answer,) = link.ask([(self._subjects.get_recording(ident), b"", {})])
        found = _got(answer)
        if found is None:
            return self._keep(ident, _Tail())
        headers = found.headers or {}
        offset, sequence = natswire.decimal(headers.get(OFFSET_HEADER, "")), natswire.decimal(headers.get("Nats-Sequence", ""))
        if offset is None or sequence is None:
            raise CourierError("courier_protocol", "a recording's last piece came without its offset or sequence")
        return self._keep(ident, _Tail(offset + len(found.data), sequence))

    def _keep(self, ident: str, tail: _Tail) -> _Tail:
        self._tails[ident] = tail
        self._tails.move_to_end(ident)
        while len(self._tails) > TAILS:
            self._tails.popitem(last=False)
        return tail

    def _once(self, content: bytes) -> str:
        """A message's id, the same if it is sent again by this process.

        JetStream drops what has an id that it saw, whoever sent it. So nobody else may be able to guess ours, or another
        host could send it first and have our message swallowed.
        """
        return hashlib.blake2b(content, key=self._secret, digest_size=20).hexdigest()

    def _count(self, worth: Worth) -> None:
        if worth is Worth.FOREIGN:
            self.foreign += 1
            if self.foreign == 1:
                log.warning("nats: what another host had the broker send here was dropped")


def _got(answer: Msg | CourierError) -> Msg | None:
    """A direct get's message; None where there is none."""
    if isinstance(answer, CourierError):
        raise answer
    headers = answer.headers or {}
    status = headers.get("Status")
    if status == "404":
        return None
    if status or "Nats-Sequence" not in headers:
        raise CourierError("courier_protocol", f"the broker answers a direct get with status {status or 'none'}")
    return answer


def _published(answer: Msg | CourierError, *, conflict: bool = False) -> int:
    """The sequence under which JetStream keeps it; 0 for a conflict, where one is to be expected."""
    if isinstance(answer, CourierError):
        raise answer
    try:
        found = json.loads(answer.data[:4096])
        error = found.get("error")
        if error and conflict and error.get("err_code") == WRONG_SEQUENCE:
            return 0
        if error:
            raise CourierError("nats_full", f"the broker keeps it not: {error.get('description')}"[:300])
        if type(found["seq"]) is int and found["seq"] > 0:
            return int(found["seq"])
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise CourierError("courier_protocol", "the broker's acknowledgement is malformed") from wrong
    raise CourierError("courier_protocol", "the broker's acknowledgement names no sequence")
