"""A host without libnss-systemd: accounts are rows of /etc/passwd, and all else is as everywhere."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.scene import ALLOWED, Scene, account, changes, public, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host(beside=True)
ALICE = "jit-alice"


def prepare(tree: Path, how: str) -> None:
    """Without the package, or only without its module, which nsswitch.conf goes on naming."""
    install_tidegate(tree)
    if how == "purged":
        subprocess.run(["chroot", str(tree), "dpkg", "--purge", "libnss-systemd"], check=True, capture_output=True)
    else:
        (module,) = tree.glob("usr/lib/*/libnss_systemd.so.2")
        module.unlink()
    assert ("systemd" in (tree / "etc/nsswitch.conf").read_text()) == (how != "purged")


@pytest.fixture(scope="module", params=["purged", "still named"])
def scene(request: pytest.FixtureRequest, suite: str) -> Iterator[Scene]:
    with Host.boot(suite=suite, prepare=lambda tree: prepare(tree, request.param)) as host:
        yield set_up(host)


def test_a_grant_is_opened_as_rows_and_leaves_every_file_as_it_was(scene: Scene, ssh_key: Path) -> None:
    before = scene.state()
    jti = scene.open(account(groups=["games"]), ssh(ALICE, public(ssh_key)), sudo())
    assert f"\n{ALICE}:" in scene.host.read("/etc/passwd").decode()
    assert scene.host.run("ls /run/userdb", check=False).stdout == ""
    assert {"games", "tidegate-tenants"} <= set(scene.host.ssh(ALICE, ssh_key, "id -nG").stdout.split())
    assert scene.host.ssh(ALICE, ssh_key, f"sudo -n {ALLOWED}").returncode == 0
    assert scene.tidegate("revoke", jti).returncode == 0
    assert scene.receipt(jti)["proof"]["alarms"] == []
    assert scene.host.ssh(ALICE, ssh_key, "true").returncode == 255
    assert changes(before, scene.state()) == []


def test_doctor_says_which_accounts_it_makes(scene: Scene) -> None:
    checks = json.loads(scene.tidegate("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "accounts"]
    named = "systemd" in scene.host.read("/etc/nsswitch.conf").decode()
    assert (found["level"], found["code"]) == (("warn", "nss_systemd_missing") if named else ("ok", ""))
    assert "rows of /etc/passwd" in found["detail"]
