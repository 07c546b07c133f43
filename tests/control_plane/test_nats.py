"""The control plane over NATS, with the real nats-server: whatever is killed when, nothing is lost and nothing comes twice."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import trust
from agent.courier.nats import NatsSettings, NatsTransport
from agent.courier.transport import Cursor, Record
from agent.errors import CourierError
from tests.control_plane.host import TestHost, pem
from tests.control_plane.running import ROOT, prepared
from tests.nats.bed import Receiving
from tests.nats.server import Server

RECORDING = "r-20261122T100000-0123abcd"
MORE = """\
nats: {{servers: ["tls://127.0.0.1:{port}"], accounts_file: {folder}/accounts.conf, pid_file: {folder}/nats.pid}}
caps: {{record_bytes: 20000, recording_bytes: 100000}}
"""


class Fleet:
    """A control plane, its broker, and hosts that are enrolled for NATS."""

    def __init__(self, folder: Path) -> None:
        self.broker = Server(folder / "broker")
        self.broker.folder.mkdir()
        self.plane = prepared(folder, MORE.format(port=self.broker.port, folder=self.broker.folder))
        where = ("--data", str(self.plane.data), "--config", str(self.plane.config))
        words = ("--folder", str(self.broker.folder), "--listen", self.broker.listen, "--name", "127.0.0.1")
        argv = [sys.executable, "-m", "examples.control_plane", "nats", *where, *words]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=30)
        self._transports: list[NatsTransport] = []

    def host(self, name: str) -> TestHost:
        return TestHost(self.plane, name).enrol(labels={"env": "staging"})

    def transport(self, host: TestHost) -> NatsTransport:
        """The courier's own, by the certificate of its enrolment; made once the broker knows the host."""
        folder = self.plane.data.parent / host.name
        folder.mkdir(exist_ok=True)
        (folder / "key").write_text(pem(host.tls_key))
        (folder / "pem").write_text(host.certificate)
        settings = NatsSettings(
            (f"tls://127.0.0.1:{self.broker.port}",),
            host.token,
            ca=self.plane.ca_file,
            certificate=folder / "pem",
            key=folder / "key",
        )
        found: NatsTransport = until(lambda: _connected(settings), what="the broker lets the host in")
        self._transports.append(found)
        return found

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self.plane.kill()
        self.broker.stop()

    def events(self, code: str) -> list[Any]:
        found = self.plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]
        return [one for one in found if one["ocsf"].get("metadata", {}).get("event_code") == code]


def _connected(settings: NatsSettings) -> NatsTransport | None:
    transport = NatsTransport(settings)
    try:
        transport.recording_size("probe")
    except CourierError:
        transport.close()
        return None
    return transport


