"""The host's own sshd and sudo say what is open and what is shut, and the receipt has their word."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ALLOWED, ISSUER, Scene, account, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate_beside_a_person

pytestmark = pytest.mark.host
ALICE = "jit-alice"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, existing: [deploy] }}
    ssh: {{ keys: true, principals: ["*@example.com"] }}
    sudo: {{ run_as: [root, games], commands: ["{ALLOWED}", /usr/bin/id, "/usr/bin/id -u a,b:c=d"] }}
"""
SABOTAGE = "/etc/ssh/sshd_config.d/00-other.conf"


def prepare(root: Path) -> None:
    """With a person's account that has a sudo rule of its own, and the host's user CA."""
    install_tidegate_beside_a_person(root)
    (root / "etc/sudoers.d/person").write_text("deploy ALL=(root) NOPASSWD: /usr/bin/whoami\n")
    ca = root / "root/ca"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ca)], check=True)
    (root / "etc/tidegate").mkdir(exist_ok=True)
    (root / "etc/tidegate/ssh_user_ca.pub").write_text(ca.with_suffix(".pub").read_text())


@pytest.fixture(scope="module")
def scene(suite: str) -> Iterator[Scene]:
    with Host.boot(suite=suite, prepare=prepare) as host:
        yield set_up(host, POLICY)


def key(folder: Path, name: str, kind: str = "ed25519") -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(folder / name)], check=True)
    return " ".join((folder / f"{name}.pub").read_text().split()[:2])


def fingerprint(folder: Path, name: str) -> str:
    done = subprocess.run(["ssh-keygen", "-l", "-f", str(folder / f"{name}.pub")], check=True, capture_output=True, text=True)
    return done.stdout.split()[1]


def noted(scene: Scene, jti: str, name: str = "proof") -> dict[str, Any]:
    """What the journal notes of a grant; waits until it is there."""
    query = f"SELECT value FROM notes JOIN grants ON grants.id=grant_id WHERE jti='{jti}' AND name='{name}'"

    def found() -> dict[str, Any] | None:
        database = "sqlite3.connect('file:/var/lib/tidegate/state.db?mode=ro', uri=True)"
        script = f"import sqlite3; print(*[row[0] for row in {database}.execute({query!r})])"
        said = scene.host.run(["python3", "-c", script]).stdout.strip()
        return json.loads(said) if said else None

    value = scene.host.wait_for(found, 20, "the proof")
    assert value is not None
    return value


def proof_of(scene: Scene, jti: str) -> dict[str, Any]:
    """The ``proof`` of the receipt."""

    def found() -> dict[str, Any] | None:
        done = scene.tidegate("receipts", "show", jti, "--json")
        return json.loads(done.stdout)["receipts"][0]["claims"]["proof"] if done.returncode == 0 else None

    value = scene.host.wait_for(found, 30, "the receipt")
    assert value is not None
    return value


def end(scene: Scene, jti: str) -> None:
    assert scene.tidegate("revoke", jti).returncode == 0
    scene.host.wait_for(lambda: not scene.status()["grants"], 30, "it is over")


@pytest.mark.host(everywhere=True)
def test_sshd_and_sudo_say_that_it_is_open_and_then_that_it_is_shut(scene: Scene, tmp_path: Path) -> None:
    keys = [key(tmp_path, "one"), key(tmp_path, "two", "rsa"), key(tmp_path, "three", "ecdsa")]
    scene.host.run("rm -rf /run/sshd")  # as between two logins with socket activation
    wanted = sudo(ALICE, ALLOWED, "/usr/bin/id", "/usr/bin/id -u a,b:c=d", run_as=["root", "games"])
    before = scene.host.journal("ssh.service")
    jti = scene.open(account(ALICE), ssh(ALICE, *keys, principals=["alice@example.com"]), wanted)
    opened = noted(scene, jti)["opened"]
    assert [row["answer"] for row in opened["ssh"]] == ["accepted"] * 4, opened
    names = [fingerprint(tmp_path, name) for name in ("one", "two", "three")]
    assert [row["credential"] for row in opened["ssh"]] == [*names, "alice@example.com"]
    assert [(row["login"], row["answer"]) for row in opened["sudo"]] == [(ALICE, "equal")], opened
    assert opened["troubles"] == []
    assert scene.status()["problems"] == []
    end(scene, jti)
    found = proof_of(scene, jti)
    assert found["opened"] == opened
    assert [row["answer"] for row in found["closed"]["ssh"]] == ["refused"] * 4
    assert [row["answer"] for row in found["closed"]["sudo"]] == ["equal"] or found["closed"]["while_removing"]
    assert found["alarms"] == []
    assert scene.host.journal("ssh.service") == before  # nothing for fail2ban, nothing for whoever reads the log
    assert "UNKNOWN" not in scene.host.run("journalctl --no-pager -b").stdout
    assert scene.host.run("ls -d /run/tidegate/ask-*", check=False).stdout == ""
    assert scene.host.run("pgrep -f 'sshd -i|asker.py'", check=False).stdout == ""


