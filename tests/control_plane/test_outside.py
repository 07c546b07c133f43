"""Other systems: the ticket check fails closed, the SIEM gets each event, break-glass is heard."""

import contextlib
import hashlib
import hmac
import http.server
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.control_plane.outside.syslog import message
from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane, prepared, running_control_plane

SECRET = "a shared secret"


class Receiver:
    """An HTTP server that keeps what is posted. ``answers``: path → status, body."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: Callable[[str, bytes], tuple[int, bytes]] = lambda path, body: (200, b'{"ok": true}')
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), body))
                status, answer = receiver.answers(self.path, body)
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", f"http://127.0.0.1:{receiver.port}/redirected")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Syslog:
    """A TCP syslog server that splits by octet count."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        syslog = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ValueError, OSError):
                    while True:
                        length = b""
                        while (one := self.rfile.read(1)) != b" ":
                            length += one
                        syslog.got.append(self.rfile.read(int(length)))

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Receiver, Syslog]]:
    folder = Path(tmp_path_factory.mktemp("outside"))
    secret = folder / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    receiver, syslog = Receiver(), Syslog()
    url = f"http://127.0.0.1:{receiver.port}"
    more = f"""
tickets: {{url: "{url}/tickets", secret_file: {secret}, timeout: 2s}}
break_glass_hooks: [{{url: "{url}/pager", secret_file: {secret}}}]
siem:
  syslog: {{host: 127.0.0.1, port: {syslog.port}, tls: false}}
  http: {{url: "{url}/siem", token_file: {secret}}}
"""
    plane = prepared(folder, more)
    plane.start()
    try:
        for name, env in (("web1", "staging"), ("web2", "production")):
            TestHost(plane, name).enrol(labels={"env": env})
        yield plane, receiver, syslog
    finally:
        plane.kill()
        receiver.close()
        syslog.close()


def late() -> tuple[int, bytes]:
    time.sleep(3)
    return 200, b'{"ok": true}'


def until(found: Callable[[], Any], what: str, timeout: float = 15.0) -> Any:
    end = time.monotonic() + timeout
    while not (value := found()):
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.05)
    return value


def asked(plane: ControlPlane, who: str = "carol", ticket: str = "INC-7") -> tuple[int, str]:
    body = {"template": "web-restart", "hosts": ["web2"], "duration_s": 60, "reason": "x", "ticket": ticket}
    answer = plane.call("POST", "/v1/requests", body, who=who)
    return answer.status, answer.code


def test_a_ticket_is_checked_by_a_signed_question_and_every_doubt_is_a_no(outside: tuple[ControlPlane, Receiver, Syslog]) -> None:
    plane, receiver, _ = outside
    receiver.answers = lambda path, body: (200, b'{"ok": false, "reason": "closed"}')
    assert asked(plane) == (403, "ticket_refused")
    _, headers, body = next(one for one in receiver.got if one[0] == "/tickets")
    stamp, signature = (part.partition("=")[2] for part in headers["Tidegate-Signature"].split(","))
    assert signature == hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert json.loads(body) == {"ticket": "INC-7", "subject": "carol", "template": "web-restart", "hosts": ["web2"]}
    doubts: dict[str, Callable[[str, bytes], tuple[int, bytes]]] = {
        "an error": lambda path, body: (500, b'{"ok": true}'),
        "a redirect": lambda path, body: (307, b'{"ok": true}'),
        "no JSON": lambda path, body: (200, b"ok"),
        "a list": lambda path, body: (200, b"[true]"),
        "too much": lambda path, body: (200, b'{"ok": true, "x": "' + b"x" * 100_000 + b'"}'),
        "silence": lambda path, body: late(),
    }
    for what, answers in doubts.items():
        receiver.answers = answers
        assert asked(plane) == (503, "ticket_unchecked"), what
    receiver.answers = lambda path, body: (200, b'{"ok": "yes"}')
    assert asked(plane) == (403, "ticket_refused")
    assert not [one for one in receiver.got if one[0] == "/redirected"]
    assert asked(plane, ticket="http://127.0.0.1/x y")[1] == "body_invalid"
    receiver.answers = lambda path, body: (200, b'{"ok": true}')
    assert asked(plane)[0] == 201


