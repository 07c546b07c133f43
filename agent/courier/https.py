"""The way over https: mutual TLS, server-sent events with a long poll behind them, batches and pieces going out.

docs/PROTOCOL.md, "Over the network", says what both ends do; docs/openapi.yaml in the form for tools.
"""

import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from agent.courier import answers
from agent.courier.ndjson import lines
from agent.courier.pace import Pace
from agent.courier.places import Places
from agent.courier.proxies import chosen
from agent.courier.settings import Address, Settings
from agent.courier.sse import Event, Parser
from agent.courier.transport import TOKEN_MAX, Acked, Cursor, Received, Record, Renewed
from agent.courier.wire import Answer, Channel, client_context, told
from agent.errors import ConfigError, CourierError

SILENT_S = 45.0  # without a whole line the stream is dead; heartbeats come every 15 s
FIRST_S = 30.0  # a stream of which nothing comes for so long is held back by a proxy
POLL_S = 25
STREAM_AGAIN_S = 600.0  # a poll is only second best: try the stream again
CONNECTION_MAX = 256 << 20  # bytes of one stream; then it is begun anew
LINE_BYTES_MAX = 1 << 20
POLLED_MAX = 9 << 20  # a hundred tokens, each of the longest, as JSON
ANSWER_MAX = 1 << 20
_PAUSE_S = 2.0  # between polls that bring nothing sooner than they should
_CHUNK = 32 * 1024
_NO_STREAM = frozenset({404, 405, 406, 501})
_JSON, _NDJSON, _OCTETS = "application/json", "application/x-ndjson", "application/octet-stream"
log = logging.getLogger("tidegate.courier")


def trusting(ca: Path, pair: tuple[Path, Path]) -> ssl.SSLContext:
    """Nobody is believed but this CA; ``pair``: the client's certificate and key.

    Raises:
        ConfigError: ``courier_certificate_invalid``.
    """
    context = client_context()
    at = ca
    try:
        context.load_verify_locations(ca)
        at = pair[0]
        context.load_cert_chain(*pair)
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ConfigError("courier_certificate_invalid", f"can't be used: {reason}; enrol again", path=at) from error
    return context


