"""The installed courier on a booted host: tokens in, receipts and recordings out, whatever befalls it meanwhile.

`make outages` goes through all of them; here are three.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.courier_peer import Peer
from tests.host.scene import Scene, account, public, ssh
from tests.outages.outages import OUTAGES, go_through
from tests.outages.way import FOLDER, Way, machine

pytestmark = pytest.mark.host(beside=True)
SAMPLE = ("the courier is killed four times", "the network is cut", "somebody else's certificate")


@pytest.fixture
def way(fresh_scene: Scene) -> Iterator[Way]:
    with Peer(host=machine(fresh_scene.host)) as peer:
        found = Way(fresh_scene, peer)
        found.begin()
        yield found
        found.peer.close()


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
    chosen = [each for each in OUTAGES if each.name in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    found = go_through(way, chosen, 4.0, ssh_key, print)
    assert found.events > 20 and found.receipts == 2 * len(chosen) and found.memory_kib < 64 * 1024
    print("\n".join(found.lines()))
