"""A control plane that lies, floods, drips or says nothing costs bounded memory, time and disk, and changes nothing."""

import base64
import contextlib
import resource
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from agent.courier import https, wire
from agent.courier.https import Https
from agent.courier.receiving import Drop, Receiver
from agent.courier.settings import Limits, load_settings
from agent.courier.state import CursorFile
from agent.courier.transport import TOKEN_MAX, Cursor, Received, Record
from agent.courier.waiting import Bell
from agent.errors import CourierError
from tests import courier_peer
from tests.courier_certificates import Authority, write
from tests.courier_peer import FAULTS, Peer
from tests.unit.courier_kit import URI, Ground, ground, wait_for

__all__ = ["ground"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds, sooner."""
    for module, name, value in (
        (https, "SILENT_S", 0.7), (https, "FIRST_S", 0.4), (https, "POLL_S", 1), (https, "_PAUSE_S", 0.2), (wire, "ANSWER_S", 0.4),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    for method in (wire.Channel.ask, wire.Channel.begin):
        monkeypatch.setattr(method, "__kwdefaults__", {**(method.__kwdefaults__ or {}), "seconds": 0.4})


@pytest.fixture
def peer(ground: Ground) -> Iterator[Peer]:
    with Peer() as found:
        found.enrol(ground.places.folder, URI)
        ground.configure(f"url: {found.url}\n")
        yield found


def transport(ground: Ground) -> Https:
    return Https(load_settings(ground.places.settings), ground.places, lambda _: None)


BEGINNING = Cursor()


def received(made: Https, cursor: Cursor = BEGINNING, count: int = 1, seconds: float = 5.0) -> list[Received]:
    """So many tokens, or as many as come until then."""
    stop, found = threading.Event(), list[Received]()

    def end() -> None:
        stop.set()
        made.close()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        with contextlib.closing(made.receive(cursor, stop)) as tokens:  # type: ignore[type-var]  # a generator
            for token in tokens:
                found.append(token)
                if len(found) == count:
                    break
    except CourierError as error:
        if error.code != "courier_stopped" and not stop.is_set():
            raise
    finally:
        timer.cancel()
        made.close()
    return found


# Whatever the answer is


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_wrong_answer_is_an_error_within_seconds_and_bounded_in_memory(
    ground: Ground, peer: Peer, fault: str
) -> None:
    peer.faults["*"] = fault
    made = transport(ground)
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(CourierError):
            made.send([Record("k", "event", {"a": 1})])
        with pytest.raises(CourierError):
            received(made)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        made.close()
    assert time.monotonic() - began < 8
    assert most < 16 << 20
    assert not ground.inbox()


def comments(_fault: str) -> Iterator[bytes | None]:
    yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    yield from iter(lambda: (b": " + b"x" * 998 + b"\n") * 64, b"")


def test_a_flood_of_gigabytes_costs_the_pace_and_no_more(ground: Ground, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of comments without an end: a second of it costs a minute's bytes, and memory stays flat."""
    monkeypatch.setattr(courier_peer, "_pieces", comments)
    peer.faults["stream"] = "flood"
    ground.configure(f"url: {peer.url}\nlimits: {{bytes_per_minute: 1048576}}\n")
    made = transport(ground)
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_utime
    assert received(made, seconds=1.0) == []
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_utime - before < 0.5
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20


def test_no_connection_brings_more_than_its_bound(ground: Ground, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "CONNECTION_MAX", 1 << 20)
    monkeypatch.setattr(courier_peer, "_pieces", comments)
    peer.faults["stream"] = "flood"
    with pytest.raises(CourierError, match="courier_flood"):
        received(transport(ground))


def test_a_stream_without_heartbeats_is_given_up(ground: Ground, peer: Peer) -> None:
    peer.heartbeat_s = 60.0
    made = transport(ground)
    began = time.monotonic()
    with pytest.raises(CourierError, match="courier_slow"):
        received(made)
    assert 0.6 < time.monotonic() - began < 4


def test_a_byte_a_second_without_a_line_is_silence(ground: Ground, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(_fault: str) -> Iterator[bytes | None]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hi\n"
        while True:
            yield b"x"
            yield None

    monkeypatch.setattr(courier_peer, "_pieces", drip)
    peer.faults["stream"] = "drip"
    began = time.monotonic()
    with pytest.raises(CourierError, match="courier_slow"):
        received(transport(ground))
    assert time.monotonic() - began < 4


# Old, empty and lying


def test_old_tokens_are_not_taken_again(ground: Ground, peer: Peer) -> None:
    for number in range(5):
        peer.push(b"token %d" % number)
    peer.old_tokens = True
    found = received(transport(ground), Cursor("epoch-1", 3), count=3, seconds=0.5)
    assert [token.cursor.last for token in found] == [4, 5]


def test_an_empty_list_and_an_empty_token_are_nothing(ground: Ground, peer: Peer) -> None:
    peer.faults["stream"] = "status:404"
    began = time.monotonic()
    assert received(transport(ground), Cursor("epoch-1", 3), seconds=0.8) == []
    assert len(peer.asked("/v1/host/tokens")) < 6, "an answer that comes at once makes no loop"
    assert time.monotonic() - began < 5


def test_a_stream_that_has_another_name_each_time_is_given_up(ground: Ground, peer: Peer) -> None:
    peer.faults["stream"] = "status:404"
    stop = threading.Event()

    def rename() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            peer.stream = f"epoch-{number}"
            time.sleep(0.001)

    thread = threading.Thread(target=rename)
    thread.start()
    try:
        with pytest.raises(CourierError, match="courier_protocol"):
            received(transport(ground), Cursor("epoch-0", 9))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("fault", ["status:404", "status:405", "status:406", "status:501", "html", "hang"])
def test_where_no_stream_comes_through_long_polls_bring_the_tokens(ground: Ground, peer: Peer, fault: str) -> None:
    peer.faults["stream"] = fault
    for number in range(150):
        peer.push(b"token %d" % number)
    found = received(transport(ground), Cursor("epoch-1", 10), count=140)
    assert [token.cursor.last for token in found] == list(range(11, 151))


def test_a_stream_of_which_nothing_comes_is_polled_instead(ground: Ground, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a proxy that keeps a response until it is whole."""

    def buffered(_fault: str) -> Iterator[bytes | None]:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        yield from iter(lambda: None, 1)

    monkeypatch.setattr(courier_peer, "_pieces", buffered)
    peer.faults["stream"] = "hang"
    peer.push(b"a")
    assert [token.token for token in received(transport(ground))] == [b"a"]


def test_the_stream_is_tried_again_and_goes_on_where_the_polls_came_to(
    ground: Ground, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "STREAM_AGAIN_S", 0.5)
    peer.faults["stream"] = "status:404"
    made, stop = transport(ground), threading.Event()
    peer.push(b"a")
    tokens = made.receive(Cursor(), stop)
    assert next(tokens).token == b"a"
    peer.faults.clear()
    before = len(peer.asked("/v1/host/stream"))
    timer = threading.Timer(1.0, peer.push, (b"b",))
    timer.start()
    assert next(tokens).token == b"b"
    timer.join()
    assert [headers["Last-Event-ID"] for headers in peer.asked("/v1/host/stream")[before:]] == ["1"]
    stop.set()
    made.close()


def test_a_polled_token_that_is_too_long_comes_cut_and_too_long(ground: Ground, peer: Peer) -> None:
    peer.faults["stream"] = "status:404"
    peer.push(b"x" * 200_000)
    (found,) = received(transport(ground))
    assert len(found.token) == TOKEN_MAX + 1


# Certificates


@pytest.mark.parametrize("wrong", ["another CA", "another name", "expired", "a client's"])
def test_a_wrong_server_certificate_is_refused_before_anything_is_said(ground: Ground, wrong: str) -> None:
    authority = Authority()
    pair = {
        "another CA": lambda: Authority().server(),
        "another name": lambda: authority.server("other.example"),
        "expired": lambda: authority.server(began_s=7200.0, ends_s=-3600.0),
        "a client's": lambda: authority.client(URI),
    }[wrong]()
    with Peer(authority=authority, pair=pair) as peer:
        write(ground.places.folder, authority, authority.client(URI))
        ground.configure(f"url: {peer.url}\n")
        with pytest.raises(CourierError) as caught:
            transport(ground).send([Record("k", "event", {})])
        assert caught.value.code == "courier_server_untrusted"
        assert not peer.requests


def test_an_old_tls_is_refused(ground: Ground) -> None:
    assert wire.client_context().minimum_version.name == "TLSv1_2"
    assert wire.client_context().check_hostname


# The inbox


def test_a_disk_that_takes_nothing_moves_no_cursor_and_the_token_comes_again(
    ground: Ground, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.push(b"a")
    broken = True

    class Full(Drop):
        def put(self, ident: int, token: bytes) -> str:
            if broken:
                raise OSError(28, "No space left on device")
            return super().put(ident, token)

    stop, made = threading.Event(), transport(ground)
    cursor = CursorFile(ground.places.folder / "cursor.json")
    status = ground.status()
    drop = Full(ground.places.inbox, Limits())
    receiver = Receiver(made, drop, cursor, status, Limits(), stop, Bell())
    thread = threading.Thread(target=receiver.run)
    thread.start()
    try:
        wait_for(lambda: status.write(force=True) == 0 and "inbox_unwritable" in str(ground.said()))
        assert cursor.read() == Cursor()
        broken = False
        wait_for(lambda: cursor.read() == Cursor("epoch-1", 1))
        assert ground.inbox() == [b"a"]
    finally:
        stop.set()
        made.close()
        thread.join(5)


def test_tokens_come_no_faster_than_their_pace(ground: Ground, peer: Peer) -> None:
    for number in range(60):
        peer.push(b"token %d" % number)
    stop, made = threading.Event(), transport(ground)
    limits = Limits(tokens_per_minute=20)
    cursor = CursorFile(ground.places.folder / "cursor.json")
    receiver = Receiver(made, Drop(ground.places.inbox, limits), cursor, ground.status(), limits, stop, Bell())
    thread = threading.Thread(target=receiver.run)
    thread.start()
    wait_for(lambda: len(ground.inbox()) >= 20)
    time.sleep(0.5)
    assert len(ground.inbox()) <= 22
    stop.set()
    made.close()
    thread.join(5)
    assert not thread.is_alive()


# Proxies


class HttpProxy:
    """CONNECT, and what it was asked; ``says`` is sent instead, over and over, when it is set."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.says = b""
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                threading.Thread(target=self._one, args=(client,), daemon=True).start()

    def _one(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.asked.append(head)
            while self.says:
                client.sendall(self.says)
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join(5)

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[HttpProxy]:
    found = HttpProxy()
    yield found
    found.close()


def test_it_goes_through_the_proxy_with_its_password_and_tls_is_the_control_planes_own(
    ground: Ground, peer: Peer, proxy: HttpProxy
) -> None:
    ground.configure(f"url: {peer.url}\nproxy: 'http://me:secret@127.0.0.1:{proxy.port}'\n")
    peer.push(b"a")
    assert [token.token for token in received(transport(ground))] == [b"a"]
    head = proxy.asked[0].decode()
    assert head.startswith(f"CONNECT 127.0.0.1:{peer.port} ")
    assert base64.b64encode(b"me:secret").decode() in head


@pytest.mark.parametrize("says", [b"HTTP/1.1 407 No\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 60_000 + b"\r\n", b"\xff\xff"])
def test_a_proxy_that_misbehaves_is_bounded_too(ground: Ground, peer: Peer, proxy: HttpProxy, says: bytes) -> None:
    proxy.says = says
    ground.configure(f"url: {peer.url}\nproxy: http://127.0.0.1:{proxy.port}\n")
    began = time.monotonic()
    with pytest.raises(CourierError):
        transport(ground).send([Record("k", "event", {})])
    assert time.monotonic() - began < 5
    proxy.says = b""


def test_stopping_ends_whatever_blocks(ground: Ground, peer: Peer) -> None:
    made, stop, ended = transport(ground), threading.Event(), threading.Event()

    def work() -> None:
        with contextlib.suppress(CourierError):
            list(made.receive(Cursor(), stop))
        ended.set()

    threading.Thread(target=work, daemon=True).start()
    wait_for(lambda: peer.asked("/v1/host/stream"))
    stop.set()
    made.close()
    assert ended.wait(1.0)
