"""A link that ends takes its socket along, also when the broker never answers the goodbye of TLS. This broker is ours."""

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.courier import natslink
from agent.courier.nats import NatsSettings
from agent.courier.natslink import Link
from agent.errors import CourierError
from tests.nats import pki
from tests.nats.bed import ALICE

INFO = {"server_id": "x", "version": "2.9.10", "headers": True, "max_payload": 1 << 20, "proto": 1, "tls_required": True}
REFUSED = b"-ERR 'Authorization Violation'\r\n"


class DeafBroker:
    """Takes one client over TLS, answers its first PING with ``answer`` (later ones with PONG) until told ``deaf``, and then
    looks only whether the connection is gone: it neither reads nor closes."""

    def __init__(self, authority: pki.Authority, answer: bytes) -> None:
        pair = authority.server()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(pair.certificate, pair.key)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.deaf, self.gone, self._over = threading.Event(), threading.Event(), threading.Event()
        self._answer = answer
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            link, _ = self._listening.accept()
            link.settimeout(0.05)
            link.sendall(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
            with self._tls.wrap_socket(link, server_side=True, do_handshake_on_connect=False) as wrapped:
                wrapped.settimeout(5)
                wrapped.do_handshake()
                wrapped.settimeout(0.05)
                while not self.deaf.is_set():
                    with contextlib.suppress(TimeoutError):
                        if b"PING\r\n" in wrapped.recv(65536):
                            wrapped.sendall(self._answer)
                            if self._answer == REFUSED:
                                self.deaf.set()
                self._watch(wrapped)

    def _watch(self, link: socket.socket) -> None:
        hung_up = select.poll()
        hung_up.register(link, select.POLLRDHUP)  # of TCP: the words of TLS's goodbye do not count
        while not self._over.is_set() and not self.gone.is_set():
            if hung_up.poll(50):
                self.gone.set()

    def close(self) -> None:
        self.deaf.set()
        self._over.set()
        self._listening.close()
        self._thread.join(10)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path)


@contextlib.contextmanager
def deaf(authority: pki.Authority, answer: bytes) -> Iterator[tuple[DeafBroker, NatsSettings]]:
    broker = DeafBroker(authority, answer)
    host = authority.host(ALICE)
    servers = (f"tls://127.0.0.1:{broker.port}",)
    try:
        yield broker, NatsSettings(servers, ALICE, ca=authority.ca, certificate=host.certificate, key=host.key)
    finally:
        broker.close()


def test_a_connection_refused_by_a_broker_that_goes_deaf_is_closed(authority: pki.Authority) -> None:
    with deaf(authority, REFUSED) as (broker, settings):
        with pytest.raises(CourierError) as refused:
            Link(settings)
        assert refused.value.code == "courier_denied"
        assert broker.gone.wait(2), "the socket outlives the link"


def test_a_link_to_a_broker_that_went_deaf_is_closed_in_time(authority: pki.Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natslink, "CLOSE_S", 0.5)
    with deaf(authority, b"PONG\r\n") as (broker, settings):
        link = Link(settings)
        broker.deaf.set()
        time.sleep(0.1)  # it reads no more
        link.close()
        assert broker.gone.wait(2), "the socket outlives the link"
        assert link.lost is not None
