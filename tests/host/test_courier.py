"""The courier as a unit of a whole host: enrolled by the command, and kept from everything that is not its own."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import INBOX, ISSUER, OUTBOX, Scene, account, public, set_up, ssh
from tests.hosts.machine import Host

pytestmark = pytest.mark.host
FOLDER = "/srv/peer"
COURIER = "tidegate-courier.service"
ROOT = Path(__file__).resolve().parents[2]
POLICY = f"""\
rules:
  - name: recorded
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit- }}
    ssh: {{ keys: true, actions: [login, exec] }}
    recording: required
"""
PEER_MODULES = ("courier_peer.py", "courier_certificates.py", "__init__.py")


class Plane:
    """The other side, in the host's own network."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.host = scene, scene.host
        self.host.run(["mkdir", "-p", f"{FOLDER}/tests"])
        for name in PEER_MODULES:
            self.host.write(f"{FOLDER}/tests/{name}", (ROOT / "tests" / name).read_bytes())
        self.host.run(
            [
                "systemd-run",
                "--quiet",
                "--unit=peer",
                f"--working-directory={FOLDER}",
                "/usr/bin/python3",
                "-m",
                "tests.courier_peer",
                FOLDER,
            ]
        )
        self.here = Path(f"/proc/{self.host.leader}/root{FOLDER}")
        self.host.wait_for((self.here / "peer.json").exists, what="the control plane serves")
        self.about = json.loads((self.here / "peer.json").read_text())

    def push(self, token: bytes) -> None:
        """To the host."""
        name = secrets.token_hex(8)
        (self.here / "push" / f".{name}").write_bytes(token)
        (self.here / "push" / f".{name}").rename(self.here / "push" / name)

    def state(self) -> dict[str, Any]:
        """What came."""
        found: dict[str, Any] = json.loads((self.here / "state.json").read_text())
        return found

    def receipts(self) -> list[str]:
        """Keys of the receipts that came."""
        return [key for key, record in self.state()["records"].items() if record["kind"] == "receipt"]


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    return set_up(shared_tidegate_host, POLICY)


