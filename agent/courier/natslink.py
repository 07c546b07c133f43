"""One connection to NATS: nats-py in an event loop of its own thread, blocking calls outside. It never reconnects.

Once lost, a connection stays lost and says why: the courier's own backoff makes the next one, so that there is one place that
decides how fast a fleet comes back after a broker's restart. What the server may make this process hold is bounded here.
"""

import asyncio
import contextlib
import logging
import queue
import random
import re
import ssl
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

from agent.courier import natssettings
from agent.courier.natssettings import NatsSettings
from agent.courier.natswire import Credentials, Live, Subjects
from agent.courier.pace import Pace
from agent.errors import CourierError

log = logging.getLogger("tidegate.courier")
Got = TypeVar("Got")

READ_MAX = 512 * 1024  # bytes of one message: a piece of a recording with its headers is the largest
CONTROL_MAX = 32 * 1024  # bytes of a line
QUEUE_MAX = 64  # live messages: 4 MiB of tokens
CONNECT_S = 10  # for each server
CALL_S = 10.0
CLOSE_S = 3.0
PAUSE_MAX_S = 5.0  # of reading, at once: pings want their answer
PING_S = 15  # three unanswered, so 45 s of silence, and the connection is given up

_END = b"\r\n"
_BLANKS = re.compile(rb"[ \t\v\f]{2}")


class _BoundedParser(Parser):
    """nats-py's parser, given one line or one payload at a time. By itself it buffers as many bytes as the server says that it will
    send, and spends the square of a line's blanks. Reading has its pace: a flood waits in the broker, which then cuts us off."""

    def __init__(self, client: Client, pace: Pace) -> None:
        super().__init__(client)
        self._pace = pace
        self._waiting = bytearray()

    async def parse(self, data: bytes = b"") -> None:
        owed = self._pace.owed_s(len(data))
        if owed:
            await asyncio.sleep(min(owed, PAUSE_MAX_S))
        self._waiting += data
        while size := self._next():
            unit = bytes(self._waiting[:size])
            del self._waiting[:size]
            await super().parse(unit)
            if self.buf:
                raise nats.errors.ProtocolError("no line of the protocol")

    def _next(self) -> int:
        """Bytes of the next whole line or payload; 0 while it is not whole."""
        if self.state == AWAITING_MSG_PAYLOAD:
            size, most = self.needed + len(_END), READ_MAX
        else:
            size, most = self._waiting.find(_END) + len(_END), CONTROL_MAX
            if size < len(_END):
                size = 0
            if _BLANKS.search(self._waiting, 0, size):
                raise nats.errors.ProtocolError("a line of blanks")
        if max(size, 0 if size else len(self._waiting)) > most:
            raise nats.errors.ProtocolError("a line or message above the limit")
        return size if len(self._waiting) >= size else 0


class _Client(Client):
    """Bounded, and says nothing of itself over a connection that should be encrypted and is not."""

    def __init__(self, credentials: Credentials | None, pace: Pace, *, tls: bool) -> None:
        super().__init__()
        self._ps = _BoundedParser(self, pace)
        self._tls_wanted = tls
        self._credentials = credentials
        if credentials and not credentials.jwt:
            self._public_nkey = credentials.public  # connect() sets it only from a seed, with a library of its own

    def _connect_command(self) -> bytes:
        writer = getattr(self._transport, "_io_writer", None)
        if self._tls_wanted and (writer is None or writer.get_extra_info("ssl_object") is None):
            raise nats.errors.Error("nats: the server offers no encryption")
        return super()._connect_command()


