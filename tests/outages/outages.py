"""What may befall a courier and its control plane, one after the other; and what must be so after each, and after all."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.host.scene import Scene, account, public, ssh
from tests.outages.way import UNIT, Way

_FAULTS = ("flood", "headers", "drip", "hang", "junk", "html", "list", "empty", "deep", "cut", "redirect", "hangup")
_OPENS_S, _BACK_S = 10.0, 120.0  # the courier's waits are drawn up to 60 s


@dataclass(frozen=True, slots=True)
class Outage:
    """``trouble`` lasts the seconds that it is given, and leaves all as it was."""

    name: str
    trouble: Callable[[Way, float], None]


@dataclass(frozen=True, slots=True)
class Sum:
    """What came over the whole run. ``back_s``: outage → seconds until a new grant was open after it."""

    back_s: dict[str, float]
    records: int
    events: int
    receipts: int
    sent: int
    sent_again: int
    memory_kib: int

    def lines(self) -> list[str]:
        """For a person."""
        return [
            f"{self.records} records kept, of them {self.events} events in one unbroken row and {self.receipts} receipts",
            "0 lost, 0 kept twice",
            f"{self.sent_again} of {self.sent} were sent again; the courier's memory afterwards: {self.memory_kib} KiB",
        ]


def _killed(way: Way, seconds: float) -> None:
    for _ in range(4):
        way.host.run(["systemctl", "kill", "--signal=KILL", UNIT])
        time.sleep(seconds / 4)


def _cut(way: Way, seconds: float) -> None:
    way.host.run(["ip", "link", "set", "host0", "down"])
    time.sleep(seconds)
    way.host.run(["ip", "link", "set", "host0", "up"])


def _off(way: Way, seconds: float) -> None:
    way.down()
    time.sleep(seconds)
    way.up()


def _faulty(fault: str) -> Callable[[Way, float], None]:
    def trouble(way: Way, seconds: float) -> None:
        way.peer.faults = {"*": fault}
        way.peer.hang_up()
        time.sleep(seconds)
        way.peer.faults = {}
        way.peer.hang_up()

    return trouble


def _impostor(way: Way, seconds: float) -> None:
    assert way.impostor(seconds) == 0, "it was given records"


def _replaying(way: Way, seconds: float) -> None:
    way.peer.old_tokens = True
    way.peer.hang_up()
    time.sleep(seconds)
    way.peer.old_tokens = False


def _forgetful(way: Way, seconds: float) -> None:
    way.peer.stream, way.peer.tokens = f"epoch-{time.time_ns()}", way.peer.tokens[:1]
    way.peer.hang_up()
    time.sleep(seconds)


OUTAGES = (
    Outage("the courier is killed four times", _killed),
    Outage("the network is cut", _cut),
    Outage("the control plane is down", _off),
    *(Outage(f"it answers everything with: {fault}", _faulty(fault)) for fault in (*_FAULTS, "status:503", "status:401")),
    Outage("somebody else's certificate", _impostor),
    Outage("it sends all that it ever sent, over and over", _replaying),
    Outage("it has forgotten all but its first token", _forgetful),
)


def go_through(way: Way, outages: Sequence[Outage], seconds: float, key: Path, say: Callable[[str], None]) -> Sum:
    """Each in turn, beside a grant that stands all the while. Raises AssertionError or HostFailed on the first broken promise."""
    scene, host = way.scene, way.host
    way.peer.push(scene.sign(scene.claims(account("jit-alice"), ssh("jit-alice", public(key)), lifetime=3500)))
    host.wait_for(lambda: open_until(scene), _OPENS_S, "the grant is open")
    stood = open_until(scene)
    back_s: dict[str, float] = {}
    for number, outage in enumerate(outages, 1):
        scene.drop(
            scene.sign(scene.claims(account(f"jit-n{number}"), lifetime=max(3, int(seconds) - 2)))
        )  # by hand, as on any host
        outage.trouble(way, seconds)
        assert open_until(scene) == stood, outage.name
        host.wait_for(lambda: host.ssh("jit-alice", key, "true").returncode == 0, _OPENS_S, f"{outage.name}: alice's login works")
        gone = f"getent passwd jit-n{number}"
        host.wait_for(lambda: not host.run(gone, check=False).stdout, _OPENS_S, f"{outage.name}: what expired meanwhile is gone")  # noqa: B023
        back_s[outage.name] = _new_grant(way, f"jit-m{number}")
        say(f"[{number}/{len(outages)}] ok  a new grant is open {back_s[outage.name]:5.1f} s after: {outage.name}")
    assert open_until(scene) == stood
    return _sum(way, back_s)


def open_until(scene: Scene) -> dict[str, object]:
    """When each grant that is open will end."""
    return {str(found["jti"]): found["ends"] for found in scene.status()["grants"] if found["state"] == "open"}


def _new_grant(way: Way, login: str) -> float:
    """Push one, wait until it is open, and take it back; returns how long it took."""
    began = time.monotonic()
    claims = way.scene.claims(account(login), lifetime=600)
    way.peer.push(way.scene.sign(claims))
    way.host.wait_for(lambda: claims["jti"] in open_until(way.scene), _BACK_S, "a new grant comes through")
    took = time.monotonic() - began
    assert way.scene.tidegate("revoke", str(claims["jti"])).returncode == 0
    return round(took, 2)


def _sum(way: Way, back_s: dict[str, float]) -> Sum:
    """All that the host made is there, once."""

    def listed() -> list[str]:
        found = json.loads(way.scene.tidegate("receipts", "list", "--json").stdout)["receipts"]
        return sorted(each["jws"].strip() for each in found)

    def bodies(kind: str) -> list[object]:
        return [record["body"] for record in list(way.peer.records.values()) if record["kind"] == kind]

    def came() -> list[str]:
        return sorted(str(jws).strip() for jws in bodies("receipt"))

    way.host.wait_for(lambda: not way.scene.status()["grants"][1:], 60, "all but the one has ended")
    way.host.wait_for(lambda: came() == listed(), _BACK_S, "every receipt has come, and once")
    sequences = sorted(event["metadata"]["sequence"] for event in bodies("event") if isinstance(event, dict))
    assert sequences == list(range(1, len(sequences) + 1)), "an event is lost or doubled"
    assert way.status()["losses"] == {}, way.status()
    peer = way.peer
    again = len(peer.seen) - len(set(peer.seen))
    return Sum(back_s, len(peer.records), len(sequences), len(came()), len(peer.seen), again, way.memory_kib())
