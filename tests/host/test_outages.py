"""Whatever befalls the courier and its control plane: `make outages` goes through all of it, here are three."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.courier_peer import Peer
from tests.host.scene import Scene
from tests.outages.outages import OUTAGES, go_through
from tests.outages.way import Way, machine

pytestmark = pytest.mark.host(beside=True)
SAMPLE = ("the courier is killed four times", "the network is cut", "somebody else's certificate")


@pytest.fixture
def way(fresh_scene: Scene) -> Iterator[Way]:
    with Peer(host=machine(fresh_scene.host)) as peer:
        found = Way(fresh_scene, peer)
        found.begin()
        yield found
        found.peer.close()


def test_whatever_befalls_courier_and_control_plane_nothing_opens_closes_is_lost_or_doubled(way: Way, ssh_key: Path) -> None:
    chosen = [each for each in OUTAGES if each.name in SAMPLE]
    assert len(chosen) == len(SAMPLE)
    found = go_through(way, chosen, 4.0, ssh_key, print)
    assert found.events > 20 and found.receipts == 2 * len(chosen) and found.memory_kib < 64 * 1024
    print("\n".join(found.lines()))
