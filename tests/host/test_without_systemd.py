"""A host where systemd is not PID 1: a grant ends on its second, what stands behind it is said, and may be asked for."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.scene import ISSUER, POLICY_FILE, Scene, account, changes, public, sleep_until, ssh, sudo
from tests.hosts.fallback import NamespaceHost
from tests.hosts.prepare import install_tidegate_with_this_python

pytestmark = [pytest.mark.host(beside=True), pytest.mark.host(kinds=("nspawn", "namespaces"))]
ALICE, ID = "jit-alice", "/usr/bin/id -u"
LOG = "/var/log/tidegated.log"
SEARCHED_S = 60.0  # this kind of host has all the machine's files, and they are looked through for up to 20 s
ABSENT = "systemd is not PID 1"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{ID}"] }}
"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Started as a supervisor of whatever kind would start it."""
    with NamespaceHost.boot(prepare=install_tidegate_with_this_python) as host:
        scene = Scene(host)
        scene.new_key("cp-1", ISSUER)
        host.write(POLICY_FILE, POLICY)
        host.run(f"setsid /usr/sbin/tidegated >{LOG} 2>&1 </dev/null &")
        host.wait_for(lambda: starts(scene) == 1, 20, "tidegated answers")
        status = scene.status()
        assert status["problems"] == []
        scene.host_id = status["host_id"]
        yield scene


def starts(scene: Scene) -> int:
    """How often the daemon was ready; a changed configuration starts it anew."""
    return scene.host.run(["cat", LOG], check=False).stdout.count(" is ready: ")


def said_by_doctor(scene: Scene, name: str) -> str:
    """The words of one of doctor's checks, which must be a warning."""
    checks = json.loads(scene.tidegate("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == name]
    assert found["level"] == "warn"
    return str(found["detail"])


def test_a_grant_ends_on_its_second_and_its_receipt_says_what_did_not_stand_behind_it(scene: Scene, ssh_key: Path) -> None:
    before = scene.state(tuple(scene.host.snapshot_paths))
    claims = scene.claims(account(), ssh(ALICE, public(ssh_key)), sudo(ALICE, ID), lifetime=8)
    assert scene.answer_for(scene.drop(scene.sign(claims)))["verdict"] == "accepted"
    assert scene.host.ssh(ALICE, ssh_key, f"sudo -n {ID}; setsid sleep 600 >/dev/null 2>&1 </dev/null & exit 0").stdout == "0\n"
    uid = scene.status()["grants"][0]["uids"][ALICE]
    sleep_until(claims["exp"] + 0.05)
    assert scene.host.ssh(ALICE, ssh_key, "true").returncode == 255
    scene.host.wait_for(lambda: not scene.status()["grants"], SEARCHED_S, "it is over")
    receipt = scene.receipt(claims["jti"])
    assert (receipt["cause"], receipt["ended_by"], receipt["proof"]["alarms"]) == ("expired", "tidegated", [])
    assert scene.host.run(f"pgrep -u {uid}", check=False).returncode == 1
    assert [line for line in receipt["backstops_absent"] if ABSENT in line]
    assert any("NOTAFTER" in line for line in receipt["backstops"]) and any("expiry-time" in line for line in receipt["backstops"])
    assert changes(before, scene.state(tuple(scene.host.snapshot_paths))) == []
    assert ABSENT in said_by_doctor(scene, "backstop timers") and "grants open without" in said_by_doctor(scene, "backstop timers")
    assert "not PID 1" in said_by_doctor(scene, "systemd")


def test_where_a_timer_is_required_nothing_is_opened(scene: Scene, ssh_key: Path) -> None:
    scene.host.write("/etc/tidegate/conf.d/backstop.yaml", "backstop: required\n")
    scene.host.wait_for(lambda: starts(scene) == 2, 20, "tidegated goes by it")
    before = scene.state(tuple(scene.host.snapshot_paths))
    answer = scene.answer_for(scene.drop(scene.grant(account(), ssh(ALICE, public(ssh_key)))), timeout=SEARCHED_S)
    assert answer["code"] == "backstop_unavailable" and ABSENT in answer["reason"]
    assert changes(before, scene.state(tuple(scene.host.snapshot_paths))) == []
    assert "grants are refused" in said_by_doctor(scene, "backstop timers")