def until(found: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return value


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all: a test has hosts of its own, and leaves broker and control plane running."""
    found = Fleet(Path(tmp_path_factory.mktemp("fleet")))
    try:
        found.broker.start()
        found.plane.start()
        yield found
    finally:
        found.close()


def grants(host: TestHost, tokens: list[bytes]) -> list[str]:
    return [host.read(token.decode()).jti for token in tokens if trust.claimed_typ(token) == trust.TYP_GRANT]


def as_records(*records: dict[str, Any]) -> list[Record]:
    return [Record(one["key"], one["kind"], one["body"]) for one in records]


def opened(fleet: Fleet, host: TestHost) -> Any:
    return fleet.plane.approve("bob", fleet.plane.ask("alice", [host.name]))


def shown(fleet: Fleet, request: Any) -> Any:
    return fleet.plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")


def test_a_grant_goes_out_and_its_answer_recording_and_receipt_come_in(fleet: Fleet) -> None:
    host = fleet.host("web1")
    transport = fleet.transport(host)
    with Receiving(transport) as receiving:
        request = opened(fleet, host)
        jti = request["grants"][0]["jti"]
        until(lambda: grants(host, receiving.tokens) == [jti], what="the grant came")
        sent = as_records(host.answer(jti), {"key": "e1", "kind": "event", "body": {"severity_id": 1}})
        assert transport.send(sent).acked == {one.key for one in sent}
        until(lambda: shown(fleet, request)["grants"][0]["state"] == "accepted", what="the answer was taken in")
        assert transport.send_recording(RECORDING, 0, b"abc", complete=False) == 3
        assert transport.send_recording(RECORDING, 3, b"def", complete=True) == 6
        until(lambda: host.call("GET", f"/v1/host/recordings/{RECORDING}").body == {"size": 6, "complete": True})
        fleet.plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "done"}, who="alice")
        until(lambda: any(trust.claimed_typ(one) == trust.TYP_EVENT for one in receiving.tokens), what="the revocation came")
        transport.send(as_records(host.receipt(jti, "revoked")))
        until(lambda: shown(fleet, request)["grants"][0].get("cause") == "revoked", what="the receipt was taken in")
    with Receiving(fleet.transport(host)) as fresh:  # one that lost its cursor gets what still counts, and not what was taken back
        until(lambda: any(trust.claimed_typ(one) == trust.TYP_EVENT for one in fresh.tokens))
        until(lambda: fresh.tokens[-1] == receiving.tokens[-1])
        assert grants(host, fresh.tokens) == []


def test_the_broker_may_be_down_and_everything_else_goes_on(fleet: Fleet) -> None:
    host, other = fleet.host("down1"), fleet.host("down2")
    transport = fleet.transport(host)
    downs, ups = len(fleet.events("cp.nats.down")), len(fleet.events("cp.nats.up"))
    fleet.broker.kill()
    until(lambda: len(fleet.events("cp.nats.down")) == downs + 1, what="it is told")
    requests = [opened(fleet, host), opened(fleet, other)]
    assert shown(fleet, requests[0])["state"] == "open"
    jti = requests[1]["grants"][0]["jti"]
    assert jti in _by_https(other)  # who reads the stream has it
    fleet.broker.start()
    with Receiving(fleet.transport(host)) as receiving:
        until(lambda: grants(host, receiving.tokens) == [requests[0]["grants"][0]["jti"]], what="it was made good")
    assert (len(fleet.events("cp.nats.down")), len(fleet.events("cp.nats.up"))) == (downs + 1, ups + 1)
    transport.close()


def _by_https(host: TestHost) -> list[str]:
    words = [one["token"] for one in host.tokens()["tokens"]]
    return [host.read(word).jti for word in words if trust.claimed_typ(word.encode()) == trust.TYP_GRANT]


def test_killed_between_database_and_broker_nothing_is_lost_doubled_or_out_of_order(fleet: Fleet) -> None:
    """Requests are opened while control plane and broker are killed in turn; the host listens, and says answers and a recording."""
    hosts = [fleet.host(f"killed{number}") for number in range(4)]
    got = {host.name: list[int]() for host in hosts}
    tokens: dict[str, list[bytes]] = {host.name: [] for host in hosts}
    stop = threading.Event()

    def listen(host: TestHost) -> None:
        cursor = Cursor()
        while not stop.is_set():
            with contextlib.suppress(CourierError):
                transport = fleet.transport(host)
                for received in transport.receive(cursor, stop):
                    cursor = received.cursor
                    got[host.name].append(received.cursor.last)
                    tokens[host.name].append(received.token)
            time.sleep(0.05)

    threads = [threading.Thread(target=listen, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    wanted = {}
    for number, host in enumerate(hosts):
        request = fleet.plane.ask("alice", [host.name])
        killer = threading.Timer(0.03 * number, fleet.plane.kill if number % 2 else fleet.broker.kill)
        killer.start()
        with contextlib.suppress(OSError, AssertionError):
            fleet.plane.approve("bob", request)
        killer.join()
        if number % 2:
            fleet.plane.start()
        else:
            fleet.broker.start()
        if shown(fleet, request)["state"] != "open":
            fleet.plane.approve("bob", request)
        wanted[host.name] = f"{request['id']}.1"
    try:
        until(lambda: all(wanted[host.name] in grants(host, tokens[host.name]) for host in hosts), what=f"{wanted}")
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    for host in hosts:
        assert grants(host, tokens[host.name]) == [wanted[host.name]]
        assert got[host.name] == sorted(set(got[host.name]))


def test_what_hosts_sent_while_the_control_plane_was_dead_is_taken_in_once(fleet: Fleet) -> None:
    host = fleet.host("dead1")
    transport = fleet.transport(host)
    offset = transport.send_recording(RECORDING, 0, b"a" * 1000, complete=False)
    for number in range(2):
        killer = threading.Timer(0.02 * number, fleet.plane.kill)
        killer.start()
        for each in range(20):
            event: Any = {"severity_id": 1, "metadata": {"uid": f"{number}.{each}", "event_code": "of.host"}}
            transport.send([Record(f"k{number}.{each}", "event", event)])
            offset = transport.send_recording(RECORDING, offset, b"%d" % number * 100, complete=False)
        killer.join()
        fleet.plane.start()
    transport.send_recording(RECORDING, offset, b"", complete=True)
    until(lambda: host.call("GET", f"/v1/host/recordings/{RECORDING}").body == {"size": offset, "complete": True})
    until(lambda: len(fleet.events("of.host")) >= 40)
    uids = [one["ocsf"]["metadata"]["uid"] for one in fleet.events("of.host")]
    assert sorted(uids) == sorted(f"{number}.{each}" for number in range(2) for each in range(20))
    data = (fleet.plane.data / "recordings" / host.token / f"{RECORDING}.tgr").read_bytes()
    assert data == b"a" * 1000 + b"".join(b"%d" % number * 2000 for number in range(2))


def test_one_host_over_its_quota_is_told_and_holds_nobody_up(fleet: Fleet) -> None:
    greedy, good = fleet.host("greedy"), fleet.host("good")
    requests = [opened(fleet, greedy), opened(fleet, good)]
    first, second = fleet.transport(greedy), fleet.transport(good)
    large: Any = {"verdict": "accepted", "jws": greedy.key.sign("grant-answer+jwt", {"jti": "x", "text": "x" * 15000})}
    first.send([Record(f"large{number}", "answer", large) for number in range(4)])
    first.send([Record("bad\n", "answer", {}), Record("none", "answer", {"jws": "forged"})])
    first.send_recording(RECORDING, 0, b"x" * 200_000, complete=True)
    second.send(as_records(good.answer(requests[1]["grants"][0]["jti"])))
    until(lambda: shown(fleet, requests[1])["grants"][0]["state"] == "accepted", what="the other host is heard")
    until(lambda: {"quota_exceeded", "body_invalid", "signature_refused"} <= _codes(fleet), what="it is told")
    assert greedy.call("GET", f"/v1/host/recordings/{RECORDING}").body["size"] == 0


def _codes(fleet: Fleet) -> set[str]:
    return {str(one["ocsf"].get("status_code")) for one in fleet.events("cp.record.refused")}


def test_an_expelled_host_is_cut_off_at_the_broker(fleet: Fleet) -> None:
    host = fleet.host("thief")
    transport = fleet.transport(host)
    with Receiving(transport) as receiving:
        fleet.plane.ok("POST", f"/v1/hosts/{host.token}/expel", {"reason": "stolen"}, who="root")
        assert isinstance(receiving.end(), CourierError)
    with pytest.raises(CourierError) as caught:  # it is shut out of what it asks, or no longer let in at all
        transport.recording_size("probe")
    assert caught.value.code.startswith(("nats_", "courier_denied", "courier_closed")), caught.value
    rights = json.loads((fleet.broker.folder / "accounts.conf").read_text().removeprefix("accounts: "))
    assert f"urn:tidegate:host:{host.token}" not in [one["user"] for one in rights["HOSTS"]["users"]]


def test_a_restored_database_goes_on_above_all_ids_that_were_given(fleet: Fleet) -> None:
    host = fleet.host("restored")
    with Receiving(fleet.transport(host)) as receiving:
        request = opened(fleet, host)
        until(lambda: len(grants(host, receiving.tokens)) == 1)
        before = max(received.cursor.last for received in receiving.got)
        fleet.plane.stop()
        fleet.plane.start("--restored")
        again = fleet.plane.approve("bob", fleet.plane.ask("carol", [host.name]))
        wanted = [request["grants"][0]["jti"], again["grants"][0]["jti"]]
        until(lambda: grants(host, receiving.tokens)[-1] == wanted[1], what="what is opened later comes")
        assert receiving.got[-1].cursor.last > before + 10**12
    assert "restored" not in [one["ocsf"]["entity"]["name"] for one in fleet.events("cp.nats.unpushed")]


def test_the_answer_of_the_enrolment_names_servers_and_bucket(fleet: Fleet) -> None:
    host = TestHost(fleet.plane, "told")
    answer = host.call("POST", "/v1/enroll", host.enrolment(host.invitation()))
    assert answer.body["nats"] == {"servers": [f"tls://127.0.0.1:{fleet.broker.port}"], "bucket": "tidegate"}