def test_a_key_bound_to_addresses_is_asked_as_far_as_it_can_be(scene: Scene, tmp_path: Path) -> None:
    far = ssh(ALICE, key(tmp_path, "one"), principals=["alice@example.com"], source_address=["10.1.0.0/16"])
    jti = scene.open(account(ALICE), far)
    for row in noted(scene, jti)["opened"]["ssh"]:
        assert row["answer"] == "accepted"
        assert "from=" in row["why"]
    end(scene, jti)
    assert [row["answer"] for row in proof_of(scene, jti)["closed"]["ssh"]] == ["refused"] * 2


def test_what_an_existing_account_could_do_before_is_no_more_and_no_less(scene: Scene) -> None:
    jti = scene.open(sudo("deploy", "/usr/bin/id"))
    opened = noted(scene, jti)["opened"]
    assert [(row["login"], row["answer"]) for row in opened["sudo"]] == [("deploy", "equal")], opened
    assert noted(scene, jti, "sudo_before") == {"deploy": ["(root) /usr/bin/whoami"]}
    end(scene, jti)
    assert [row["answer"] for row in proof_of(scene, jti)["closed"]["sudo"]] == ["equal"]


def test_a_grant_that_sshd_does_not_honour_and_sudo_exceeds_is_loud(scene: Scene, tmp_path: Path) -> None:
    scene.host.write("/etc/sudoers.d/loose", "ALL ALL=(root) NOPASSWD: /usr/bin/env\n")
    jti = scene.open(account(ALICE), ssh(ALICE, key(tmp_path, "one")), sudo(ALICE, "/usr/bin/id"))
    try:
        troubles = noted(scene, jti)["opened"]["troubles"]
        assert troubles == [f"sudo allows {ALICE} more than was granted: (root) /usr/bin/env"]
        assert any("more than was granted" in problem for problem in scene.status()["problems"])
        assert [event["unmapped"]["jti"] for event in scene.events("proof.failed")] == [jti]
    finally:
        scene.host.run("rm /etc/sudoers.d/loose")
    scene.host.wait_for(lambda: not scene.status()["problems"], 20, "asked again, it is as it should be")
    end(scene, jti)
    assert len(proof_of(scene, jti)["alarms"]) == 1


def test_a_key_that_sshd_takes_after_closing_is_an_alarm_and_the_grant_is_not_over_until_it_does_not(
    scene: Scene, tmp_path: Path
) -> None:
    mine = key(tmp_path, "one")
    for _ in range(5):  # a host too busy to answer in time removes the account first, which shuts it as well
        jti = scene.open(account(ALICE), ssh(ALICE, mine))
        noted(scene, jti)
        scene.host.write("/etc/stray_keys", f"{mine}\n")
        scene.host.write(SABOTAGE, f"Match User {ALICE}\n    AuthorizedKeysFile /etc/stray_keys\n")
        try:
            code = scene.tidegate("revoke", jti).returncode
            scene.host.wait_for(lambda: not scene.status()["grants"], 30, "it is over")
            found = proof_of(scene, jti)
        finally:
            scene.host.run(["rm", SABOTAGE, "/etc/stray_keys"])
        if found["alarms"]:
            break
        assert found["closed"]["while_removing"]
    assert code == 1
    assert [row["answer"] for row in found["closed"]["ssh"]] == ["refused"]  # the account is gone by then
    assert any("closed: sshd still accepts the key" in alarm for alarm in found["alarms"])
    told = [event for event in scene.events("proof.failed") if event["unmapped"]["jti"] == jti]
    assert told and told[0]["severity_id"] == 4
    assert any(event["unmapped"]["jti"] == jti for event in scene.events("teardown.retry"))


def test_without_an_sshd_the_proof_says_so_and_nothing_waits(scene: Scene, tmp_path: Path) -> None:
    jti = scene.open(account(ALICE), ssh(ALICE, key(tmp_path, "one")))
    noted(scene, jti)
    scene.host.run("mv /usr/sbin/sshd /usr/sbin/sshd.away")
    try:
        end(scene, jti)
        rows = proof_of(scene, jti)["closed"]["ssh"]
    finally:
        scene.host.run("mv /usr/sbin/sshd.away /usr/sbin/sshd")
    assert [(row["answer"], row["why"]) for row in rows] == [("not asked", "no sshd")]
