"""A host with its courier, and a control plane at the other end of its only cable, which can be cut, lost or replaced."""

import ipaddress
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.courier.places import host_uri
from tests.courier_certificates import Authority
from tests.courier_peer import Peer
from tests.host.scene import Scene
from tests.hosts.machine import Host

UNIT = "tidegate-courier.service"
FOLDER = "/var/lib/tidegate/courier"
STATUS = "/run/tidegate/courier/status.json"


@dataclass
class Way:
    """``peer``: who is there now; ``_before``: the control plane that was there before, with all it had."""

    scene: Scene
    peer: Peer
    _before: list[Peer] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return self.scene.host

    def begin(self) -> None:
        """Enrol the host, as `tidegate enroll` would, and start the courier."""
        self.peer.enrol(Path(self.scene._inside(FOLDER)), host_uri(self.scene.host_id))
        self.host.run(f"chown tidegate-courier:tidegate-courier {FOLDER}/client.* {FOLDER}/ca.pem")
        self.host.write("/etc/tidegate/courier.yaml", f"url: {self.peer.url}\nhost_id: {self.scene.host_id}\n")
        self.host.run(["systemctl", "start", UNIT])
        self.host.wait_for(lambda: self.status().get("connected"), 30, "the courier is connected")

    def status(self) -> dict[str, Any]:
        """What the courier says of itself; empty while it says nothing."""
        try:
            found: dict[str, Any] = json.loads(self.host.read(STATUS))
        except (OSError, ValueError):
            return {}
        return found

    def memory_kib(self) -> int:
        """The courier's proportional share (PSS)."""
        pid = self.host.run(["systemctl", "show", "--value", "--property=MainPID", UNIT]).stdout.strip()
        return int(self.host.run(f"awk '/^Pss:/ {{ print $2 }}' /proc/{pid}/smaps_rollup").stdout)

    def down(self) -> None:
        """The control plane is off; what it had stays, as on its disk."""
        self.peer.close()
        self._before = [self.peer]

    def up(self) -> None:
        """On again, at the same address, with all that it had."""
        (before,) = self._before
        self._serve(before.authority)
        for name in ("stream", "tokens", "records", "seen", "recordings", "complete"):
            setattr(self.peer, name, getattr(before, name))

    def impostor(self, seconds: float) -> int:
        """Somebody else at that address, for a while; returns how many records it got."""
        self.down()
        self._serve(Authority("somebody else"))
        time.sleep(seconds)
        self.peer.close()
        got = len(self.peer.records)
        self.up()
        return got

    def _serve(self, authority: Authority) -> None:
        self.peer = Peer(host=machine(self.host), port=self._before[0].port, authority=authority)
        self.peer.__enter__()


def machine(host: Host) -> str:
    """This machine's end of the host's cable (tests.hosts.network)."""
    return str(ipaddress.IPv4Address(host.address) - 1)
