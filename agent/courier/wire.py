"""HTTP over TLS by http.client, with everything that comes bounded in bytes and time, whatever the other side does.

http.client bounds one line and the number of headers, and nothing else: not the time of a response that comes a byte a second,
not interim responses or a proxy's headers without end. So it reads through :class:`_Metered`, which counts and looks at the clock.
"""

import contextlib
import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from agent.courier.settings import Address, Proxy
from agent.errors import CourierError

CONNECT_S = 15.0
ANSWER_S = 60.0  # for one request and the whole of its answer
_HEAD_MAX = 64 * 1024  # bytes before the body, of a proxy and of the server
_SLACK = 4096


def client_context() -> ssl.SSLContext:
    """TLS 1.2 or later, with names checked and nobody believed yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the CA that was pinned may itself be signed by another
    return context


@dataclass(slots=True)
class Budget:
    """What may still come on one connection. ``until``: by the monotonic clock, seconds."""

    until: float = 0.0
    left: int = 0

    def renew(self, seconds: float, count: int) -> None:
        """So long, and so many bytes, from now."""
        self.until = time.monotonic() + seconds
        self.left = count

    def seconds(self) -> float:
        """For the next wait. Raises CourierError ``courier_slow``."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise CourierError("courier_slow", "the other side did not answer, or not to the end, in time")
        return left


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, whole. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class _Metered(io.RawIOBase):
    """What http.client reads from."""

    def __init__(self, sock: socket.socket, budget: Budget) -> None:
        self._sock, self._budget = sock, budget
        self._inner = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # any writable buffer in typeshed
        if self._budget.left <= 0:
            raise CourierError("courier_flood", "more came than there may")
        self._sock.settimeout(self._budget.seconds())
        try:
            count = self._inner.readinto(memoryview(buffer)[: self._budget.left]) or 0
        except TimeoutError as error:
            raise CourierError("courier_slow", "the other side did not answer, or not to the end, in time") from error
        self._budget.left -= count
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


class _Socket:
    """As much of a socket as http.client uses."""

    def __init__(self, sock: socket.socket, budget: Budget) -> None:
        self._sock, self._budget = sock, budget

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Metered(self._sock, self._budget), 16 * 1024)

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(self._budget.seconds())
            rest = rest[self._sock.send(rest) :]

    def close(self) -> None:
        self._sock.close()


