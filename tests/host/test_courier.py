"""Whatever happens to the courier or to its control plane: no access is extended, none is revoked, and nothing is lost or doubled.

The installed courier on a booted host, and a control plane (tests.courier_peer) at the other end of the host's only cable.
"""

import ipaddress
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.courier.places import host_uri
from tests.courier_certificates import Authority
from tests.courier_peer import Peer
from tests.host.scene import Scene, account, public, ssh
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)
UNIT = "tidegate-courier.service"
FOLDER = "/var/lib/tidegate/courier"
STATUS = "/run/tidegate/courier/status.json"
OUTAGE_S = 6.0


@dataclass
class Way:
    """The host, its courier, and who is at the other end; ``gone`` are control planes that were there before."""

    scene: Scene
    peer: Peer
    gone: list[Peer] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return self.scene.host

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.host.read(STATUS))
        except (OSError, ValueError):
            return {}
        return found

    def connected(self, timeout: float = 90.0) -> None:
        self.host.wait_for(lambda: self.status().get("connected"), timeout, "the courier is connected")

    def down(self) -> None:
        """The control plane is off; what it had stays, as on its disk."""
        self.peer.close()
        self.gone.append(self.peer)

    def up(self, authority: Authority | None = None) -> None:
        """On again, at the same address, with all that it had; or somebody else there."""
        before = self.gone[-1]
        self.peer = Peer(host=str(machine(self.host)), port=before.port, authority=authority or before.authority)
        if authority is None:
            for name in ("stream", "tokens", "records", "seen", "recordings", "complete"):
                setattr(self.peer, name, getattr(before, name))
        self.peer.__enter__()

    def in_vain(self, name: str, authority: Authority | None = None) -> None:
        """Somebody else at that address, for a while."""
        good = self.peer
        self.down()
        self.up(authority)
        time.sleep(OUTAGE_S)
        assert not self.peer.records, name
        self.peer.close()
        self.gone = [good]
        self.up()


def machine(host: Host) -> ipaddress.IPv4Address:
    """This machine's end of the cable (tests.hosts.network)."""
    return ipaddress.IPv4Address(host.address) - 1


@pytest.fixture
def way(fresh_scene: Scene) -> Iterator[Way]:
    host = fresh_scene.host
    with Peer(host=str(machine(host))) as peer:
        found = Way(fresh_scene, peer)
        enrol(found)
        host.run(["systemctl", "start", UNIT])
        found.connected()
        yield found
        found.peer.close()


def enrol(way: Way) -> None:
    """As `tidegate enroll` would: the courier's three files and courier.yaml."""
    way.peer.enrol(Path(way.scene._inside(FOLDER)), host_uri(way.scene.host_id))
    way.host.run(f"chown tidegate-courier:tidegate-courier {FOLDER}/client.* {FOLDER}/ca.pem")
    way.host.write("/etc/tidegate/courier.yaml", f"url: {way.peer.url}\nhost_id: {way.scene.host_id}\n")


def deadlines(scene: Scene) -> dict[str, object]:
    """When each grant that is open will end."""
    return {str(found["jti"]): found["ends"] for found in scene.status()["grants"] if found["state"] == "open"}


def sequences(peer: Peer) -> list[int]:
    return sorted(record["body"]["metadata"]["sequence"] for record in peer.records.values() if record["kind"] == "event")


def test_a_token_pushed_opens_access_and_its_receipt_comes_back(way: Way, ssh_key: Path) -> None:
    scene, peer = way.scene, way.peer
    claims = scene.claims(account("jit-alice"), ssh("jit-alice", public(ssh_key)), lifetime=8)
    peer.push(scene.sign(claims))
    scene.host.wait_for(lambda: scene.host.ssh("jit-alice", ssh_key, "echo in").stdout == "in\n", 6, "the login works")
    receipts = lambda: [record["body"] for record in peer.records.values() if record["kind"] == "receipt"]  # noqa: E731
    peer.wait(receipts, 40)
    (receipt,) = receipts()
    scene.host.write("/root/receipt.jws", str(receipt).strip())
    assert scene.tidegate("receipts", "verify", "/root/receipt.jws").returncode == 0
    answers = [record["body"] for record in peer.records.values() if record["kind"] == "answer"]
    assert [answer["verdict"] for answer in answers] == ["accepted"]
    scene.host.wait_for(lambda: peer.recordings, 10, "the session's recording is carried")
    kept = {path.stem: path.read_bytes() for path in Path(scene._inside("/var/lib/tidegate/sessions")).glob("*.tgr")}
    scene.host.wait_for(lambda: {name: bytes(data) for name, data in peer.recordings.items()} == kept, 20, "byte for byte")
    marks = scene._inside(f"{FOLDER}/shipped")
    scene.host.wait_for(lambda: {path.name for path in marks.iterdir()} == set(kept), 20, "it is marked as carried")


