"""With its own credentials a host does its own work and nothing else: tried on the real server, by a client that is no courier."""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import nats.errors
import pytest
from nats.aio.client import Client

from agent.courier.nats import NatsTransport
from agent.courier.natssettings import NatsSettings
from agent.courier.natswire import Subjects
from agent.courier.transport import Record
from agent.errors import CourierError
from examples.control_plane.nats import Fleet
from examples.control_plane.nats_config import Tls, by_certificate, server_config
from tests.nats import pki
from tests.nats.bed import ALICE, BOB, Bed, Receiving, bed, token_of
from tests.nats.server import Server
from tests.nats.test_transport import taken_in

CONTROL = token_of("control")
GET = "$JS.API.DIRECT.GET"


@pytest.fixture(scope="module")
def shared(nats_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """One broker for all that is to be refused."""
    with bed(tmp_path_factory.mktemp("nats")) as made:
        made.push(1)
        made.push(1, token=BOB)
        yield made


def as_bob(broker: Bed, work: Callable[[Client], Awaitable[None]]) -> list[str]:
    """Run with Bob's credentials; what the server complained of."""
    errors: list[str] = []

    async def run() -> None:
        async with broker.host(BOB, errors) as client:
            await work(client)
            await client.flush()

    asyncio.run(asyncio.wait_for(run(), 20))
    return errors


@pytest.mark.parametrize(
    "subject",
    [
        f"$KV.tidegate.{ALICE}.9",
        f"$KV.tidegate.{BOB}.9",  # not even its own tokens
        f"$KV.tidegate.index.{ALICE}",
        f"$KV.tidegate.index.{BOB}",
        f"$KV.tidegate.{ALICE}.index.stored",
        f"tidegate.records.{ALICE}",
        f"tidegate.recordings.{ALICE}.r-1",
        f"{GET}.KV_tidegate",  # by content: that would be anybody's
        f"{GET}.KV_tidegate.$KV.tidegate.{ALICE}.1",
        f"{GET}.KV_tidegate.$KV.tidegate.index.{ALICE}",
        f"{GET}.KV_tidegate.$KV.tidegate.>",
        f"{GET}.KV_tidegate.$KV.tidegate.*.1",
        f"{GET}.TIDEGATE_RECORDS.tidegate.records.{BOB}",
        f"{GET}.TIDEGATE_RECORDINGS.tidegate.recordings.{ALICE}.r-1",
        "$JS.API.INFO",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.INFO.KV_tidegate",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.KV_tidegate",
        "$JS.API.STREAM.DELETE.KV_tidegate",
        "$JS.API.STREAM.PURGE.KV_tidegate",
        "$JS.API.STREAM.MSG.GET.KV_tidegate",
        "$JS.API.STREAM.MSG.DELETE.KV_tidegate",
        "$JS.API.CONSUMER.CREATE.KV_tidegate",
        f"$JS.API.CONSUMER.CREATE.KV_tidegate.mine.$KV.tidegate.{BOB}.*",
        "$JS.API.CONSUMER.MSG.NEXT.TIDEGATE_RECORDS.control-plane",
        "$JS.ACK.TIDEGATE_RECORDS.control-plane.1.1.1.1.0",
        "$SYS.REQ.SERVER.PING",
        f"_INBOX.{ALICE}.x",
    ],
)
def test_a_host_publishes_to_nothing_else(shared: Bed, subject: str) -> None:

    async def work(client: Client) -> None:
        with pytest.raises((TimeoutError, nats.errors.Error)):
            found = await client.request(subject, b"", timeout=0.1)
            pytest.fail(f"an answer: {found.headers} {found.data!r}")

    assert any("permissions violation for publish" in error for error in as_bob(shared, work))


@pytest.mark.parametrize(
    "subject",
    [">", "*", "$KV.tidegate.>",
     f"$KV.tidegate.{ALICE}.*", f"$KV.tidegate.{ALICE}.>", f"$KV.tidegate.index.{ALICE}", f"_INBOX.{ALICE}.>", "_INBOX.>", "_R_.>",
     "tidegate.>", "$JS.>", "$SYS.>"],
)  # fmt: skip
def test_a_host_hears_nothing_else(shared: Bed, subject: str) -> None:
    alice = shared.transport()

    async def work(client: Client) -> None:
        subscription = await client.subscribe(subject)
        await client.flush()

        async def push(fleet: Fleet, _client: Client) -> None:
            await fleet.push(ALICE, time.time_ns(), b"for alice")

        await asyncio.to_thread(shared.do, push)
        await asyncio.to_thread(alice.send, [Record("k", "event", 1)])
        with pytest.raises(nats.errors.TimeoutError):
            await subscription.next_msg(timeout=0.1)

    assert any("permissions violation for subscription" in error for error in as_bob(shared, work))


def test_answers_that_are_led_elsewhere_write_nothing_there(broker: Bed) -> None:
    """The server publishes an answer wherever the asker says. None of that may reach the streams in another's name."""
    broker.push(1)
    own = Subjects(BOB)
    piece = b'{"key":"forged","kind":"event","body":1}\n'
    targets = [
        f"$KV.tidegate.{ALICE}.1",
        f"$KV.tidegate.{ALICE}.2",
        f"$KV.tidegate.index.{ALICE}",
        f"tidegate.records.{ALICE}",
        f"tidegate.recordings.{ALICE}.r-1",
        "$JS.API.STREAM.PURGE.KV_tidegate",
        "$JS.API.STREAM.DELETE.KV_tidegate",
    ]

    async def work(client: Client) -> None:
        headers = {"Nats-Msg-Id": "p", "Tidegate-Offset": "0", "Tidegate-Stream": "x", "Tidegate-Previous": "0"}
        await client.request(own.recording("r-1"), piece, headers=headers, timeout=2)
        for target in targets:
            await client.publish(own.get_recording("r-1"), b"", reply=target)
            await client.publish(own.get_index, b"", reply=target)
            await client.publish(own.records, piece, reply=target)
        await client.flush()
        await asyncio.sleep(0.3)

    with Receiving(transport := broker.transport()) as alice:
        alice.wait(1)
        as_bob(broker, work)
        broker.push(2)
        assert alice.wait(2) == [b"token 1", b"token 2"]  # and nothing that Bob led there
    assert transport.foreign >= 1

    async def look(_fleet: Fleet, client: Client) -> dict[str, int]:
        found: dict[str, int] = {}
        for stream in ("KV_tidegate", "TIDEGATE_RECORDS", "TIDEGATE_RECORDINGS"):
            answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", json.dumps({"subjects_filter": ">"}).encode(), timeout=2)
            found |= json.loads(answer.data)["state"].get("subjects") or {}
        return found

    kept = broker.do(look)
    assert {subject: count for subject, count in kept.items() if ALICE in subject} == {
        f"$KV.tidegate.{ALICE}.1": 1,
        f"$KV.tidegate.{ALICE}.2": 1,
        f"$KV.tidegate.index.{ALICE}": 1,
    }
    records, _, _ = taken_in(broker, 1)
    assert {record.host for record in records} <= {BOB}


def test_nobody_can_use_up_anothers_message_ids(broker: Bed) -> None:
    """JetStream drops what has an id it saw, whoever sent it: the ids must differ from host to host and not be guessable."""
    one, two = broker.transport(ALICE), broker.transport(BOB)
    records = [Record("k", "event", 1)]
    assert two.send(records).acked == one.send(records).acked == {"k"}
    two.send_recording("r-1", 0, b"same", complete=True)
    one.send_recording("r-1", 0, b"same", complete=True)
    found, pieces, _ = taken_in(broker, 4)
    assert sorted(record.host for record in found) == sorted(piece.host for piece in pieces) == sorted([ALICE, BOB])


def test_another_hosts_token_with_ones_own_credentials_gets_nowhere(broker: Bed) -> None:
    broker.push(1)
    transport = NatsTransport(NatsSettings((broker.url,), ALICE, credentials=broker.seeds[BOB]))
    try:
        with Receiving(transport) as receiving:
            error = receiving.end()
        assert isinstance(error, CourierError)
        assert error.code == "nats_forbidden"
        assert receiving.tokens == []
    finally:
        transport.close()


def test_wrong_credentials_are_refused_by_name(broker: Bed, tmp_path: Path) -> None:
    (tmp_path / "other.nk").write_text(pki.seed())
    for credentials in (tmp_path / "other.nk", None):
        with pytest.raises(CourierError) as error:
            NatsTransport(NatsSettings((broker.url,), ALICE, credentials=credentials)).recording_size("r-1")
        assert error.value.code == "courier_denied"


class Encrypted:
    """A server that wants certificates, and the hosts' own."""

    def __init__(self, folder: Path) -> None:
        self.authority = pki.Authority(folder / "pki")
        self.server = Server(folder)
        own = self.authority.server()
        tls = Tls(own.certificate, own.key, self.authority.ca)
        hosts = [(token, by_certificate(token)) for token in (ALICE, BOB)]
        self.server.configure(
            server_config(by_certificate(CONTROL), hosts, store=self.server.store, listen=self.server.listen, tls=tls)
        )

    async def prepare(self) -> None:
        """The control plane's turn, with its own certificate."""
        pair, context = self.authority.host(CONTROL), ssl.create_default_context(cafile=str(self.authority.ca))
        context.load_cert_chain(pair.certificate, pair.key)
        client = Client()
        await client.connect(f"tls://{self.server.listen}", tls=context, allow_reconnect=False)
        fleet = Fleet(client)
        await fleet.prepare()
        await fleet.push(ALICE, 1, b"token 1")
        await client.close()

    def transport(self, name: str, **changed: object) -> NatsTransport:
        pair = self.authority.host(name)
        files = {"ca": self.authority.ca, "certificate": pair.certificate, "key": pair.key}
        settings: dict[str, object] = {"servers": (f"tls://{self.server.listen}",), "token": name, **files, **changed}
        return NatsTransport(NatsSettings(**settings))  # type: ignore[arg-type]

    def code(self, name: str, **changed: object) -> str:
        with pytest.raises(CourierError) as error:
            self.transport(name, **changed).recording_size("r-1")
        return error.value.code


@pytest.fixture
def encrypted(nats_binary: Path, tmp_path: Path) -> Iterator[Encrypted]:
    made = Encrypted(tmp_path)
    try:
        made.server.start()
        asyncio.run(asyncio.wait_for(made.prepare(), 20))
        yield made
    finally:
        made.server.stop()


def test_the_certificate_of_the_enrolment_is_the_login(encrypted: Encrypted) -> None:
    transport = encrypted.transport(ALICE)
    with Receiving(transport) as receiving:
        assert receiving.wait(1) == [b"token 1"]
    transport.close()
    assert encrypted.code(token_of("urn:tidegate:stranger")) == "courier_denied"
    assert encrypted.code(ALICE, token=BOB) == "nats_forbidden"


def test_a_server_or_a_client_of_another_ca_gets_no_connection(encrypted: Encrypted) -> None:
    other = pki.Authority(encrypted.server.folder / "other", "another CA")
    pair = other.host(ALICE)
    assert encrypted.code(ALICE, ca=other.ca) == "courier_tls"
    assert encrypted.code(ALICE, certificate=pair.certificate, key=pair.key) in ("courier_tls", "courier_unreachable")
    assert encrypted.code(ALICE, certificate=None, key=None) in ("courier_tls", "courier_unreachable")
    assert encrypted.code(ALICE, servers=(f"nats://{encrypted.server.listen}",)) in ("courier_tls", "courier_unreachable")
