"""Getting an ID token for a command line program: by the person's browser and a loopback redirect, or by a code typed elsewhere.

The browser (RFC 8252, with PKCE, RFC 7636) is the default, for what it binds: the answer comes to this very machine, to a port that
this program holds, for a state, a nonce and a verifier that it made. The device flow (RFC 8628) binds nothing of that: whoever
starts it may send the code to somebody else and be let in as them. So it is never fallen back to; one asks for it (`--device`), on
machines without a browser, and the control plane's admin may forbid it.
"""

import base64
import hashlib
import hmac
import http.server
import queue
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from agent.model.text import one_line
from examples.control_plane.people.errors import LoginRefusedError, ProviderError
from examples.control_plane.people.https import Answer, Https
from examples.control_plane.people.keyset import Metadata

BROWSER_WAIT_S = 300.0
_DEVICE_WAIT_MAX_S = 1800
_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_SLOW_DOWN_S = 5.0  # RFC 8628, section 3.5
_INTERVAL_MAX_S = 60.0
_DONE = b"<!doctype html><meta charset=utf-8><title>Tidegate</title><p>You may close this window and go back to the terminal."
_NOT_HERE = b"<!doctype html><meta charset=utf-8><title>Tidegate</title><p>This is not the login that the terminal waits for."


@dataclass(frozen=True, slots=True)
class Proof:
    """An ID token, and the nonce that it must carry; the device flow has none."""

    id_token: str
    nonce: str | None


@dataclass(frozen=True, slots=True)
class Client:
    """This program as the provider knows it: public, without a secret."""

    metadata: Metadata
    client_id: str
    scopes: Sequence[str]
    https: Https


def by_browser(client: Client, show: Callable[[str], None], wait_s: float = BROWSER_WAIT_S) -> Proof:
    """The authorization code flow. ``show`` opens the address in a browser, or tells it to the person.

    Raises:
        LoginRefusedError: ``login_refused`` (by the provider or the person), ``login_abandoned`` (nobody came back in time).
        ProviderError: the provider can't be asked, or answers what it must not.
    """
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode("ascii")
    with _Loopback(state) as listening:
        redirect = f"http://127.0.0.1:{listening.server_port}/callback"
        query = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(client.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        show(_with_query(client.metadata.authorization, query))
        answer = listening.wait(wait_s)
    if client.metadata.says_issuer and answer.get("iss") != client.metadata.issuer:
        raise ProviderError("provider_answer", "the answer came from another provider (RFC 9207)")
    if "error" in answer or not answer.get("code"):
        raise LoginRefusedError("login_refused", f"the provider says: {_said(answer)}")
    form = {"grant_type": "authorization_code", "code": answer["code"], "redirect_uri": redirect, "code_verifier": verifier}
    found = client.https.post_form(client.metadata.token, {**form, "client_id": client.client_id})
    return Proof(_id_token(found), nonce)


@dataclass(frozen=True, slots=True)
class Code:
    """What the person types, and where. ``complete`` is the address with the code in it, or empty."""

    uri: str
    user_code: str
    complete: str


def by_device(
    client: Client,
    show: Callable[[Code], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Proof:
    """The device authorization grant.

    Raises:
        LoginRefusedError: ``login_refused``, ``login_abandoned``, ``login_method_off``: the provider has no device flow.
        ProviderError: as :func:`by_browser`.
    """
    if not client.metadata.device:
        raise LoginRefusedError("login_method_off", "the provider has no device flow: log in with a browser, without --device")
    form = {"client_id": client.client_id, "scope": " ".join(client.scopes)}
    started = client.https.post_form(client.metadata.device, form)
    found = _object(started)
    code = Code(_text(found, "verification_uri"), _text(found, "user_code"), str(found.get("verification_uri_complete") or ""))
    if not code.uri.startswith("https://") or not (code.complete or "https://").startswith("https://"):
        raise ProviderError("provider_answer", "the provider names an address that is not https")
    ends = clock() + min(_seconds(found.get("expires_in"), 300.0), _DEVICE_WAIT_MAX_S)
    show(code)
    poll = {"grant_type": _DEVICE_GRANT, "device_code": _text(found, "device_code"), "client_id": client.client_id}
    return Proof(_polled(client, poll, _seconds(found.get("interval"), 5.0), ends, sleep, clock), None)


def _polled(
    client: Client,
    form: Mapping[str, str],
    interval: float,
    ends: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> str:
    while clock() + interval < ends:
        sleep(interval)
        try:
            answer = client.https.post_form(client.metadata.token, form)
        except ProviderError as error:
            if error.code not in {"server_too_slow", "server_unreachable"}:
                raise
            interval = min(interval * 2, _INTERVAL_MAX_S)  # RFC 8628, section 3.5: back off where it does not answer
            continue
        if answer.status == 200:
            return _id_token(answer)
        said = _object(answer)
        match said.get("error"):
            case "authorization_pending":
                continue
            case "slow_down":
                interval += _SLOW_DOWN_S
            case "expired_token":
                break
            case _:
                raise LoginRefusedError("login_refused", f"the provider says: {_said(said)}")
    raise LoginRefusedError("login_abandoned", "nobody confirmed the code in time")


class _Loopback(http.server.ThreadingHTTPServer):
    """A listener on 127.0.0.1 for the one answer that has our state; any other visitor is told off and changes nothing."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, state: str) -> None:
        super().__init__(("127.0.0.1", 0), _Visit)
        self.state = state
        self.answers: queue.Queue[Mapping[str, str]] = queue.Queue()

    def __enter__(self) -> Self:
        # In a thread: a browser in this terminal keeps us busy until it is closed.
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def wait(self, wait_s: float) -> Mapping[str, str]:
        """The query of the redirect."""
        try:
            return self.answers.get(timeout=wait_s)
        except queue.Empty:
            why = "nobody came back from the browser in time; without one here, see --device"
            raise LoginRefusedError("login_abandoned", why) from None


class _Visit(http.server.BaseHTTPRequestHandler):
    timeout = 10.0

    def do_GET(self) -> None:  # http.server's name
        assert isinstance(self.server, _Loopback)  # noqa: S101  # for the type checker
        path, _, query = self.path.partition("?")
        found = dict(urllib.parse.parse_qsl(query, max_num_fields=32)) if len(query) <= 8192 else {}
        ours = path == "/callback" and hmac.compare_digest(found.get("state", "").encode(), self.server.state.encode())
        body = _DONE if ours else _NOT_HERE
        self.send_response(200 if ours else 400)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("Connection", "close"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        if ours:
            self.server.answers.put(found)

    def log_message(self, *_: object) -> None:
        """Nothing: the query is a secret."""


def _with_query(url: str, query: Mapping[str, str]) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urllib.parse.urlencode(query)}"


def _id_token(answer: Answer) -> str:
    found = _object(answer)
    if answer.status != 200:
        raise LoginRefusedError("login_refused", f"the provider says: {_said(found)}")
    return _text(found, "id_token")


def _object(answer: Answer) -> dict[str, object]:
    return answer.json()


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str) or not value or len(value) > 32768:
        raise ProviderError("provider_answer", f"the provider's answer has no {name}")
    return value


def _seconds(value: object, otherwise: float) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
    return float(value) if right else otherwise  # type: ignore[arg-type]  # a number, as was just seen


def _said(found: Mapping[str, object]) -> str:
    return one_line(f"{found.get('error', 'nothing')}: {found.get('error_description', '')}", 300)