def test_whatever_befalls_courier_and_control_plane_nothing_opens_closes_is_lost_or_doubled(way: Way, ssh_key: Path) -> None:
    scene, host = way.scene, way.host
    key = ssh("jit-alice", public(ssh_key))
    first = scene.sign(scene.claims(account("jit-alice"), key, lifetime=3000))
    way.peer.push(first)
    host.wait_for(lambda: deadlines(scene), 10, "the grant is open")
    stood = deadlines(scene)
    figures: dict[str, float] = {}

    def through(name: str, trouble: Callable[[], None]) -> None:
        """One outage. Meanwhile a grant ends by itself, on its second; afterwards a new one comes through."""
        login = f"jit-n{len(figures)}"
        short = scene.claims(account(login), lifetime=int(OUTAGE_S) - 2)
        scene.drop(scene.sign(short))  # by hand, as on any host
        trouble()
        assert deadlines(scene) == stood, name
        host.wait_for(lambda: host.ssh("jit-alice", ssh_key, "true").returncode == 0, 5, f"{name}: alice's login works")
        host.wait_for(lambda: host.run(f"getent passwd {login}", check=False).stdout == "", 10, "what expired is gone")
        back = time.monotonic()
        after = scene.claims(account(f"{login}-after"), lifetime=600)
        way.peer.push(scene.sign(after))
        host.wait_for(lambda: after["jti"] in deadlines(scene), 90, f"after {name}: a new grant comes through")
        figures[name] = round(time.monotonic() - back, 2)
        assert scene.tidegate("revoke", str(after["jti"])).returncode == 0

    def killed() -> None:
        for _ in range(4):
            host.run(["systemctl", "kill", "--signal=KILL", UNIT])
            time.sleep(OUTAGE_S / 4)

    def cut() -> None:
        host.run(["ip", "link", "set", "host0", "down"])
        time.sleep(OUTAGE_S)
        assert deadlines(scene) == stood
        host.run(["ip", "link", "set", "host0", "up"])

    def off() -> None:
        way.down()
        time.sleep(OUTAGE_S)
        way.up()

    def faulty(fault: str) -> Callable[[], None]:
        def trouble() -> None:
            way.peer.faults = {"*": fault}
            way.peer.hang_up()
            time.sleep(OUTAGE_S)
            way.peer.faults = {}
            way.peer.hang_up()

        return trouble

    def replaying() -> None:
        way.peer.old_tokens = True
        way.peer.hang_up()
        time.sleep(OUTAGE_S)
        way.peer.old_tokens = False

    def forgetful() -> None:
        way.peer.stream, way.peer.tokens = "another", [(1, first)]
        way.peer.hang_up()
        time.sleep(OUTAGE_S)

    through("the courier killed four times", killed)
    through("the network cut", cut)
    through("the control plane down", off)
    for fault in ("flood", "headers", "drip", "hang", "junk", "list", "empty", "deep", "cut", "redirect", "status:503"):
        through(f"it answers with {fault}", faulty(fault))
    through("another's certificate", lambda: way.in_vain("another's certificate", Authority("somebody else")))
    through("it replays all it ever had", replaying)
    through("it has lost its memory", forgetful)
    memory = int(host.run(["systemctl", "show", "--value", "--property=MemoryCurrent", UNIT]).stdout)
    assert memory < 128 << 20
    _all_came_once(way, figures, memory)


def _all_came_once(way: Way, figures: dict[str, float], memory: int) -> None:
    scene, peer = way.scene, way.peer
    scene.host.wait_for(lambda: way.status()["backlog"].get("records", 0) == 0, 60, "all is carried")
    scene.host.wait_for(lambda: sequences(peer)[-1:] == [len(sequences(peer))] or None, 30, "every event has come, in no gap")
    came = sequences(peer)
    assert came == list(range(1, len(came) + 1)), "an event is lost or doubled"
    receipts = [record["body"] for record in peer.records.values() if record["kind"] == "receipt"]
    ended = json.loads(scene.tidegate("receipts", "list", "--json").stdout)["receipts"]
    assert sorted(str(jws).strip() for jws in receipts) == sorted(found["jws"].strip() for found in ended)
    assert way.status()["losses"] == {}, way.status()
    again = len(peer.seen) - len(set(peer.seen))
    print(f"\n{len(figures)} outages of {OUTAGE_S:.0f} s; a new grant open after them, in s: {figures}")
    print(f"{len(peer.records)} records kept, {len(came)} of them events, {len(receipts)} receipts; 0 lost, 0 kept twice")
    print(f"{again} of {len(peer.seen)} were sent again; the courier's memory {memory >> 20} MiB")
