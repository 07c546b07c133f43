"""docs/INCIDENTS.md followed on a booted host: each block that it marks is run as it stands, in the trouble that it is for."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.laptop import Laptop
from tests.host.scene import POLICY, Scene, account, public, set_up, ssh
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.pages import DOCS, marked

pytestmark = pytest.mark.host(beside=True)
PAGE = DOCS / "INCIDENTS.md"
BLOCKS = {block.where: block.commands for block in marked(PAGE)}
ALICE, BOB, BOB_MAIL = "jit-alice", "jit-bob", "bob@example.com"
RECORDED = POLICY + "    recording: required\n"
STATE = "/var/lib/tidegate/state.db"
TRUSTED = "/etc/tidegate/trust.d/cp-1.jwks"
KEY: list[str] = []  # what TRUSTED held at first
FOLLOWED: set[str] = set()


@pytest.fixture(scope="module")
def booted() -> Iterator[Scene]:
    """Accounts are rows of /etc here: a file system that can be made read-only under the daemon."""
    with Host.boot(prepare=install_tidegate) as host:
        host.write("/etc/tidegate/conf.d/10-rows.yaml", "account_backend: passwd\n")
        found = set_up(host)
        KEY.append((host.root / TRUSTED[1:]).read_text())
        yield found


@pytest.fixture
def scene(booted: Scene) -> Iterator[Scene]:
    """As every test finds it: a daemon that runs, a trusted key, nothing open."""
    yield booted
    booted.start()
    booted.tidegate("revoke", "--all")
    booted.host.write(TRUSTED, KEY[0])
    booted.host.run("rm -rf /root/evidence /root/tidegate-trust /etc/tidegate/ssh_user_ca.pub; rm -f /var/lib/tidegate/*.damaged-*")
    booted.restart()


def follow(scene: Scene, name: str, *, check: bool = True, **names: str) -> str:
    """Run the page's block on the host, as root would type it; returns what it said. ``names``: what the page leaves to fill in."""
    FOLLOWED.add(name)
    given = "".join(f"{key}={value}\n" for key, value in names.items())
    done = scene.host.run(["bash", "-euo", "pipefail", "-c", given + BLOCKS[name]], check=False, timeout=120)
    assert not check or done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def let_in(scene: Scene, key: Path, login: str = ALICE, **more: object) -> str:
    """Open an access, and see that it is one; returns the jti."""
    jti = scene.open(account(login), ssh(login, public(key)), **more)
    assert gets_in(scene, key, login)
    return jti


def gets_in(scene: Scene, key: Path, login: str = ALICE) -> bool:
    return scene.host.ssh(login, key, "echo in").stdout == "in\n"


def live(scene: Scene) -> list[str]:
    return [grant["jti"] for grant in scene.status()["grants"]]


def sessions(scene: Scene) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = scene.ask("sessions")["sessions"]
    return found


def refusal(scene: Scene) -> str:
    answer = scene.answer_for(scene.drop(scene.grant(account("jit-eve"), sub="eve@example.com")))
    return str(answer.get("code", ""))


def test_one_person_is_out_and_nobody_else(scene: Scene, ssh_key: Path) -> None:
    let_in(scene, ssh_key)
    other = let_in(scene, ssh_key, BOB, sub=BOB_MAIL)
    assert "ended" in follow(scene, "one-person")
    assert not gets_in(scene, ssh_key) and gets_in(scene, ssh_key, BOB)
    assert live(scene) == [other]


def test_one_grant_and_one_session_are_ended_by_their_ids(scene: Scene, ssh_key: Path) -> None:
    jti = let_in(scene, ssh_key)
    client = subprocess.Popen(scene.host.ssh_argv(ALICE, ssh_key, "sleep 600"))
    try:
        found = scene.host.wait_for(
            lambda: [each for each in sessions(scene) if "sleep 600" in each["commands"]], what="it is there"
        )
        follow(scene, "one-session", SESSION=found[0]["id"])
        assert client.wait(20) != 0
        assert gets_in(scene, ssh_key), "the grant goes on"
    finally:
        client.kill()
        client.wait()
    follow(scene, "one-grant", GRANT=jti)
    assert not gets_in(scene, ssh_key) and live(scene) == []


def test_everybody_is_out_nobody_new_comes_in_and_the_way_back_opens_only_what_is_new(scene: Scene, ssh_key: Path) -> None:
    let_in(scene, ssh_key)
    let_in(scene, ssh_key, BOB, sub=BOB_MAIL)
    assert "Nobody can get in" in follow(scene, "everybody")
    assert not gets_in(scene, ssh_key) and not gets_in(scene, ssh_key, BOB)
    assert refusal(scene) == "unknown_key"
    follow(scene, "back")
    assert live(scene) == []
    scene.host.wait_for(lambda: refusal(scene) == "", what="the keys are back")


def test_a_fleet_is_shut_from_one_machine_and_who_was_not_reached_is_named(scene: Scene, ssh_key: Path, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, scene.host)
    let_in(scene, ssh_key)
    FOLLOWED.add("fleet")
    (laptop.folder / "hosts").write_text("web1\nno-such-host\n")
    assert laptop.run(BLOCKS["fleet"]) == "no-such-host: NOT DONE\n"
    assert not gets_in(scene, ssh_key) and live(scene) == []