class Connection(http.client.HTTPConnection):
    """One TLS connection, straight or through a proxy's CONNECT."""

    default_port = 443

    def __init__(self, to: Address, context: ssl.SSLContext, proxy: Proxy | None) -> None:
        at = (proxy.host, proxy.port) if proxy else (to.host, to.port)
        super().__init__(*at, timeout=CONNECT_S)
        self.budget = Budget()
        self._to, self._context, self._proxied = to, context, proxy is not None
        self._raw: socket.socket | None = None
        self.secured: ssl.SSLSocket | None = None
        if proxy:
            self.set_tunnel(to.host, to.port, {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {})

    def connect(self) -> None:
        """See http.client. Raises OSError, CourierError."""
        raw = socket.create_connection((self.host, self.port), CONNECT_S)
        self._raw = raw
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.sock = _Socket(raw, self.budget)
        if self._proxied:
            self._tunnel()  # type: ignore[attr-defined]  # http.client's own way, which typeshed does not show
        raw.settimeout(CONNECT_S)  # of the whole handshake: ssl counts it so
        self.secured = self._context.wrap_socket(raw, server_hostname=self._to.host)
        self._raw = self.secured
        self.sock = _Socket(self.secured, self.budget)

    def abort(self) -> None:
        """From another thread: whoever reads or writes ends at once."""
        raw = self._raw
        if raw is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(raw, socket.SHUT_RDWR)  # SSLSocket's own would take its state from under the reader


class Channel:
    """Requests one after the other over a connection that is kept. Used by one thread, but for :meth:`close`."""

    def __init__(self, to: Address, context: ssl.SSLContext, proxy: Proxy | None) -> None:
        self._to, self._context, self._proxy = to, context, proxy
        self._connection: Connection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._lock = threading.Lock()  # of the two below
        self._closed = self._busy = False

    def close(self) -> None:
        """From any thread; a call that blocks ends soon, and none comes after. What is in use is closed by whoever uses it."""
        with self._lock:
            self._closed, busy = True, self._busy
        connection = self._connection
        if connection is not None:
            connection.abort()
        if not busy:
            self.drop()

    def drop(self) -> None:
        """Hang up; the next request connects anew."""
        connection, self._connection = self._connection, None
        response, self._response = self._response, None
        self._busy = False
        if response is not None:
            response.close()
        if connection is not None:
            connection.close()

    def ask(self, method: str, path: str, *, body: bytes = b"", kind: str = "", most: int, seconds: float = ANSWER_S) -> Answer:
        """One request and its whole answer, of at most ``most`` bytes.

        Raises:
            CourierError: ``courier_unreachable``, ``courier_server_untrusted``, ``courier_tls``, ``courier_slow``,
                ``courier_flood``, ``courier_protocol``, ``courier_redirected``.
        """
        headers = {"Accept": "application/json", **({"Content-Type": kind} if kind else {})}
        response = self.begin(method, path, headers, body=body, seconds=seconds)
        connection = self._connection
        if connection is None:
            raise CourierError("courier_protocol", "the connection is gone")
        try:
            connection.budget.left = most + _SLACK + most // 8  # chunks have their own lengths
            with told(self._to):
                data = response.read(most + 1)
                whole = response.isclosed() or not response.read(1)
        except BaseException:
            self.drop()
            raise
        if len(data) > most or not whole:
            self.drop()
            raise CourierError("courier_flood", f"an answer of more than {most} bytes")
        if response.will_close:
            self.drop()
        self._busy = False
        if self._closed:
            self.drop()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)

    def begin(
        self, method: str, path: str, headers: Mapping[str, str], *, body: bytes = b"", seconds: float = ANSWER_S
    ) -> http.client.HTTPResponse:
        """One request; its response with the body still to come, within the same time.

        A kept connection may have been closed by the other side just now: then it is asked once more over a new one. Every
        request may come twice.

        Raises:
            CourierError: as :meth:`ask`.
        """
        kept = self._connection is not None
        try:
            return self._begin(method, path, headers, body, seconds)
        except _StaleError:
            if not kept:
                raise CourierError("courier_unreachable", "the other side hung up without an answer") from None
        return self._begin(method, path, headers, body, seconds)

    def _begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float) -> http.client.HTTPResponse:
        with self._lock:
            if self._closed:
                raise CourierError("courier_stopped", "told to stop")
            self._busy = True
        kept = self._connection is not None
        connection = self._connection = self._connection or Connection(self._to, self._context, self._proxy)
        connection.budget.renew(seconds, 2 * _HEAD_MAX)
        try:
            with told(self._to, stale=kept):
                connection.request(method, self._to.base + path, body=body or None, headers=dict(headers))
                response = self._response = connection.getresponse()
        except BaseException:
            self.drop()
            raise
        if 300 <= response.status < 400:
            self.drop()
            raise CourierError("courier_redirected", f"answers {response.status}: a redirect is not followed")
        return response

    @property
    def budget(self) -> Budget:
        """Of the connection that is open. Raises CourierError."""
        if self._connection is None:
            raise CourierError("courier_protocol", "the connection is gone")
        return self._connection.budget


class _StaleError(Exception):
    """A kept connection turned out to be closed."""


@contextlib.contextmanager
def told(to: Address, *, stale: bool = False) -> Iterator[None]:
    """The errors of sockets, TLS and http.client as CourierError, by whose fault they are."""
    where = f"{to.host} port {to.port}"
    try:
        yield
    except CourierError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise CourierError("courier_server_untrusted", f"{where}: {error.verify_message}") from error
    except ssl.SSLError as error:
        if stale and isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            raise _StaleError from error
        raise CourierError("courier_tls", f"{where}: {error.reason or error}") from error
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
        if stale:
            raise _StaleError from error
        raise CourierError("courier_unreachable", f"{where}: hung up") from error
    except http.client.HTTPException as error:
        raise CourierError("courier_protocol", f"{where}: no HTTP answer: {type(error).__name__}") from error
    except (OSError, UnicodeError) as error:
        raise CourierError("courier_unreachable", f"{where}: {error}") from error
    except ValueError as error:  # of http.client's parsing
        raise CourierError("courier_protocol", f"{where}: no HTTP answer: {error}") from error
