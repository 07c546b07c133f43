"""A host whose sudo is sudo-rs, and one that has it beside sudo.ws: nothing is given that its rule does not hold.

Debian packages sudo-rs since trixie, without alternatives: an admin who wants it as `sudo` diverts sudo.ws's program.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.scene import ALLOWED, ISSUER, Scene, account, changes, public, set_up, ssh, sudo
from tests.hosts import root
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host(beside=True)
ALICE = "jit-alice"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{ALLOWED}", /usr/bin/id -u] }}
"""
# `su` stays that of util-linux: it gives nobody anything by a rule.
_REPLACE = """
for program in /usr/bin/sudo /usr/sbin/visudo; do
  dpkg-divert --local --rename --divert "$program.ws" --add "$program" >&2
  ln -s "/usr/lib/cargo/bin/${program##*/}" "$program"
done
"""


def instead(tree: Path) -> None:
    """sudo-rs is what `sudo` and `visudo` are; cvtsudoers is still that of sudo.ws."""
    install_tidegate(tree)
    subprocess.run(["chroot", str(tree), "sh", "-ec", _REPLACE], check=True, capture_output=True)


@pytest.fixture(scope="module", params=["instead", "beside"])
def scene(request: pytest.FixtureRequest, suite: str) -> Iterator[Scene]:
    packaged = suite if suite != root.DEFAULT_SUITE else "trixie"
    prepare = instead if request.param == "instead" else install_tidegate
    with Host.boot(suite=packaged, packages=("sudo-rs",), prepare=prepare) as host:
        assert host.run("sudo -V 2>&1").stdout.startswith("sudo-rs" if request.param == "instead" else "Sudo version")
        assert host.run("sudo-rs -V 2>&1").stdout.startswith("sudo-rs")
        yield set_up(host, POLICY)


def sudo_finding(scene: Scene) -> dict[str, str]:
    """What doctor says of this host's sudo."""
    checks = json.loads(scene.tidegate("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "sudo"]
    return dict(found)


@pytest.mark.parametrize("scene", ["instead"], indirect=True)
def test_a_sudo_grant_is_refused_and_nothing_is_opened(scene: Scene) -> None:
    before = scene.state()
    answer = scene.answer_for(scene.drop(scene.grant(account(), sudo())))
    assert (answer["verdict"], answer["code"]) == ("refused", "sudo_unsupported")
    assert "sudo-rs" in answer["reason"]
    assert changes(before, scene.state()) == []
    planned = scene.tidegate("plan", "/dev/stdin", "--json", input=scene.grant(account(), sudo()).decode())
    assert (planned.returncode, json.loads(planned.stdout)["code"]) == (3, "sudo_unsupported")
    found = sudo_finding(scene)
    assert found["level"] == "warn"
    assert found["code"] == "sudo_unsupported" and "sudo-rs" in found["detail"]


@pytest.mark.parametrize("scene", ["instead"], indirect=True)
def test_a_grant_without_sudo_is_opened_used_and_ended(scene: Scene, ssh_key: Path) -> None:
    before = scene.state()
    jti = scene.open(account(), ssh(ALICE, public(ssh_key)))
    assert scene.host.ssh(ALICE, ssh_key, "id -un").stdout == f"{ALICE}\n"
    assert scene.host.ssh(ALICE, ssh_key, "sudo -n /usr/bin/id -u").returncode == 1
    assert scene.tidegate("revoke", jti).returncode == 0
    receipt = scene.receipt(jti)
    assert [found for found in receipt["residue"] if not found["removed"]] == []
    assert receipt["proof"]["alarms"] == []
    assert scene.host.ssh(ALICE, ssh_key, "true").returncode == 255
    assert changes(before, scene.state()) == []


@pytest.mark.parametrize("scene", ["beside"], indirect=True)
def test_sudo_rs_beside_it_gives_no_more_than_the_grant(scene: Scene, ssh_key: Path) -> None:
    """It reads the same sudoers, and is setuid root as well."""
    assert sudo_finding(scene)["level"] == "ok"
    jti = scene.open(account(), ssh(ALICE, public(ssh_key)), sudo(ALICE, "/usr/bin/id -u"))
    assert scene.host.ssh(ALICE, ssh_key, "sudo -n /usr/bin/id -u").stdout == "0\n"
    for beyond in (
        "/usr/bin/id",
        "/usr/bin/id -g",
        "/usr/bin/id -u -n",
        "-u games /usr/bin/id -u",
        "/bin/sh -c id",
        "-s",
        "-i",
        "-e /etc/passwd",
    ):
        tried = scene.host.ssh(ALICE, ssh_key, f"sudo-rs -n {beyond}")
        assert (tried.returncode, tried.stdout) == (1, ""), beyond
    assert scene.tidegate("revoke", jti).returncode == 0
    assert scene.receipt(jti)["proof"]["alarms"] == []