def test_a_ticket_that_was_closed_meanwhile_stops_the_approval(outside: tuple[ControlPlane, Receiver, Syslog]) -> None:
    plane, receiver, _ = outside
    receiver.answers = lambda path, body: (200, b'{"ok": true}')
    request = plane.ask("carol", ["web1"], ticket="INC-8")
    receiver.answers = lambda path, body: (200, b'{"ok": false}' if path == "/tickets" else b"")
    answer = plane.call("POST", f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]}, who="bob")
    assert answer.code == "ticket_refused"
    receiver.answers = lambda path, body: (200, b'{"ok": true}')


def test_break_glass_is_heard_though_the_ticket_system_is_down(outside: tuple[ControlPlane, Receiver, Syslog]) -> None:
    plane, receiver, _ = outside
    failing = [0]

    def answers(path: str, body: bytes) -> tuple[int, bytes]:
        failing[0] += path == "/pager"
        return (500, b"") if path == "/tickets" or (path == "/pager" and failing[0] == 1) else (200, b"{}")

    receiver.answers = answers
    request = plane.ask("alice", ["web2"], break_glass=True, ticket="INC-9")
    assert request["state"] == "open"
    heard = until(lambda: [one for one in receiver.got if one[0] == "/pager"][1:], "the second try")
    assert json.loads(heard[0][2])["event"]["metadata"]["correlation_uid"] == request["id"]
    receiver.answers = lambda path, body: (200, b'{"ok": true}')


def test_each_event_reaches_the_siem_at_least_once_in_order_also_after_a_crash(
    outside: tuple[ControlPlane, Receiver, Syslog],
) -> None:
    plane, receiver, syslog = outside
    receiver.answers = lambda path, body: (503, b"") if path == "/siem" else (200, b'{"ok": true}')
    plane.ask("carol", ["web1"])
    plane.kill()
    receiver.answers = lambda path, body: (200, b'{"ok": true}')
    receiver.got.clear()
    plane.start()
    last = plane.ok("GET", "/v1/events?limit=500", who="audra")["events"][-1]["ocsf"]["metadata"]["uid"]

    def posted() -> list[str]:
        batches = [json.loads(body) for path, _, body in receiver.got if path == "/siem"]
        return [event["metadata"]["uid"] for batch in batches for event in batch]

    until(lambda: last in posted(), "the newest event")
    known = [one["ocsf"]["metadata"]["uid"] for one in plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]]
    sent = posted()
    first_times = list(dict.fromkeys(sent))
    assert first_times == known[known.index(first_times[0]) :]
    until(lambda: any(last.encode() in line for line in list(syslog.got)), "the newest event by syslog")
    said = [json.loads(line.partition(b" - ")[2].partition(b" - ")[2])["metadata"]["uid"] for line in list(syslog.got)]
    assert set(known) <= set(said)
    head = syslog.got[0].decode().split(" ")
    assert (head[0].startswith("<8"), head[0].endswith(">1"), head[3]) == (True, True, "tidegate")
    headers = next(headers for path, headers, _ in receiver.got if path == "/siem")
    assert headers["Authorization"] == f"Bearer {SECRET}"


def test_a_syslog_message_is_one_line_whatever_a_host_said() -> None:
    event = {"metadata": {"event_code": "x\r\ny] é"}, "severity_id": 5, "message": "two\nlines"}
    whole = message(event, "web 1\n", 1_700_000_000_123)
    length, _, rest = whole.partition(b" ")
    assert int(length) == len(rest)
    assert rest.startswith(b"<82>1 2023-11-14T22:13:20.123Z web-1- tidegate - x--y]-- - {")
    assert b"\n" not in rest


def test_an_authority_that_is_not_there_yet_stops_nothing_for_good(tmp_path: Path) -> None:
    """Neither the ticket check's answer nor the trail's way out, which goes on once the file is there."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    ca = tmp_path / "late.pem"
    more = f"""
tickets: {{url: "https://127.0.0.1:1/tickets", secret_file: {secret}, ca: {ca}}}
siem: {{http: {{url: "https://127.0.0.1:1/siem", ca: {ca}}}}}
"""
    with running_control_plane(tmp_path, more) as plane:
        TestHost(plane, "web1").enrol(labels={"env": "staging"})
        ask = {"template": "web-restart", "hosts": ["web1"], "duration_s": 600, "reason": "x", "ticket": "T-1"}
        answer = plane.call("POST", "/v1/requests", ask, who="alice")
        assert (answer.status, answer.code) == (503, "ticket_unchecked")
        time.sleep(1.5)  # once more, at least
        log = (tmp_path / "log").read_text()
        assert "died" not in log
        assert log.count("events are not taken") >= 2