class Https:
    """See :class:`agent.courier.transport.Transport`. ``up`` is told how it is connected, each time it is."""

    def __init__(self, settings: Settings, places: Places, up: Callable[[str], None]) -> None:
        """Raises ConfigError."""
        if settings.url is None:
            raise ConfigError("missing_key", "setting 'url' is missing", path=places.settings)
        context = trusting(places.ca, (places.certificate, places.key))
        proxy = chosen(settings.url, settings.proxy, os.environ)
        self._up = up
        self._pace = Pace(settings.limits.bytes_per_minute)
        self._receiving, self._records, self._recordings = (Channel(settings.url, context, proxy) for _ in range(3))
        self._to: Address = settings.url
        self._stream_again = 0.0
        self._past = ""  # a stream that is known to be over

    # Receiving

    def receive(self, cursor: Cursor, stop: threading.Event) -> Iterator[Received]:
        """See Transport. Server-sent events where they come through, else long polls."""
        try:
            while not stop.is_set():
                if time.monotonic() >= self._stream_again:
                    try:
                        yield from self._stream(cursor, stop)
                    except _NoStreamError as error:
                        log.warning("no event stream (%s): asking by long polls", error)
                        self._stream_again = time.monotonic() + STREAM_AGAIN_S
                    else:
                        return
                cursor = yield from self._poll(cursor, stop)
        finally:
            self._receiving.drop()

    def _stream(self, cursor: Cursor, stop: threading.Event) -> Iterator[Received]:
        asked = cursor if cursor.stream != self._past else Cursor()
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if asked.last:
            headers["Last-Event-ID"] = str(asked.last)
        try:
            response = self._receiving.begin("GET", "/v1/host/stream", headers, seconds=FIRST_S)
        except CourierError as error:
            if error.code == "courier_slow":
                raise _NoStreamError("nothing comes") from error
            raise
        kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        if response.status in _NO_STREAM or (response.status == 200 and kind != "text/event-stream"):
            self._receiving.drop()
            raise _NoStreamError(f"status {response.status}, {kind[:40]!a}")
        if response.status != 200:
            with told(self._to):
                body = response.read(_CHUNK)
            answers.checked(Answer(response.status, {}, body))
        name = answers.stream_name(response.getheader("Tidegate-Stream") or "")
        if asked.last and name != asked.stream:  # other numbers: from the beginning, over a new connection
            self._past = asked.stream
            self._receiving.drop()
            yield from self._stream(Cursor(), stop)
            return
        yield from self._events(response.read1, Cursor(name, asked.last), stop)

    def _events(self, read1: Callable[[int], bytes], cursor: Cursor, stop: threading.Event) -> Iterator[Received]:
        parser, last, seen, endless = Parser(), cursor.last, 0, 0
        budget = self._receiving.budget
        budget.renew(FIRST_S, CONNECTION_MAX)
        while not stop.is_set():
            try:
                with told(self._to):
                    data = read1(_CHUNK)
            except CourierError as error:
                if error.code == "courier_slow" and parser.lines == 0:
                    raise _NoStreamError("nothing comes of it") from error
                raise
            if not data:
                return
            endless += len(data)
            waited = self._pace.take(len(data), stop)
            for event in parser.feed(data):
                found = _received(event, cursor.stream, last)
                if found is not None:
                    last = found.cursor.last
                    before = time.monotonic()
                    yield found
                    waited += time.monotonic() - before
            if parser.lines > seen or waited:
                if not seen:
                    self._up("event stream")
                endless = 0 if parser.lines > seen else endless
                seen = parser.lines
                budget.until = time.monotonic() + SILENT_S
            if endless > LINE_BYTES_MAX:
                raise CourierError("courier_flood", "a line without an end")

    def _poll(self, cursor: Cursor, stop: threading.Event) -> Generator[Received, None, Cursor]:
        """Until the stream is to be tried again; returns how far it came."""
        changed = 0
        while not stop.is_set() and (time.monotonic() < self._stream_again):
            began = time.monotonic()
            path = f"/v1/host/tokens?after={cursor.last}&wait={POLL_S}"
            found = answers.checked(self._receiving.ask("GET", path, most=POLLED_MAX, seconds=POLL_S + FIRST_S))
            self._up("long poll")
            name = answers.stream_name(answers.text(found, "stream", answers.STREAM_MAX))
            if name != cursor.stream:
                changed += 1
                if changed > 2:
                    answers.wrong("the stream has another name each time")
                again, cursor = cursor.last > 0, Cursor(name)
                if again:
                    continue
            news = False
            for ident, token in _polled(found, cursor.last):
                news, cursor = True, Cursor(name, ident)
                yield Received(cursor, token)
            if news:
                changed = 0
            elif time.monotonic() - began < _PAUSE_S:
                stop.wait(_PAUSE_S)
        return cursor

    # Sending

    def send(self, records: Sequence[Record]) -> Acked:
        """See Transport."""
        answer = self._records.ask("POST", "/v1/host/records", body=lines(records), kind=_NDJSON, most=ANSWER_MAX)
        return answers.acked(answers.checked(answer), frozenset(record.key for record in records))

    def recording_size(self, ident: str) -> int:
        """See Transport."""
        answer = self._recordings.ask("GET", f"/v1/host/recordings/{quote(ident, safe='')}", most=ANSWER_MAX)
        return answers.number(answers.checked(answer), "size")

    def send_recording(self, ident: str, offset: int, data: bytes, *, complete: bool) -> int:
        """See Transport. 409 says where to go on."""
        path = f"/v1/host/recordings/{quote(ident, safe='')}?offset={offset}{'&complete=true' if complete else ''}"
        answer = self._recordings.ask("PUT", path, body=data, kind=_OCTETS, most=ANSWER_MAX)
        return answers.number(answers.checked(answer, 409), "size")

    def renew(self, csr: str) -> Renewed:
        """See Transport."""
        body = json.dumps({"csr": csr}).encode()
        return answers.renewed(answers.checked(self._records.ask("POST", "/v1/host/renew", body=body, kind=_JSON, most=ANSWER_MAX)))

    def close(self) -> None:
        """See Transport."""
        for channel in (self._receiving, self._records, self._recordings):
            channel.close()


class _NoStreamError(Exception):
    """Server-sent events do not come through."""


def _received(event: Event, stream: str, last: int) -> Received | None:
    """A token that is newer than the newest. What is no token, empty or old says nothing."""
    if event.kind != "token":
        return None
    ident = answers.ident(event.ident)
    return Received(Cursor(stream, ident), event.data) if ident > last and event.data else None


def _polled(found: Mapping[str, object], last: int) -> Iterator[tuple[int, bytes]]:
    tokens = found.get("tokens")
    if not isinstance(tokens, list) or len(tokens) > 100:
        answers.wrong("member 'tokens' must be a list of at most 100")
    for item in tokens:
        if not isinstance(item, dict):
            answers.wrong("a token must be an object")
        ident, token = answers.number(item, "id"), answers.text(item, "token", POLLED_MAX)
        if ident > last and token:
            last = ident
            yield ident, token.encode("utf-8", "replace")[: TOKEN_MAX + 1]


connect = Https  # how agent.courier.transports makes it
