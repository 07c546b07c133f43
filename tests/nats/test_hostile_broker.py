"""A broker that lies, is slow or floods: the courier's memory, time and secrets stay bounded. This broker is ours."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.courier import nats as transport_module
from agent.courier import natslink
from agent.courier.nats import NatsSettings, NatsTransport
from agent.courier.transport import Cursor, Record
from agent.errors import CourierError
from tests.nats import pki
from tests.nats.bed import ALICE, Receiving

Act = Callable[[socket.socket], None]
INFO = {
    "server_id": "x",
    "version": "2.9.10",
    "headers": True,
    "max_payload": 1 << 20,
    "proto": 1,
    "nonce": "abc",
    "auth_required": True,
}


class Broker:
    """Takes one connection after another; ``subscribed`` is done once the client listens; ``answer`` answers its requests."""

    def __init__(self, subscribed: Act = lambda _link: None, answer: Callable[[str], bytes | None] = lambda _subject: None) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"{{}}://127.0.0.1:{self._listening.getsockname()[1]}"
        self.heard = b""
        self._subscribed, self._answer = subscribed, answer
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError):
                link, _ = self._listening.accept()
                with link:
                    link.settimeout(10)
                    self._serve(link)

    def _serve(self, link: socket.socket) -> None:
        link.sendall(b"INFO " + json.dumps(INFO).encode() + b"\r\n")
        pending = b""
        while not self._over.is_set() and (data := link.recv(65536)):
            self.heard += data
            pending += data
            while b"\r\n" in pending:
                line, _, pending = pending.partition(b"\r\n")
                if line == b"PING":
                    link.sendall(b"PONG\r\n")
                if line.startswith(b"SUB $KV."):
                    self._subscribed(link)
                found = re.match(rb"H?PUB (\S+) (\S+) \d+", line)
                if found and (made := self._answer(found[1].decode())) is not None:
                    link.sendall(b"HMSG %s 2 %s\r\n" % (found[2], made))

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(12)


def message(headers: str, data: bytes = b"") -> bytes:
    """The sizes, then the message, as an HMSG has them."""
    head = f"NATS/1.0{headers}\r\n\r\n".encode()
    return b"%d %d\r\n%s%s" % (len(head), len(head) + len(data), head, data)


@pytest.fixture
def brokers() -> Iterator[list[Broker]]:
    made: list[Broker] = []
    yield made
    for broker in made:
        broker.close()


@pytest.fixture
def settings(tmp_path: Path) -> NatsSettings:
    (tmp_path / "seed").write_text(pki.seed())
    return NatsSettings((), ALICE, credentials=tmp_path / "seed")


def at(broker: Broker, settings: NatsSettings, scheme: str = "nats", **changed: object) -> NatsTransport:
    return NatsTransport(replace(settings, servers=(broker.url.format(scheme),), **changed))  # type: ignore[arg-type]


def ended(transport: NatsTransport, timeout: float = 10) -> tuple[str, list[bytes]]:
    """The code that ended receiving, and what had come."""
    with Receiving(transport) as receiving:
        error = receiving.end(timeout)
    transport.close()
    assert isinstance(error, CourierError), error
    return error.code, receiving.tokens


@pytest.mark.parametrize(
    "sent",
    [
        b"MSG $KV.tidegate.x.1 1 10737418240\r\n",
        b"HMSG $KV.tidegate.x.1 1 12 10737418240\r\n",
        b"MSG " + b"x" * (1 << 20),
        b"x" * (1 << 20),
        b"INFO " + b" " * (1 << 20),
        b"NONSENSE\r\n",
    ],
)
def test_what_announces_too_much_or_is_no_nats_ends_the_connection(
    brokers: list[Broker], settings: NatsSettings, sent: bytes
) -> None:
    def subscribed(link: socket.socket) -> None:
        link.sendall(sent)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                link.sendall(b"y" * 65536)

    brokers.append(Broker(subscribed))
    begun = time.monotonic()
    code, tokens = ended(at(brokers[0], settings))
    assert code in ("courier_protocol", "courier_unreachable")
    assert tokens == []
    assert time.monotonic() - begun < 5


def test_a_broker_without_encryption_learns_nothing_where_it_should_have_some(
    brokers: list[Broker], settings: NatsSettings
) -> None:
    brokers.append(Broker())
    code, _ = ended(at(brokers[0], settings, "tls"))
    assert code == "courier_tls"
    assert b"CONNECT" not in brokers[0].heard
    assert b"nkey" not in brokers[0].heard


def test_a_name_that_is_not_loopback_is_never_spoken_to_unencrypted(settings: NatsSettings) -> None:
    for server in ("nats://192.0.2.1:4222", "nats://broker.example:4222", "ws://127.0.0.1", "127.0.0.1:4222"):
        with pytest.raises(CourierError) as error:
            NatsTransport(replace(settings, servers=(server,))).recording_size("r-1")
        assert error.value.code == "nats_server"


def test_a_broker_that_never_answers_is_given_up(
    brokers: list[Broker], settings: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(natslink, "CALL_S", 0.3)
    brokers.append(Broker())
    code, _ = ended(at(brokers[0], settings))
    assert code == "courier_slow"
    transport = at(brokers[0], settings)
    with pytest.raises(CourierError) as error:
        transport.send([Record("k", "event", 1)])
    assert error.value.code == "courier_slow"
    transport.close()


@pytest.mark.parametrize("index", [b"", b"{}", b"[" * 5000, b'{"stream":"s","last":1,"tokens":[[2,0]]}'])
def test_an_index_that_is_none_is_told_and_opens_nothing(brokers: list[Broker], settings: NatsSettings, index: bytes) -> None:
    brokers.append(Broker(answer=lambda _subject: message("\r\nNats-Sequence: 1", index)))
    assert ended(at(brokers[0], settings)) == ("courier_protocol", [])


def test_an_empty_answer_neither_revokes_nor_moves_anything(brokers: list[Broker], settings: NatsSettings) -> None:
    brokers.append(Broker(answer=lambda _subject: message(" 404 Message Not Found")))
    transport = at(brokers[0], settings)
    with Receiving(transport, Cursor("s", 5)) as receiving:
        time.sleep(0.5)
        assert receiving.error is None
        assert receiving.tokens == []
    transport.close()


@pytest.mark.parametrize(
    "acknowledgement", [b"", b"{}", b"[]", b'{"seq":0}', b'{"seq":true}', b'{"seq":"1"}', b'{"error":{}}', b'{"error":1}']
)
def test_what_is_not_acknowledged_by_its_sequence_is_not_acknowledged(
    brokers: list[Broker], settings: NatsSettings, acknowledgement: bytes
) -> None:
    def answer(subject: str) -> bytes | None:
        return message("", acknowledgement) if subject.startswith("tidegate.records") else None

    brokers.append(Broker(answer=answer))
    transport = at(brokers[0], settings)
    with pytest.raises(CourierError) as error:
        transport.send([Record("k", "event", 1)])
    assert error.value.code in ("courier_protocol", "nats_full")
    transport.close()


def test_a_flood_is_read_no_faster_than_it_may(brokers: list[Broker], settings: NatsSettings) -> None:
    sent = [0]

    def flood(link: socket.socket) -> None:
        junk = b"MSG $KV.tidegate.x.1 1 60000\r\n" + b"z" * 60000 + b"\r\n"
        link.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                link.sendall(junk)
                sent[0] += len(junk)

    brokers.append(Broker(flood))
    transport = at(brokers[0], settings, bytes_per_minute=1 << 20)
    with Receiving(transport) as receiving:
        time.sleep(2)
        assert receiving.tokens == []
        transport.close()  # it waits for an index that never comes
    assert sent[0] < 16 << 20  # a minute's worth, and what the sockets' buffers hold


def test_a_stop_is_seen_while_tokens_come_without_end(brokers: list[Broker], settings: NatsSettings) -> None:
    numbers = iter(range(1, 10**9))

    def answer(subject: str) -> bytes:
        if ".index." in subject:
            tokens = [[next(numbers), 0] for _ in range(500)]
            index = {"stream": f"s{tokens[0][0]}", "last": tokens[-1][0], "tokens": tokens}
            return message("\r\nNats-Sequence: 1", json.dumps(index).encode())
        return message("\r\nNats-Sequence: 1", b"junk")

    brokers.append(Broker(answer=answer))
    transport = at(brokers[0], settings, resync_s=0.001)
    with Receiving(transport) as receiving:
        receiving.wait(1000)
        begun = time.monotonic()
        receiving.stop.set()
        receiving.end(3)
    transport.close()
    assert time.monotonic() - begun < 2


def test_the_window_of_requests_bounds_what_a_catch_up_holds() -> None:
    assert transport_module.WINDOW * natslink.READ_MAX <= 8 << 20
