"""The configuration: taken up as it changes, and a bad file keeps the one before in force, across a restart too."""

import json
from pathlib import Path
from subprocess import DEVNULL

import pytest

from tests.host.scene import Scene, account, ssh

pytestmark = pytest.mark.host(beside=True)
FILE = "/etc/tidegate/conf.d/50-test.yaml"


def problems(scene: Scene) -> str:
    return " ".join(scene.status()["problems"])


def test_a_good_change_is_taken_up_with_every_grant_kept(fresh_scene: Scene, ssh_key: Path) -> None:
    key = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    jti = fresh_scene.open(account(), ssh("jit-alice", key), lifetime=60)
    before = fresh_scene.pid()
    fresh_scene.host.write(FILE, "host_id: host-7.example\n")
    fresh_scene.host.wait_for(lambda: _host_id(fresh_scene) == "host-7.example", what="the new host id")
    assert fresh_scene.pid() == before
    assert [(grant["jti"], grant["state"]) for grant in fresh_scene.status()["grants"]] == [(jti, "open")]
    assert fresh_scene.host.ssh("jit-alice", ssh_key, "true").returncode == 0
    fresh_scene.host_id = "host-7.example"
    fresh_scene.open(account("jit-bob"), sub="bob@example.com")


def test_a_bad_file_keeps_the_configuration_before_also_across_a_restart(fresh_scene: Scene) -> None:
    fresh_scene.host.write(FILE, "host_id: host-8.example\n")
    fresh_scene.host.wait_for(lambda: _host_id(fresh_scene) == "host-8.example", what="the new host id")
    fresh_scene.host.write(FILE, "host_id: host-9.example\nhostid: typo\n")
    fresh_scene.host.wait_for(lambda: "50-test.yaml:2" in problems(fresh_scene), what="the problem is told")
    assert _host_id(fresh_scene) == "host-8.example"
    fresh_scene.restart()
    assert _host_id(fresh_scene) == "host-8.example"
    assert "50-test.yaml:2" in problems(fresh_scene)
    fresh_scene.host.run(["rm", FILE])
    fresh_scene.host.wait_for(lambda: _host_id(fresh_scene).startswith("urn:tidegate:"), what="the default host id")
    assert fresh_scene.status()["problems"] == []


def test_a_revocation_outlives_the_daemon_that_was_to_carry_it_out(fresh_scene: Scene, ssh_key: Path) -> None:
    """Killed at once after the order: the next start goes on with it, and never takes the grant for open."""
    key = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    for round_ in range(6):
        jti = fresh_scene.open(account(), ssh("jit-alice", key), lifetime=300)
        fresh_scene.host.ssh("jit-alice", ssh_key, "for i in $(seq 200); do sleep 900 & done >/dev/null 2>&1; exit 0")
        order = fresh_scene.host.popen(["tidegate", "revoke", jti], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        door = Path(f"/proc/{fresh_scene.host.leader}/root/run/tidegate/keys/jit-alice")
        fresh_scene.host.wait_for(lambda door=door: not door.exists(), what="the door is shut")  # type: ignore[misc]
        fresh_scene.kill()
        order.wait(timeout=10)
        fresh_scene.host.wait_for(lambda: not fresh_scene.status()["grants"], what=f"round {round_}: it is over")
        found = json.loads(fresh_scene.tidegate("receipts", "show", jti, "--json").stdout)["receipts"][0]["claims"]
        assert found["cause"] == "revoked"
        assert fresh_scene.host.run("id jit-alice", check=False).returncode != 0


def _host_id(scene: Scene) -> str:
    found = scene.tidegate("status", "--json")
    return str(json.loads(found.stdout)["host_id"]) if found.returncode == 0 else ""
