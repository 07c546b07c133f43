"""docs/PRODUCTION.md followed on a booted host: each block that it marks is run as it stands, and does what the page says."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.host.laptop import Laptop
from tests.host.scene import Scene, account, public, ssh
from tests.pages import DOCS, marked

pytestmark = pytest.mark.host(beside=True)
BLOCKS = {block.where: block.commands for block in marked(DOCS / "PRODUCTION.md")}
ALICE = "jit-alice"
FOLLOWED: set[str] = set()


def follow(scene: Scene, name: str) -> str:
    FOLLOWED.add(name)
    done = scene.host.run(["bash", "-euo", "pipefail", "-c", BLOCKS[name]], check=False, timeout=120)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_host_that_is_ready_says_so(scene: Scene) -> None:
    said = follow(scene, "ready")
    assert "FAIL" not in said and "Nobody can get in" in said


def test_the_recorder_keeps_what_its_drop_in_says_and_drops_no_session(scene: Scene, ssh_key: Path) -> None:
    scene.open(account(ALICE), ssh(ALICE, public(ssh_key)))
    follow(scene, "quota")
    pid = scene.host.run(["systemctl", "show", "-P", "MainPID", "tidegate-recorder"]).stdout.strip()
    assert "--quota\0" + "21474836480" in scene.host.run(["cat", f"/proc/{pid}/cmdline"]).stdout
    assert scene.host.ssh(ALICE, ssh_key, "echo in").stdout == "in\n"
    scene.tidegate("revoke", "--all")


def test_a_policy_is_checked_put_in_place_and_taken(scene: Scene, ssh_key: Path) -> None:
    follow(scene, "deploy")
    jti = scene.open(account("team-bob"), ssh("team-bob", public(ssh_key), actions=["login"]), sub="bob@example.com")
    assert next(grant["rule"] for grant in scene.status()["grants"] if grant["jti"] == jti) == "team"
    scene.tidegate("revoke", jti)
    scene.host.write("/etc/tidegate/policy.d/61-bad.yaml", "rules: [{name: bad}]\n")
    last = BLOCKS["deploy"].rstrip().splitlines()[-1]
    scene.host.wait_for(lambda: scene.status()["problems"], what="the bad file is told")
    assert scene.host.run(["bash", "-o", "pipefail", "-c", last], check=False).returncode == 1
    scene.host.run("rm /etc/tidegate/policy.d/61-bad.yaml")
    scene.host.wait_for(lambda: not scene.status()["problems"], what="it is well again")


def test_what_is_to_be_watched_is_there_and_quiet(scene: Scene) -> None:
    assert follow(scene, "watch").split() == ["active", "active"]


def test_a_backup_holds_what_may_be_restored_and_no_journal_and_no_private_key(scene: Scene, tmp_path: Path) -> None:
    follow(scene, "backup")
    with tarfile.open(scene.host.root / "root/tidegate-backup.tar.gz") as archive:
        names = archive.getnames()
    assert "etc/tidegate/policy.d/50-test.yaml" in names
    assert not [name for name in names if "state.db" in name or "host.jwk" in name or "reserve" in name]
    assert '"d"' not in (scene.host.root / "root/host-key.jwks").read_text()


def test_a_key_is_rotated_and_what_the_old_one_opened_goes_on(scene: Scene, ssh_key: Path, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, scene.host)
    jti = scene.open(account(ALICE), ssh(ALICE, public(ssh_key)))
    FOLLOWED.add("here-rotate")
    laptop.run(BLOCKS["here-rotate"])
    claims = scene.claims(account("jit-bob"), ssh("jit-bob", public(ssh_key)), sub="bob@example.com")
    (laptop.folder / "grant.json").write_text(json.dumps(claims))
    laptop.run("tidegate sign grant.json --key cp-2.jwk --out grant.jwt")
    scene.host.wait_for(lambda: accepted(scene, laptop.folder / "grant.jwt"), what="the new key is taken")
    follow(scene, "retire")
    assert scene.host.ssh(ALICE, ssh_key, "echo in").stdout == "in\n"
    assert {grant["jti"] for grant in scene.status()["grants"]} >= {jti}
    old = scene.grant(account("jit-eve"), sub="eve@example.com")
    scene.host.wait_for(lambda: scene.answer_for(scene.drop(old))["code"] == "unknown_key", what="the old key is gone")


def accepted(scene: Scene, token: Path) -> bool:
    return bool(scene.answer_for(scene.drop(token.read_bytes().strip()))["verdict"] == "accepted")


def test_every_block_of_the_page_was_followed() -> None:
    """The last of the module: those above follow them all."""
    assert BLOCKS.keys() == FOLLOWED
