"""The scene: a disposable host that is enrolled at a control plane, and the people who ask for access to it."""

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from examples.demo.plane import ISSUER, Person, Plane
from tests.hosts.machine import Host

ALICE, BOB = "jit-alice", "jit-bob"
HOST_NAME = "web1"

POLICY = """\
# The host's own ceiling: what the control plane may grant here, and no more.
rules:
  - name: contractors
    issuers: [{issuer}]
    subjects: [alice]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: false, principals: [alice], actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{allowed}"] }}
    ticket: {{ required: true, pattern: "INC-#" }}
{recording}
  - name: break-glass
    issuers: [{issuer}]
    subjects: [bob]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: false, principals: [bob], actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["/bin/bash"] }}
    root_equivalent: ["/bin/bash"]
{recording}
"""


@dataclass(frozen=True, slots=True)
class Way:
    """How things are started on this kind of host. ``recorded``: whether it has a recorder."""

    daemon: str
    courier: str
    allowed: str
    recorded: bool


WITH_SYSTEMD = Way("systemctl start tidegated", "systemctl start tidegate-courier", "/usr/bin/systemctl restart cron.service", True)
WITHOUT_SYSTEMD = Way(
    "setsid /usr/sbin/tidegated >/var/log/tidegated.log 2>&1 &",
    "install -d -o tidegate-courier /run/tidegate/courier; "
    "setsid setpriv --reuid tidegate-courier --regid tidegate-courier --init-groups /usr/lib/tidegate/tidegate-courier "
    ">/var/log/tidegate-courier.log 2>&1 &",
    "/usr/bin/id -u",
    False,
)


@dataclass(slots=True)
class Scene:
    """A booted host with tidegated and the courier running, its control plane, and the people."""

    host: Host
    way: Way
    plane: Plane
    alice: Person
    bob: Person
    carol: Person

    def key(self, login: str) -> Path:
        """A contractor's private key; the certificate lies beside it."""
        person = self.alice if login == ALICE else self.bob
        return person.home / "access" / "tidegate"

    def refusal(self) -> str:
        """The latest refusal that `tidegate status` shows, for a demo that goes wrong; empty when there is none."""
        found = json.loads(_status(self.host) or '{"refusals": []}')["refusals"]
        return f": {found[0]['code']}, {found[0]['reason']}" if found else ""


def machine_address(host: Host) -> str:
    """This machine's end of the host's only cable (tests.hosts.network)."""
    return str(ipaddress.IPv4Address(host.address) - 1)


def set_up(host: Host, plane: Plane, way: Way) -> Scene:
    """One host, enrolled, and three people."""
    enrolled(host, plane, way, HOST_NAME)
    people = [plane.person(name, role) for name, role in (("alice", "contractor"), ("bob", "on-call"), ("carol", "approver"))]
    return Scene(host, way, plane, *people)


def enrolled(host: Host, plane: Plane, way: Way, name: str) -> None:
    """Write the host's policy, start tidegated, enrol the host, start the courier; returns when that is connected."""
    recording = "    recording: required" if way.recorded else ""
    host.write("/etc/tidegate/policy.d/demo.yaml", POLICY.format(issuer=ISSUER, allowed=way.allowed, recording=recording))
    host.run(way.daemon)
    status = json.loads(host.wait_for(lambda: _status(host), timeout=20, what="tidegated answers"))
    if status["problems"]:
        raise RuntimeError(f"tidegated has problems: {status['problems']}")
    host.run(plane.enrolment(name, host.address))
    host.run(way.courier)
    host.wait_for(lambda: courier(host).get("connected") is True, timeout=30, what="the courier is connected")


def courier(host: Host) -> dict[str, object]:
    """How the host's courier stands, as `tidegate status` has it."""
    return json.loads(_status(host) or "{}").get("courier") or {}


def _status(host: Host) -> str:
    done = host.run("tidegate status --json", check=False)
    return done.stdout if done.returncode == 0 else ""