@pytest.fixture(scope="module")
def plane(scene: Scene) -> Iterator[Plane]:
    """Enrolled, with nobody's keys in trust.d but those that were pinned."""
    found = Plane(scene)
    host = scene.host
    host.write(f"{FOLDER}/signing.jwks", (Path(f"/proc/{host.leader}/root/etc/tidegate/trust.d/cp-1.jwks")).read_text())
    host.run(["rm", "/etc/tidegate/trust.d/cp-1.jwks"])
    host.write(f"{FOLDER}/token", "good\n", mode=0o600)
    words = ["enroll", found.about["url"], "--token-file", f"{FOLDER}/token", "--ca-fingerprint", found.about["ca"], "--json"]
    first = scene.tidegate(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    shown = json.loads(first.stdout)["signing_keys"][0]
    assert not shown["trusted"]
    done = scene.tidegate(*words, "--signing-key", shown["thumbprint"])
    assert done.returncode == 0, done.stdout + done.stderr
    host.run(["systemctl", "start", COURIER])
    host.wait_for(lambda: "connected to" in scene.tidegate("status").stdout, what="connected")
    yield found


def as_courier(scene: Scene, script: str) -> str:
    """What a shell of the courier's account gets, stderr too."""
    done = scene.host.run(["runuser", "--user", "tidegate-courier", "--", "sh", "-c", script], check=False)
    return done.stdout + done.stderr


def test_a_grant_comes_in_a_session_is_followed_live_and_the_receipt_goes_out(scene: Scene, plane: Plane, ssh_key: Path) -> None:
    claims = scene.claims(account(), ssh("jit-alice", public(ssh_key), actions=["login", "exec"]))
    began = time.monotonic()
    plane.push(scene.sign(claims))
    scene.host.wait_for(lambda: any(found["jti"] == claims["jti"] for found in scene.status()["grants"]), what="it is open")
    print(f"pushed to accepted: {(time.monotonic() - began) * 1000:.0f} ms")
    argv = scene.host.ssh_argv("jit-alice", ssh_key)
    with subprocess.Popen([*argv, "echo recorded; sleep 3"], stdout=subprocess.PIPE) as session:
        scene.host.wait_for(lambda: [size for size in plane.state()["recordings"].values() if size > 100], 3, "it is followed live")
        assert not plane.state()["complete"]
        assert session.communicate(timeout=20)[0] == b"recorded\n"
    scene.host.wait_for(lambda: plane.state()["complete"], what="the whole recording")
    (ident,) = plane.state()["complete"]
    assert plane.state()["recordings"][ident] == (scene._inside("/var/lib/tidegate/sessions") / f"{ident}.tgr").stat().st_size
    scene.tidegate("revoke", str(claims["jti"]))
    scene.host.wait_for(plane.receipts, what="the receipt at the control plane")
    scene.host.wait_for(lambda: not list(scene._inside(OUTBOX).glob("*.jws")), what="carried, and gone from the outbox")
    found = plane.state()
    assert len(found["seen"]) == len(set(found["seen"]))
    kinds = {record["kind"] for record in found["records"].values()}
    assert kinds == {"answer", "receipt", "event"}


def test_the_couriers_account_reaches_nothing_but_its_own(scene: Scene, plane: Plane) -> None:
    scene.host.run(["sh", "-c", f"echo x > {INBOX}/.kept.part"])
    denied = {
        "cat /var/lib/tidegate/state.db": "denied",
        "cat /var/lib/tidegate/host.jwk": "denied",
        "ls /var/lib/tidegate/archive /var/lib/tidegate/execs": "denied",
        "touch /var/lib/tidegate/sessions/x": "denied",
        "touch /etc/tidegate/trust.d/x.jwks": "denied",
        "touch /etc/tidegate/courier.yaml": "denied",
        f"rm -f {INBOX}/.kept.part": "not permitted",
        f"mv {INBOX}/.kept.part {INBOX}/y": "not permitted",
        "tidegate revoke --all": "agent_",
        "touch /run/tidegate/keys/x": "denied",
        "touch /var/lib/tidegate/spool/x": "denied",
    }
    for script, word in denied.items():
        said = as_courier(scene, script)
        assert word in said.lower(), (script, said)
    assert (
        as_courier(scene, f"touch {INBOX}/.own.part && rm {INBOX}/.own.part && ls {OUTBOX} >/dev/null && echo fine").strip()
        == "fine"
    )


def test_the_unit_has_no_way_out_of_its_folders(scene: Scene, plane: Plane) -> None:
    shown = scene.host.run(
        ["systemctl", "show", COURIER, "--property=User,NoNewPrivileges,CapabilityBoundingSet,ProtectSystem"]
    ).stdout
    assert "User=tidegate-courier" in shown and "NoNewPrivileges=yes" in shown and "CapabilityBoundingSet=\n" in shown + "\n"
    rated = scene.host.run(["systemd-analyze", "security", "--no-pager", COURIER], check=False).stdout
    level = float(rated.split("Overall exposure level for")[1].split(":")[1].split()[0])
    print(f"systemd-analyze security: {level}")
    assert level < 2.5
    pid = scene.host.run(["systemctl", "show", "--property=MainPID", "--value", COURIER]).stdout.strip()
    print(scene.host.run(["grep", "Pss:", f"/proc/{pid}/smaps_rollup"]).stdout.strip())


def test_it_is_started_again_when_it_is_killed_and_again_when_it_is_changed(scene: Scene, plane: Plane) -> None:
    scene.host.run(["systemctl", "kill", "--signal=KILL", COURIER])
    scene.host.wait_for(lambda: "connected to" in scene.tidegate("status").stdout, what="it is back")
    asked = len(plane.state()["seen"])
    scene.host.run(["systemctl", "reload", COURIER])
    scene.host.run(["sh", "-c", "sleep 1; systemctl is-active " + COURIER])
    scene.host.wait_for(lambda: "connected to" in scene.tidegate("status").stdout, what="it is back")
    assert len(plane.state()["seen"]) >= asked
    scene.host.run(["systemctl", "stop", COURIER])
    assert "not running" in scene.tidegate("status").stdout