class Link:
    """One connection. ``live`` is what came by the subscription; ``overrun`` is set when some of it had to be dropped."""

    def __init__(self, settings: NatsSettings) -> None:
        """Connect and subscribe.

        Raises:
            CourierError: ``courier_unreachable``, ``courier_denied``, ``courier_tls``, or what the settings' files are wrong in.
        """
        self._settings = settings
        self.subjects = Subjects(settings.token, settings.bucket)
        self.live: queue.Queue[Live | None] = queue.Queue(QUEUE_MAX + 1)  # one place for the word that it is over
        self.overrun = threading.Event()
        self._slow_told = False
        self._why: CourierError | None = None
        self._last: Exception | None = None
        self._lock = threading.Lock()
        self._pace = Pace(settings.bytes_per_minute)
        tls, credentials = natssettings.tls(settings), natssettings.credentials(settings.credentials)
        self._loop = asyncio.new_event_loop()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._client = _Client(credentials, self._pace, tls=tls is not None)
        self._thread = threading.Thread(target=self._run, name="nats", daemon=True)
        self._thread.start()
        try:
            self.call(self._connect(tls, credentials), CONNECT_S * len(settings.servers))
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> CourierError | None:
        """Why it is over; None while it lives."""
        return self._why

    @property
    def max_payload(self) -> int:
        """Bytes of a message that the server takes, headers included."""
        return int(self._client.max_payload)

    def call(self, work: Coroutine[Any, Any, Got], timeout: float = CALL_S) -> Got:
        """Run ``work`` in the loop and wait. Raises CourierError when it fails, is late, or the connection is lost meanwhile."""
        with self._lock:
            if self._why is not None:
                work.close()
                raise self._why
            future = asyncio.run_coroutine_threadsafe(self._bounded(work, timeout), self._loop)
        try:
            return future.result(timeout + CLOSE_S)
        except CourierError:
            raise
        except Exception as error:
            raise self._why or _told(error, self._last) from error

    def ask(self, requests: Sequence[tuple[str, bytes, dict[str, str]]]) -> list[Msg | CourierError]:
        """Send ``(subject, payload, headers)`` at once; all answers, in order. Raises CourierError if the link is lost."""
        return self.call(self._ask(requests), CALL_S + CLOSE_S)

    async def _ask(self, requests: Sequence[tuple[str, bytes, dict[str, str]]]) -> list[Msg | CourierError]:
        asked = [self._client.request(subject, payload, CALL_S, headers=headers or None) for subject, payload, headers in requests]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [_told(answer, None) if isinstance(answer, BaseException) else answer for answer in answers]

    def take(self, timeout: float) -> Live | None:
        """The next live message, or None after ``timeout`` seconds. Raises CourierError when the connection is over."""
        try:
            found = self.live.get(timeout=timeout)
        except queue.Empty:
            found = None
        if found is None and self._why is not None:
            raise self._why
        return found

    def close(self, why: CourierError | None = None) -> None:
        """Hang up, for ``why``; from any thread, also twice. What waits ends with CourierError."""
        self._over(why or CourierError("courier_stopped", "the connection was closed by this side"))
        with self._lock:
            running = self._loop.is_running() and threading.current_thread() is not self._thread
            if running:
                self._loop.call_soon_threadsafe(self._loop.stop)
        if running:
            self._thread.join(CLOSE_S * 2)

    async def _connect(self, tls: ssl.SSLContext | None, credentials: Credentials | None) -> None:
        options: dict[str, Any] = {"tls": tls} if tls else {}
        if credentials:
            options["signature_cb"] = credentials.sign
            if credentials.jwt:
                jwt = credentials.jwt.encode()
                options["user_jwt_cb"] = lambda: bytearray(jwt)
        servers = random.sample(self._settings.servers, len(self._settings.servers))
        for tries_left, server in zip(range(len(servers) - 1, -1, -1), servers, strict=True):
            self._client = _Client(credentials, self._pace, tls=tls is not None)  # one that failed is not used again
            try:
                await self._client.connect(
                    servers=[server], name=f"tidegate-courier {self.subjects.token}", inbox_prefix=self.subjects.inbox.encode(),
                    allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, connect_timeout=CONNECT_S // 2,
                    ping_interval=PING_S, max_outstanding_pings=2, pending_size=READ_MAX * 4,
                    error_cb=self._on_error, **options,
                )  # fmt: skip
                break
            except (OSError, TimeoutError, nats.errors.Error):
                await self._hang_up()
                if not tries_left:
                    raise
        if reading := self._client._reading_task:  # closed_cb is not called for every end before nats-py 2.10 or so
            reading.add_done_callback(self._on_end)
        await self._client.subscribe(
            self.subjects.tokens, cb=self._on_live, pending_msgs_limit=QUEUE_MAX, pending_bytes_limit=READ_MAX * 8
        )
        await self._client.flush(timeout=CONNECT_S)

    async def _bounded(self, work: Coroutine[Any, Any, Got], timeout: float) -> Got:
        task = asyncio.ensure_future(work)
        await asyncio.wait((task, self._gone), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.wait({task}, timeout=CLOSE_S)
        raise self._why or CourierError("courier_slow", f"no answer from the broker within {timeout:.0f} s")

    async def _on_live(self, message: Msg) -> None:
        if self.live.qsize() >= QUEUE_MAX:
            self._slow()
        else:
            self.live.put_nowait(Live(message.subject, message.data, dict(message.headers or {})))

    async def _on_error(self, error: Exception) -> None:
        self._last = error
        if isinstance(error, nats.errors.SlowConsumerError):
            self._slow()
        elif "permissions violation" in str(error).lower():
            self._over(CourierError("nats_forbidden", f"the broker does not allow this host what it needs: {error}"[:300]))

    def _on_end(self, _task: object) -> None:
        self._over(_told(self._client.last_error or ConnectionResetError("closed by the other side"), self._last))

    def _slow(self) -> None:
        if not self._slow_told:
            log.warning("nats: tokens come faster than they are taken; the rest is fetched from the index")
        self._slow_told = True
        self.overrun.set()

    def _over(self, why: CourierError) -> None:
        with self._lock:
            if self._why is not None:
                return
            self._why = why
            if self._loop.is_running():
                self._loop.call_soon_threadsafe(self._gone.cancel)
        with contextlib.suppress(queue.Full):
            self.live.put_nowait(None)

    async def _hang_up(self) -> None:
        """Close the connection, whatever state the client is in."""
        if self._client.is_connected:  # of one that never was, close() waits for what does not come
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.close(), CLOSE_S)
        await self._drop()

    async def _drop(self) -> None:
        """Close the socket, which must not outlive the loop. A broker that goes deaf gets no goodbye of TLS: asyncio would wait
        for its answer up to 30 s, and a loop that ends before leaves the socket open."""
        writer = getattr(self._client._transport, "_bare_io_writer", None)  # TLS's stands on it; nats-py's close() says goodbye
        if writer is not None:
            writer.transport.abort()
        await asyncio.sleep(0)  # in which the transport says that it is closed

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._hang_up())
            rest = asyncio.all_tasks(self._loop)
            for task in rest:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
            self._loop.run_until_complete(self._drop())  # a connection made as it was called off
        finally:
            self._over(CourierError("courier_stopped", "the connection was closed by this side"))
            with self._lock:
                self._loop.close()


def _told(error: BaseException, last: BaseException | None) -> CourierError:
    """nats-py's and the system's errors, as ours. ``last`` is what was reported beside: often the true reason."""
    if last is not None and isinstance(error, nats.errors.NoServersError | nats.errors.UnexpectedEOF):
        error = last
    text = f"{error}" or type(error).__name__
    for found in (error, last):
        if isinstance(found, ssl.SSLError) or "no encryption" in str(found):
            return CourierError("courier_tls", f"no trusted connection: {found}"[:300])
        if isinstance(found, nats.errors.AuthorizationError) or "authorization violation" in str(found).lower():
            return CourierError("courier_denied", "the broker does not know this host's certificate or credentials")
    if isinstance(error, nats.errors.ProtocolError):
        return CourierError("courier_protocol", "the broker sent what is no NATS, or a message above the limit")
    if isinstance(error, nats.errors.NoRespondersError):
        return CourierError("nats_unavailable", "nothing answers there: JetStream is down, or the stream is missing")
    if isinstance(error, TimeoutError):
        return CourierError("courier_slow", "no answer from the broker in time")
    return CourierError("courier_unreachable", f"the connection to the broker is lost or can't be made: {text}"[:300])
