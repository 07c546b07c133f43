"""A small HTTPS client for JSON: one request at a time, over TLS alone, bounded in bytes and in time, following nowhere.

http.client bounds each wait, not the whole: a server that sends a byte now and then holds it for ever. Here a timer shuts the
socket down at the deadline, whatever is going on.
"""

import http.client
import json
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import RefusedError
from agent.model.text import one_line
from agent.trust import strictjson
from examples.control_plane.people.errors import ProviderError

ANSWER_MAX = 512 * 1024  # bytes
DEADLINE_S = 15.0
_LINE_MAX = 256 * 1024  # of an event stream


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` of HTTP, the headers that we read (names in lower case), and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, object]:
        """The body as one JSON object.

        Raises:
            ProviderError: ``answer_not_json``.
        """
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ProviderError("answer_not_json", f"the server answered {self.status} with something that is no JSON") from error
        if not isinstance(found, dict):
            raise ProviderError("answer_not_json", "the server answered with JSON that is no object")
        return found


@dataclass(frozen=True, slots=True)
class Https:
    """How to reach servers: ``ca_file`` is trusted instead of the system's authorities where it is set."""

    ca_file: Path | None = None
    deadline_s: float = DEADLINE_S
    answer_max: int = ANSWER_MAX
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    unverified: bool = False  # only for a certificate that is then known by its hash

    def get(self, url: str) -> Answer:
        """GET ``url``. Raises as :meth:`ask`."""
        return self.ask("GET", url)

    def post_form(self, url: str, form: Mapping[str, str]) -> Answer:
        """POST a form. Raises as :meth:`ask`."""
        body = urllib.parse.urlencode(form).encode("ascii")
        return self.ask("POST", url, body, "application/x-www-form-urlencoded")

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        content_type: str = "application/json",
        *,
        deadline_s: float | None = None,
        accept: str = "application/json, application/problem+json",
    ) -> Answer:
        """One request, answered whole within the deadline. A redirect is an answer like any other.

        Raises:
            ProviderError: ``url_not_https``, ``server_unreachable``, ``server_untrusted`` (its certificate), ``server_too_slow``,
                ``answer_too_large``.
        """
        within = self.deadline_s if deadline_s is None else deadline_s
        with self._asked(method, url, body, content_type, accept, within) as response:
            data = response.read(self.answer_max + 1)
            if len(data) > self.answer_max:
                raise ProviderError("answer_too_large", f"{_host(url)} answered with more than {self.answer_max} bytes")
            _whole(response, url)
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, data)

    def download(self, url: str, *, deadline_s: float, silence_s: float = DEADLINE_S) -> Iterator[bytes]:
        """GET ``url`` piece by piece, with no bound on bytes: for recordings and streams, whose reader bounds them.

        Raises:
            ProviderError: as :meth:`ask`, and ``answer_status`` for any status but 200.
        """
        with self._asked("GET", url, None, "", "*/*", deadline_s, silence_s) as response:
            if response.status != 200:
                raise ProviderError("answer_status", said(response.status, response.read(ANSWER_MAX)))
            while piece := response.read1(65536):
                yield piece
            _whole(response, url)

    @contextmanager
    def _asked(
        self,
        method: str,
        url: str,
        body: bytes | None,
        content_type: str,
        accept: str,
        deadline_s: float,
        silence_s: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        host, port, target = _parts(url)
        headers = {"Accept": accept, "User-Agent": "tidegate", "Connection": "close", **self.headers}
        if body is not None:
            headers["Content-Type"] = content_type
        connection = _Bounded(host, port, self._context(), deadline_s, silence_s or deadline_s)
        try:
            connection.request(method, target, body, headers)
            with connection.getresponse() as response:
                yield response
        except ssl.SSLCertVerificationError as error:
            raise ProviderError("server_untrusted", f"{host}: its certificate is not trusted: {error.verify_message}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection.overdue or isinstance(error, TimeoutError):
                raise ProviderError("server_too_slow", f"{host} did not answer within {deadline_s:.0f} s") from error
            raise ProviderError("server_unreachable", f"{host}:{port} can't be reached: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ProviderError("ca_unreadable", f"{self.ca_file}: no certificates can be read from it") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.unverified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _Bounded(http.client.HTTPSConnection):
    """A connection that a timer ends, from its first packet to its last."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, deadline_s: float, silence_s: float) -> None:
        super().__init__(host, port, timeout=min(silence_s, deadline_s), context=context)
        self.overdue = False
        self._tls = context
        self._plain: socket.socket | None = None
        self._timer = threading.Timer(deadline_s, self._end)
        self._timer.daemon = True

    def connect(self) -> None:
        self._timer.start()
        self._plain = socket.create_connection((self.host, self.port), self.timeout)
        # A descriptor of our own: wrapping takes the first one over, and the timer must be able to end the handshake too.
        wrapped, self._plain = self._plain, self._plain.dup()
        # Whoever cuts the connection must not make a shorter answer of a long one.
        self.sock = self._tls.wrap_socket(wrapped, server_hostname=self.host, suppress_ragged_eofs=False)

    def close(self) -> None:
        self._timer.cancel()
        super().close()
        if self._plain is not None:
            self._plain.close()
            self._plain = None

    def _end(self) -> None:
        self.overdue = True
        plain = self._plain
        if plain is not None:
            try:
                plain.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # closed meanwhile


def events(pieces: Iterator[bytes]) -> Iterator[tuple[str, str]]:
    """``(event, data)`` of a text/event-stream (WHATWG HTML, section 9.2); comments are left out.

    Raises:
        ProviderError: ``answer_too_large`` for a line of more than 256 KiB.
    """
    rest, name, data = b"", "", []  # type: bytes, str, list[str]
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LINE_MAX:
            raise ProviderError("answer_too_large", "a line of the event stream never ends")
        for raw in lines:
            line = raw.rstrip(b"\r").decode("utf-8", "replace")
            if not line and data:
                yield name or "message", "\n".join(data)
            if not line:
                name, data = "", []
            elif line.startswith("event:"):
                name = line[6:].removeprefix(" ")
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))


def strict_object(data: bytes, what: str) -> dict[str, object]:
    """JSON without members that stand there twice, for documents that decide whom to trust.

    Raises:
        ProviderError: ``answer_not_json``.
    """
    try:
        return strictjson.parse_object(data, error=RefusedError)
    except RefusedError as error:
        raise ProviderError("answer_not_json", f"{what} {error.reason}") from error


def _parts(url: str) -> tuple[str, int, str]:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ProviderError("url_not_https", f"{url[:200]!a} is no address") from error
    if parts.scheme != "https" or not host or parts.username is not None:
        raise ProviderError("url_not_https", f"{url[:200]!a} does not begin with https:// and a host")
    return host, port or 443, f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"


def _whole(response: http.client.HTTPResponse, url: str) -> None:
    if response.length:  # what its Content-Length still promises
        raise ProviderError("server_unreachable", f"{_host(url)} ended its answer too early")


def _host(url: str) -> str:
    return _parts(url)[0]


def said(status: int, body: bytes) -> str:
    """What a server says of its refusal (RFC 9457) as one line, else its status."""
    try:
        found = json.loads(body)
        return one_line(f"{found['detail']}") if isinstance(found.get("detail"), str) else f"status {status}"
    except (ValueError, RecursionError, AttributeError, KeyError):
        return f"status {status}"
