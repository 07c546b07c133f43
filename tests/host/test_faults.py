"""Whatever is wrong with the host at the deadline: doors shut, nobody goes on, and the rest follows once it is mended."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.faults import FAULTS, room_for_state
from tests.host.scene import ISSUER, Scene, account, changes, group, set_up, ssh, sudo
from tests.hosts.errors import HostFailed
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host
ALICE = "jit-alice"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], existing: [deploy] }}
    groups: [games]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: [/usr/bin/id] }}
"""
# Faults under which not all of the end can be done: it is told in `tidegate status` until it is.
KEEPS_OPEN = {
    "userdb": {"/run/tidegate is read-only", "/home is read-only"},
    "passwd": {"/run/tidegate is read-only", "/home is read-only", "/etc is read-only", "the quota of /etc is used up"},
}


# The second account backend, and what of all this may be another matter there.
CASES = [("passwd", fault) for fault in FAULTS] + [
    ("userdb", fault) for fault in FAULTS if fault.startswith(("/run", "no memory", "another"))
]


@pytest.fixture(scope="module")
def backend(request: pytest.FixtureRequest) -> str:
    """Where accounts are kept."""
    return str(request.param)


@pytest.fixture(scope="module")
def scene(backend: str) -> Iterator[Scene]:
    """A host with that account backend and a small disk for Tidegate's state."""

    def prepare(root: Path) -> None:
        install_tidegate(root)
        (root / "etc/tidegate/conf.d/50-backend.yaml").write_text(f"account_backend: {backend}\n")

    with Host.boot(prepare=prepare) as host:
        scene = Scene(host)
        host.run("useradd -m -s /bin/bash deploy")
        room_for_state(scene)
        yield set_up(host, POLICY)


@pytest.fixture
def clean(scene: Scene) -> Iterator[Scene]:
    """Nothing stands here of a test that failed."""
    yield scene
    scene.tidegate("revoke", "--all", timeout=60)


@pytest.mark.parametrize(("backend", "fault"), CASES, indirect=["backend"])
def test_the_doors_shut_at_the_deadline_and_the_rest_follows(clean: Scene, ssh_key: Path, backend: str, fault: str) -> None:
    scene, host = clean, clean.host
    before = scene.state()
    key = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    claims = scene.claims(
        account(groups=["games"]), ssh(ALICE, key), sudo(ALICE, "/usr/bin/id"), group("deploy", "games"), lifetime=7
    )
    name = scene.drop(scene.sign(claims))
    assert scene.answer_for(name)["verdict"] == "accepted"
    left = host.ssh(ALICE, ssh_key, "sudo -n /usr/bin/id; setsid nohup sleep 600 >/dev/null 2>&1 & sleep 0.1; id -u")
    root_id, uid = left.stdout.splitlines()
    assert root_id.startswith("uid=0(root)")
    assert host.run(["pgrep", "-u", uid, "sleep"]).stdout
    assert time.time() < claims["exp"] - 1, "too slow for this test to mean anything"
    with FAULTS[fault](scene):
        time.sleep(max(0.0, claims["exp"] + 0.02 - time.time()))
        assert host.ssh(ALICE, ssh_key, "true").returncode == 255
        assert host.run(["runuser", "-u", ALICE, "--", "sudo", "-n", "/usr/bin/id"], check=False).returncode != 0
        host.wait_for(lambda: _nobody_of(host, uid), what=f"no process of {uid} is left")
        if fault in KEEPS_OPEN[backend]:
            host.wait_for(lambda: _told(scene, claims["jti"]), what="status tells what is left")
    host.wait_for(lambda: not _grants(scene, claims["jti"]), timeout=75, what="the rest follows")
    assert _receipt(scene, claims["jti"])["cause"] == "expired"
    with contextlib.suppress(HostFailed):  # told below, by what differs
        host.wait_for(lambda: not changes(before, scene.state()), what="everything is as it was before")
    assert changes(before, scene.state()) == []
    host.wait_for(lambda: not scene.status()["problems"], timeout=75, what="no problem is left")


def _nobody_of(host: Host, uid: str) -> bool:
    return all(host.run(["pgrep", by, uid], check=False).returncode == 1 for by in ("-u", "-U"))


def _grants(scene: Scene, jti: str) -> list[dict[str, Any]]:
    return [grant for grant in scene.status()["grants"] if grant["jti"] == jti]


def _told(scene: Scene, jti: str) -> bool:
    return any(grant["error"] for grant in _grants(scene, jti))


def _receipt(scene: Scene, jti: str) -> dict[str, Any]:
    found: dict[str, Any] = scene.ask("receipt", jti=jti)["receipts"][0]["claims"]
    return found
