"""A control plane for tests, over https as docs/PROTOCOL.md has it ("Over the network"): it behaves, or misbehaves as told.

In this process::

    with Peer() as peer:
        peer.enrol(folder, "urn:tidegate:host:...")
        ident = peer.push(b"a token")
        peer.wait(lambda: peer.records)

Or by itself, inside a test host: ``python -m tests.courier_peer FOLDER`` serves, writes ``FOLDER/peer.json`` (url, fingerprint
of its CA), enrols whoever has the token ``good``, names the keys of ``FOLDER/signing.jwks``, pushes each file that appears in
``FOLDER/push``, takes its faults from ``FOLDER/faults.json``, and keeps what came in ``FOLDER/state.json``.
"""

import argparse
import contextlib
import hashlib
import json
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.courier_certificates import Authority, Pair, write

HEARTBEAT_S = 0.2
# What ``faults`` can say it does instead, by the request: "stream", "tokens", "records", "recordings", "renew", "enroll", "*".
FAULTS = (
    *("status:503", "status:401", "status:400", "status:404", "redirect", "junk", "html", "empty", "list", "deep", "cut", "hangup"),
    *("hang", "drip", "flood", "headers", "continues"),
)


class Peer:
    """One control plane. Attributes may be looked at, and set, at any time; what came from the host is kept by key."""

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, authority: Authority | None = None, pair: Pair | None = None
    ) -> None:
        self.authority = authority or Authority()
        self.certificate = self._pair = pair or self.authority.server(host)
        self.lock = threading.Condition()
        self.stream = "epoch-1"
        self.tokens: list[tuple[int, bytes]] = []
        self.records: dict[str, dict[str, Any]] = {}
        self.seen: list[str] = []  # every key, as often as it came
        self.refuse: dict[str, str] = {}
        self.unacked: set[str] = set()
        self.recordings: dict[str, bytearray] = {}
        self.complete: set[str] = set()
        self.size_lies: dict[str, int] = {}
        self.faults: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.heartbeat_s = HEARTBEAT_S
        self.renewed = 0
        self.renew_with: Callable[[str], dict[str, str]] = self._renewal
        self.enrol_with: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]] = lambda _: (404, {"code": "token_unknown"})
        self.answer_pause_s = 0.0
        self.old_tokens = False
        self.alive = True
        self._connections: set[socket.socket] = set()
        self._server = _Server((host, port), _Handler, self)
        self._server.socket = self._context().wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"https://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_OPTIONAL
        with tempfile.TemporaryDirectory() as folder:
            chain, key, ca = (Path(folder) / name for name in ("chain", "key", "ca"))
            chain.write_bytes(self._pair.pem + self.authority.pair.pem)
            key.write_bytes(self._pair.key_pem)
            ca.write_bytes(self.authority.pair.pem)
            context.load_cert_chain(chain, key)
            context.load_verify_locations(ca)
        return context

    def __enter__(self) -> "Peer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Down, every connection with it."""
        with self.lock:
            self.alive = False
            self.lock.notify_all()
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        self.hang_up()

    def hang_up(self) -> None:
        """End every connection that is open now."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def enrol(self, folder: Path, uri: str, **life: float) -> None:
        """Write the courier's three files."""
        write(folder, self.authority, self.authority.client(uri, **life))

    def push(self, token: bytes) -> int:
        """To every host that listens; the token's number."""
        with self.lock:
            ident = self.tokens[-1][0] + 1 if self.tokens else 1
            self.tokens.append((ident, token))
            self.lock.notify_all()
        return ident

    def wait(self, until: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Until that is so; fails the test otherwise."""
        end = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < end, "it did not come to that in time"
            with self.lock:
                self.lock.wait(0.02)

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of every request for what begins with that path."""
        with self.lock:
            return [headers for _, target, headers in self.requests if target.startswith(path)]

    def _renewal(self, csr: str) -> dict[str, str]:
        return {
            "certificate": self.authority.sign_request(csr),
            "ca": self.authority.pair.pem.decode(),
            "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.authority.ends_s)),
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, where: tuple[str, int], handler: type[BaseHTTPRequestHandler], peer: Peer) -> None:
        super().__init__(where, handler)
        self.peer = peer

    def handle_error(self, request: object, client_address: object) -> None:
        """A courier that hangs up is no news."""

    def shutdown_request(self, request: Any) -> None:
        """The connection alone."""
        self.peer._connections.discard(request)
        super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.peer = self.server.peer
        self.peer._connections.add(self.request)
        self.request.settimeout(10.0)
        self.request.do_handshake()
        self.request.settimeout(None)
        super().setup()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests look at what came."""

    # Requests

    def do_GET(self) -> None:
        what = self._began()
        if what == "stream":
            self._stream()
        elif what == "tokens":
            self._tokens()
        elif what == "recordings":
            self._size()
        elif what:
            self._json(404, {"code": "unknown"})

    def do_PUT(self) -> None:
        body = self._body()
        if self._began() == "recordings":
            self._piece(body)

    def do_POST(self) -> None:
        body = self._body()
        what = self._began()
        if what == "records":
            self._records(body)
        elif what == "renew":
            with self.peer.lock:
                self.peer.renewed += 1
            self._json(200, self.peer.renew_with(json.loads(body)["csr"]))
        elif what == "enroll":
            self._json(*self.peer.enrol_with(json.loads(body)))
        elif what:
            self._json(404, {"code": "unknown"})

    def _began(self) -> str:
        """Which of the requests it is; empty when it was dealt with by a fault."""
        parts = urlsplit(self.path).path.split("/")
        what = parts[3] if len(parts) > 3 and parts[2] == "host" else parts[2] if len(parts) > 2 else ""
        with self.peer.lock:
            self.peer.requests.append((self.command, self.path, dict(self.headers.items())))
            fault = self.peer.faults.get(what) or self.peer.faults.get("*")
            self.peer.lock.notify_all()
        if what != "enroll" and not self.request.getpeercert():
            self._json(401, {"code": "no_certificate"})
            return ""
        if fault:
            self._misbehave(fault)
            return ""
        if self.peer.answer_pause_s:
            time.sleep(self.peer.answer_pause_s)
        return what

    # Behaving

    def _stream(self) -> None:
        peer = self.peer
        last = int(self.headers.get("Last-Event-ID", "0"))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Tidegate-Stream", peer.stream)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b": hello\n\n")
        name = peer.stream
        while peer.alive and peer.stream == name:
            with peer.lock:
                found = [(ident, token) for ident, token in peer.tokens if ident > last or peer.old_tokens]
                if not found:
                    peer.lock.wait(peer.heartbeat_s)
            for ident, token in found:
                self._chunk(b"id: %d\nevent: token\ndata: %s\n\n" % (ident, token))
                last = max(last, ident)
            if not found or peer.old_tokens:
                self._chunk(b": alive\n\n")
                if peer.old_tokens:
                    time.sleep(0.05)

    def _tokens(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        after, end = int(query["after"][0]), time.monotonic() + min(float(query["wait"][0]), self.peer.heartbeat_s)
        with self.peer.lock:
            while not (found := [pair for pair in self.peer.tokens if pair[0] > after]) and time.monotonic() < end:
                self.peer.lock.wait(0.05)
        tokens = [{"id": ident, "token": token.decode()} for ident, token in found[:100]]
        self._json(200, {"stream": self.peer.stream, "tokens": tokens})

    def _records(self, body: bytes) -> None:
        assert len(body) <= 1 << 20
        acked, refused = [], []
        with self.peer.lock:
            for line in body.decode().splitlines():
                record = json.loads(line)
                key = record["key"]
                self.peer.seen.append(key)
                if key in self.peer.refuse:
                    refused.append({"key": key, "code": self.peer.refuse[key]})
                elif key not in self.peer.unacked:
                    self.peer.records.setdefault(key, record)
                    acked.append(key)
            assert len(acked) <= 1000
            self.peer.lock.notify_all()
        self._json(200, {"acked": acked, "refused": refused})

    def _size(self) -> None:
        ident = urlsplit(self.path).path.rpartition("/")[2]
        with self.peer.lock:
            size = self.peer.size_lies.get(ident, len(self.peer.recordings.get(ident, b"")))
        self._json(200, {"size": size, "complete": ident in self.peer.complete})

    def _piece(self, body: bytes) -> None:
        url = urlsplit(self.path)
        ident, query = url.path.rpartition("/")[2], parse_qs(url.query)
        with self.peer.lock:
            kept = self.peer.recordings.setdefault(ident, bytearray())
            if int(query["offset"][0]) != len(kept):
                self._json(409, {"size": len(kept), "code": "offset"})
                return
            kept += body
            if query.get("complete") == ["true"]:
                self.peer.complete.add(ident)
            size = self.peer.size_lies.get(ident, len(kept))
            self.peer.lock.notify_all()
        self._json(200, {"size": size})

    # Misbehaving

    def _misbehave(self, fault: str) -> None:
        self.close_connection = True
        raw = self.wfile.write
        with contextlib.suppress(OSError):
            for piece in _pieces(fault):
                if piece is None:
                    time.sleep(0.1)
                else:
                    raw(piece)
                    self.wfile.flush()
                if not self.peer.alive:
                    return

    # Words

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _json(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


def _pieces(fault: str) -> Iterator[bytes | None]:
    """What goes over the wire, None for a pause."""
    ok = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    if fault.startswith("status:"):
        body = b'{"code":"test_fault","detail":"a \\u001b[31mfault"}'
        yield b"HTTP/1.1 %s Fault\r\nContent-Length: %d\r\n\r\n%s" % (fault[7:].encode(), len(body), body)
    elif fault == "redirect":
        yield b"HTTP/1.1 307 Elsewhere\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    elif fault == "junk":
        yield b"\x00\xff\x13not http at all\r\n\r\n" * 10
    elif fault == "html":
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>hi</html>"
    elif fault == "empty":
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
    elif fault == "list":
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"
    elif fault == "deep":
        yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n" + b"[" * 900000
    elif fault == "hang":
        yield from iter(lambda: None, 1)
    elif fault == "drip":
        for byte in ok * 1000:
            yield bytes([byte])
            yield None
    elif fault == "flood":
        yield ok + b"\r\n"
        yield from iter(lambda: b"x" * 65536, b"")
    elif fault == "headers":
        yield b"HTTP/1.1 200 OK\r\n"
        yield from iter(lambda: b"X-Fill: " + b"x" * 60000 + b"\r\n", b"")
    elif fault == "continues":
        yield from iter(lambda: b"HTTP/1.1 100 Continue\r\n\r\n" * 100, b"")
    elif fault == "cut":
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"
    elif fault == "hangup":
        return
    else:
        raise ValueError(fault)


def main() -> None:
    """Serve inside a test host; see above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    (folder / "push").mkdir(parents=True, exist_ok=True)
    with Peer() as peer:

        def enrol(asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            if asked["token"] != "good":
                return 403, {"code": "token_unknown"}
            keys = json.loads((folder / "signing.jwks").read_text())
            return 200, {**peer.renew_with(asked["csr"]), "url": peer.url, "signing_keys": keys}

        peer.enrol_with = enrol
        put(folder / "peer.json", {"url": peer.url, "ca": hashlib.sha256(peer.authority.pair.der).hexdigest()})
        while True:
            for path in sorted((folder / "push").iterdir()):
                if not path.name.startswith("."):
                    peer.push(path.read_bytes().strip())
                    path.unlink()
            if (folder / "faults.json").exists():
                peer.faults = json.loads((folder / "faults.json").read_text())
            with peer.lock:
                sizes = {name: len(data) for name, data in peer.recordings.items()}
                state = {"records": peer.records, "seen": peer.seen, "recordings": sizes, "complete": sorted(peer.complete)}
            put(folder / "state.json", state)
            time.sleep(0.02)


def put(path: Path, value: object) -> None:
    """Whole, for whoever reads it meanwhile."""
    new = path.with_name(f".{path.name}")
    new.write_text(json.dumps(value))
    new.replace(path)


if __name__ == "__main__":
    main()
