"""A simulated host: the NATS protocol by hand, an asyncio protocol of a few kilobytes, deciding by the courier's own code."""

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.courier import natswire
from agent.courier.backoff import Backoff
from agent.courier.natswire import Index, Live, Subjects, Worth
from agent.courier.transport import Cursor

_PING_S = 25.0
LOOK_AGAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class Login:
    """How a simulated host gets in: a password, or a client certificate."""

    token: str
    password: str
    tls: ssl.SSLContext | None = None


@dataclass(slots=True)
class Seen:
    """What all hosts of a process have seen."""

    latencies_ms: list[float] = field(default_factory=list)
    acked: int = 0  # batches
    refused: int = 0
    connects: int = 0
    losses: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def error(self, text: str) -> None:
        self.errors[text] = self.errors.get(text, 0) + 1


class SimulatedHost(asyncio.Protocol):
    """One host; comes back by the courier's own backoff until :meth:`stop`."""

    def __init__(self, login: Login, port: int, seen: Seen) -> None:
        self.login, self.subjects = login, Subjects(login.token)
        self.got: dict[int, int] = {}  # id → how often
        self.outbox: deque[tuple[str, bytes, int]] = deque()  # message id, batch, how often it is to be sent
        self.ready = False
        self._port, self._seen = port, seen
        self._cursor = Cursor()
        self._backoff = Backoff()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked: dict[str, Callable[[dict[str, str], bytes], None]] = {}
        self._number = 0
        self._wanted: deque[int] = deque()
        self._looking = False
        self._index: Index | None = None
        self._stopped = False
        self._since = 0.0
        self._sending: tuple[str, bytes, int] | None = None

    # The connection

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.create_connection(lambda: self, "127.0.0.1", self._port), 15)
        except (OSError, TimeoutError):
            self._again()

    def stop(self) -> None:
        self._stopped = True
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self.ready = None, False
        self._buffer.clear()
        self._asked.clear()
        if self._sending:
            self.outbox.appendleft(self._sending)  # not acked: again, under the same id
            self._sending = None
        self._seen.losses += 1
        self._again()

    def _again(self) -> None:
        if not self._stopped:
            stood = time.monotonic() - self._since if self._since else 0.0
            self._since = 0.0
            loop = asyncio.get_running_loop()
            loop.call_later(self._backoff.failed(stood), lambda: loop.create_task(self.connect()))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line = bytes(self._buffer[:end])
            words = line.split()
            if words and words[0] in (b"MSG", b"HMSG"):
                size = end + 2 + int(words[-1]) + 2
                if len(self._buffer) < size:
                    return
                body = bytes(self._buffer[end + 2 : size - 2])
                del self._buffer[:size]
                self._message(words, body)
            else:
                del self._buffer[: end + 2]
                self._control(line)

    def _control(self, line: bytes) -> None:
        if line.startswith(b"INFO ") and self._transport and not self.ready:
            if self.login.tls and not self._transport.get_extra_info("ssl_object"):
                asyncio.get_running_loop().create_task(self._encrypt())
            else:
                self._hello()
        elif line == b"PING":
            self._write(b"PONG\r\n")
        elif line == b"PONG":
            self._seen.connects += 1
            self.ready = True
            self._backoff.worked()
            self._next_batch()
        elif line.startswith(b"-ERR"):
            self._seen.error(line.decode(errors="replace")[:80])

    async def _encrypt(self) -> None:
        assert self._transport
        try:
            made = await asyncio.get_running_loop().start_tls(self._transport, self, self.login.tls, server_hostname="127.0.0.1")  # type: ignore[arg-type]
        except (OSError, ConnectionError, TimeoutError) as error:
            self._seen.error(type(error).__name__)
            return
        assert isinstance(made, asyncio.Transport)
        self._transport = made
        self._hello()

    def _hello(self) -> None:
        who = {} if self.login.tls else {"user": self.login.token, "pass": self.login.password}
        hello = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "sim", "version": "1", **who}
        self._write(
            b"CONNECT " + json.dumps(hello).encode() + b"\r\n"
            b"SUB " + self.subjects.tokens.encode() + b" 1\r\n"
            b"SUB " + self.subjects.inbox.encode() + b".* 2\r\nPING\r\n"
        )  # fmt: skip
        self.look()

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def _ask(self, subject: str, then: Callable[[dict[str, str], bytes], None], data: bytes = b"", message_id: str = "") -> None:
        self._number += 1
        reply = f"{self.subjects.inbox}.{self._number}"
        self._asked[reply] = then
        if message_id:
            head = f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\n\r\n".encode()
            self._write(f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n".encode() + head + data + b"\r\n")
        else:
            self._write(f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n")

    def _message(self, words: list[bytes], body: bytes) -> None:
        subject = words[1].decode()
        headers: dict[str, str] = {}
        if words[0] == b"HMSG":
            size = int(words[-2])
            headers, body = _headers(body[:size]), body[size:]
        if words[2] == b"1":
            self._live(Live(subject, body, headers))
        elif then := self._asked.pop(subject, None):
            then(headers, body)

    # Tokens

    def look(self) -> None:
        """Look at the index, and fetch what is missing."""
        self._looking = True  # until all that the index has is there
        self._ask(self.subjects.get_index, self._on_index)

    def _on_index(self, headers: dict[str, str], body: bytes) -> None:
        if "Nats-Sequence" not in headers:
            self._looking = False
            return
        self._index = natswire.parse_index(body)
        self._wanted = deque(self._index.after(self._cursor))
        if self._cursor.stream != self._index.stream:
            self._cursor = Cursor(self._index.stream, 0)
        self._fetch()

    def _fetch(self) -> None:
        if self._wanted:
            ident = self._wanted.popleft()

            def then(headers: dict[str, str], body: bytes) -> None:
                if "Nats-Sequence" in headers and self._index:
                    self._take(Cursor(self._index.stream, ident), body, live=False)
                self._fetch()

            self._ask(self.subjects.get_token(ident), then)
        else:
            self._looking = False

    def _live(self, live: Live) -> None:
        worth = natswire.judge(live, self._cursor)
        if worth is Worth.NEW and not self._looking:
            self._take(Cursor(live.stream, live.ident), live.data, live=True)
        elif worth in (Worth.LOOK, Worth.NEW):
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self.look)

    def _take(self, cursor: Cursor, token: bytes, *, live: bool) -> None:
        self._cursor = cursor
        self.got[cursor.last] = self.got.get(cursor.last, 0) + 1
        if live:
            pushed = int(token[:20])
            self._seen.latencies_ms.append((time.monotonic_ns() - pushed) / 1e6)

    # Records

    def _next_batch(self) -> None:
        if not self.ready or self._sending or not self.outbox:
            return
        self._sending = self.outbox.popleft()
        self._ask(self.subjects.records, self._on_ack, self._sending[1], self._sending[0])

    def send(self) -> None:
        """Begin to send what is in the outbox; one batch is on its way at a time."""
        self._next_batch()

    def _on_ack(self, _headers: dict[str, str], body: bytes) -> None:
        sending, self._sending = self._sending, None
        assert sending
        if b'"seq"' not in body:
            self._seen.refused += 1
            self.outbox.append(sending)
            asyncio.get_running_loop().call_later(0.5, self._next_batch)
            return
        if sending[2] > 1:
            self.outbox.append((sending[0], sending[1], sending[2] - 1))
        else:
            self._seen.acked += 1
        self._next_batch()


def _headers(block: bytes) -> dict[str, str]:
    lines = block.decode(errors="replace").split("\r\n")
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines[1:]) if colon}