def test_what_is_handed_over_is_checked_without_the_host(scene: Scene, ssh_key: Path, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, scene.host)
    jti = let_in(scene, ssh_key)
    scene.tidegate("revoke", jti)
    scene.receipt(jti)
    scene.host.wait_for(lambda: "running" not in scene.tidegate("sessions", "list", "--recorded").stdout, what="it is sealed")
    follow(scene, "evidence")
    laptop.run("scp -r root@web1:/root/evidence .")
    FOLLOWED.add("check")
    said = laptop.run(f"cd evidence\n{BLOCKS['check']}")
    assert "valid: " in said and "sound" in said
    damaged = next((laptop.folder / "evidence/sessions").glob("*.tgr"))
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(AssertionError, match="FAILED"):
        laptop.run(f"cd evidence\n{BLOCKS['check']}")


def test_without_the_daemon_who_can_get_in_is_seen_and_all_is_ended(scene: Scene, ssh_key: Path) -> None:
    host = scene.host
    assert "nobody" in follow(scene, "who")
    let_in(scene, ssh_key)
    host.run(["systemctl", "mask", "--now", "--runtime", "tidegated"])
    try:
        assert gets_in(scene, ssh_key), "a stop ends nobody's access"
        said = follow(scene, "who")
        assert "/run/tidegate/keys/jit-alice" in said and "expiry-time" in said and "tidegate-backstop@" in said
        follow(scene, "without")
        assert not gets_in(scene, ssh_key)
        assert host.run("id jit-alice", check=False).returncode != 0
        assert "nobody" in follow(scene, "who")
    finally:
        host.run(["systemctl", "unmask", "--runtime", "tidegated"])


def test_a_grant_that_would_not_end_ends_once_what_is_in_its_way_is_mended(scene: Scene, ssh_key: Path) -> None:
    host, jti = scene.host, let_in(scene, ssh_key)
    remount = "mount -o remount,bind,ro /etc"
    host.run(f"mount --bind /etc /etc && {remount} && nsenter --target {scene.pid()} --mount {remount}")
    try:
        assert "Read-only" in follow(scene, "again", check=False, GRANT=jti)
        assert not gets_in(scene, ssh_key)
        assert live(scene) == [jti]
    finally:
        host.wait_for(lambda: host.run("umount /etc", check=False).returncode == 0, 10, "/etc is writable again")
    follow(scene, "again", check=False, GRANT=jti)  # it may be under way by itself just then
    host.wait_for(lambda: live(scene) == [], 5, "it is over")
    assert host.run("id jit-alice", check=False).returncode != 0


def test_a_stolen_key_signs_nothing_any_more_and_what_it_opened_is_over(scene: Scene, ssh_key: Path) -> None:
    let_in(scene, ssh_key)
    assert "cp-1.jwks" in follow(scene, "key")
    assert not gets_in(scene, ssh_key) and live(scene) == []
    assert refusal(scene) == "unknown_key"


def test_a_control_plane_that_was_taken_over_is_cut_off(scene: Scene, ssh_key: Path) -> None:
    host = scene.host
    host.run("systemctl enable --now tidegate-courier")
    host.run("ssh-keygen -q -t ed25519 -N '' -f /root/ca && cp /root/ca.pub /etc/tidegate/ssh_user_ca.pub")
    let_in(scene, ssh_key)
    assert "Nobody can get in" in follow(scene, "plane")
    assert host.run("systemctl is-active tidegate-courier", check=False).stdout != "active\n"
    assert host.run("test -e /etc/tidegate/ssh_user_ca.pub", check=False).returncode == 1
    assert not gets_in(scene, ssh_key)
    assert refusal(scene) == "unknown_key"


def test_what_only_looks_can_be_typed_on_a_healthy_host(scene: Scene) -> None:
    assert "/var/lib/tidegate/state.db" in follow(scene, "disk")
    assert "clock" in follow(scene, "clock")


def test_a_recorder_that_is_back_lets_them_in_who_must_be_recorded(scene: Scene, ssh_key: Path) -> None:
    scene.policy(RECORDED)
    let_in(scene, ssh_key)
    scene.host.run(["systemctl", "stop", "tidegate-recorder"])
    assert not gets_in(scene, ssh_key)
    assert follow(scene, "recorder").endswith("active\n")
    scene.host.wait_for(lambda: gets_in(scene, ssh_key), what="alice is let in again")
    scene.policy(POLICY)


def test_a_clone_ends_what_it_knows_and_takes_another_name(scene: Scene, ssh_key: Path) -> None:
    before = scene.host_id
    let_in(scene, ssh_key)
    follow(scene, "clone")
    scene.host.wait_for(lambda: not scene.status()["grants"], what="all of before is ended")
    scene.start()
    assert scene.host_id != before
    assert not gets_in(scene, ssh_key)
    assert not scene.host.run("find /var/lib/tidegate/courier -name 'client.*'").stdout


def test_a_damaged_journal_ends_all_and_is_kept_to_be_looked_at(scene: Scene, ssh_key: Path) -> None:
    """The last to open anything: what is signed within a minute is refused afterwards."""
    let_in(scene, ssh_key)
    scene.stop()
    scene.host.run(f"truncate -s 9000 {STATE}")
    scene.start()
    scene.host.wait_for(lambda: not scene.status()["grants"], 30, "all of before is ended")
    said = follow(scene, "damaged")
    assert "journal" in said and "state.db.damaged-" in said
    assert not gets_in(scene, ssh_key)
    scene.restart()
    assert scene.status()["problems"] == []


def test_every_block_of_the_page_was_followed() -> None:
    """The last of the module: those above follow them all."""
    assert BLOCKS.keys() == FOLLOWED
