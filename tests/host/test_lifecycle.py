"""The life of a grant on a whole host: opened, used, ended on the second, and nothing left of it."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from examples.demo import picture
from examples.demo.watch import offer_key
from tests.host.scene import ALLOWED, ISSUER, Scene, account, group, public, set_up, sleep_until, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import REPOSITORY, install_tidegate_beside_a_person

pytestmark = pytest.mark.host
ALICE = "jit-alice"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], home: [ephemeral, archive], existing: [deploy] }}
    groups: [games]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root, games], commands: ["{ALLOWED}", /usr/bin/id, /usr/bin/id -u] }}
"""


@pytest.fixture(scope="module")
def scene(suite: str) -> Iterator[Scene]:
    with Host.boot(suite=suite, prepare=install_tidegate_beside_a_person) as host:
        yield set_up(host, POLICY)


@pytest.mark.host(everywhere=True)
def test_access_ends_at_its_second_and_leaves_nothing(clean: Scene, ssh_key: Path) -> None:
    claims = clean.claims(account(groups=["games"]), ssh(ALICE, public(ssh_key)), sudo(), lifetime=4)
    assert clean.answer_for(clean.drop(clean.sign(claims)))["verdict"] == "accepted"
    left = clean.host.ssh(ALICE, ssh_key, "id -nG; touch /tmp/mine /var/tmp/mine; nohup sleep 600 >/dev/null 2>&1 & exit 0")
    assert {"games", "tidegate-tenants"} <= set(left.stdout.split())
    sleep_until(claims["exp"] - 0.3)
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode in {0, 255}  # may be cut by T
    sleep_until(claims["exp"] + 0.02)
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255
    found = clean.receipt(claims["jti"])
    assert found["cause"] == "expired"
    assert clean.host.run(f"pgrep -u {found['accounts'][0]['uid']}", check=False).returncode == 1
    assert clean.host.run("ls /tmp/mine /var/tmp/mine /home/jit-alice", check=False).stdout == ""
    assert all(step["undone"] for step in found["steps"])


def test_100_grants_that_end_in_the_same_second_are_all_shut_then(clean: Scene, ssh_key: Path) -> None:
    logins = [f"jit-u{number:02}" for number in range(100)]
    exp = int(time.time()) + 30
    names = []
    for number, login in enumerate(logins):
        claims = clean.claims(account(login), ssh(login, public(ssh_key)), sudo(login), sub=f"u{number}@example.com", exp=exp)
        names.append(clean.drop(clean.sign(claims)))
    for name in names:
        assert clean.answer_for(name, timeout=25)["verdict"] == "accepted"
    clean.host.run("for n in $(seq -w 0 99); do setsid runuser -u jit-u$n -- sleep 600 >/dev/null 2>&1 & done; sleep 1")
    for login in logins[:5]:
        assert clean.host.ssh(login, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0").returncode == 0
    uids = [grant["uids"][login] for grant in clean.status()["grants"] for login in grant["uids"]]
    assert len(set(uids)) == 100
    assert time.time() < exp - 1, "opening took too long for this test to mean anything"
    sleep_until(exp)
    key = paramiko.Ed25519Key.from_private_key_file(str(ssh_key))
    answers: list[bool | None] = []

    def knock(mine: list[str]) -> None:
        answers.extend(offer_key(clean.host.address, login, key)[0] for login in mine)

    threads = [threading.Thread(target=knock, args=(logins[part::2],)) for part in range(2)]
    for thread in threads:
        thread.start()
    sleep_until(exp + 2)
    alive = clean.host.run("ps -eo uid= | awk '$1 >= 70000 && $1 <= 99999'; ls /run/tidegate/keys", check=False).stdout
    for thread in threads:
        thread.join()
    assert True not in answers
    assert alive == ""
    left = "ls /home /run/userdb; getent passwd jit-u00 jit-u99"
    clean.host.wait_for(lambda: "jit-" not in clean.host.run(left, check=False).stdout, what="accounts and homes are removed")
    listed = json.loads(clean.tidegate("receipts", "list", "--json").stdout)["receipts"][:100]
    found = [entry["claims"]["lateness_ms"] for entry in listed]
    doors, dead = (max(late[name] for late in found) for name in ("doors", "last_process"))
    print(f"\n100 grants: doors shut by T+{doors} ms, last process dead by T+{dead} ms")


def test_a_grant_that_begins_later_opens_then_and_not_before(clean: Scene, ssh_key: Path) -> None:
    nbf = int(time.time()) + 3
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)), nbf=nbf, exp=nbf + 60)
    assert [grant["state"] for grant in clean.status()["grants"]] == ["pending"]
    assert clean.host.run("id jit-alice", check=False).returncode != 0
    sleep_until(nbf - 0.2)
    assert clean.host.run("id jit-alice", check=False).returncode != 0
    clean.host.wait_for(lambda: clean.status()["grants"][0]["state"] == "open", timeout=2)
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 0
    assert clean.tidegate("revoke", jti).returncode == 0


def test_a_grant_that_begins_later_is_judged_again_by_the_policy_of_then(clean: Scene) -> None:
    nbf = int(time.time()) + 3
    jti = clean.open(account(), nbf=nbf, exp=nbf + 60)
    clean.policy("rules: []\n")
    sleep_until(nbf)
    found = clean.receipt(jti)
    clean.policy(POLICY)
    assert found["cause"] == "policy"
    assert found["opened"] is None


@pytest.mark.host(everywhere=True)
def test_revoking_shuts_at_once_and_says_so(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)))
    live = subprocess.Popen(
        clean.host.ssh_argv(ALICE, ssh_key, options=("-tt",)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    clean.host.wait_for(lambda: clean.host.run("pgrep -u jit-alice bash", check=False).returncode == 0)
    done = clean.tidegate("revoke", jti, "--reason", "left the project", "--json")
    ended = json.loads(done.stdout)["revoked"][0]
    assert (done.returncode, ended["ended"], ended["error"]) == (0, True, "")
    output, _ = live.communicate(timeout=5)
    assert b"it was revoked" in output
    assert "left the project" in str(clean.receipt(jti)["cause_text"])
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255


def test_a_tenant_that_holds_its_own_sshd_still_gains_nothing_by_it(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)))
    live = subprocess.Popen(
        clean.host.ssh_argv(ALICE, ssh_key, options=("-tt",)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    clean.host.wait_for(lambda: clean.host.run("pgrep -u jit-alice bash", check=False).returncode == 0)
    clean.host.run("pkill -STOP -u jit-alice sshd")
    ended = json.loads(clean.tidegate("revoke", jti, "--json").stdout)["revoked"][0]
    live.communicate(timeout=5)
    assert (ended["ended"], ended["error"]) == (True, "")
    assert clean.host.run("pgrep -u jit-alice", check=False).returncode != 0
    assert any("sshd" in named for named in clean.receipt(jti)["processes_killed"]["named"])


def test_revoking_a_subject_ends_theirs_and_no_other(clean: Scene) -> None:
    hers = clean.open(account())
    his = clean.open(account("jit-bob"), sub="bob@example.com")
    assert clean.tidegate("revoke", "--subject", "alice@example.com").returncode == 0
    assert [grant["jti"] for grant in clean.status()["grants"]] == [his]
    assert clean.receipt(hers)["cause"] == "revoked"


def test_the_tenant_is_warned_a_minute_before(clean: Scene, ssh_key: Path) -> None:
    exp = int(time.time()) + 64
    clean.open(account(), ssh(ALICE, public(ssh_key)), exp=exp)
    live = subprocess.Popen(
        clean.host.ssh_argv(ALICE, ssh_key, options=("-tt",)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    sleep_until(exp - 59)
    clean.tidegate("revoke", "--all")
    output, _ = live.communicate(timeout=5)
    assert b"your access ends in 1 minute" in output


@pytest.mark.host(everywhere=True)
def test_sudo_gives_exactly_what_the_grant_says(clean: Scene, ssh_key: Path) -> None:
    entry = sudo(ALICE, "/usr/bin/id", "/usr/bin/id -u", run_as=["games"])
    clean.open(account(), ssh(ALICE, public(ssh_key)), entry)
    tried = {
        "sudo -n -u games /usr/bin/id": True,
        "sudo -n -u games /usr/bin/id -u": True,
        "sudo -n -u games /usr/bin/id -g": False,
        "sudo -n -u games /usr/bin/id -u -n": False,
        "sudo -n /usr/bin/id": False,
        "sudo -n -u daemon /usr/bin/id": False,
        "sudo -n -u games -g root /usr/bin/id": False,
        "sudo -n -u games /bin/sh": False,
        "sudo -n -e /etc/passwd": False,
    }
    for command, allowed in tried.items():
        assert (clean.host.ssh(ALICE, ssh_key, command).returncode == 0) == allowed, command


@pytest.mark.host(everywhere=True)
def test_an_account_that_was_there_keeps_what_it_had_and_loses_what_it_was_given(clean: Scene) -> None:
    listed_before = clean.host.run("id -nG deploy; sudo -n -l -U deploy", check=False).stdout
    jti = clean.open(group("deploy", "games"), sudo("deploy", "/usr/bin/id"))
    during = clean.host.run("id -nG deploy; runuser -u deploy -- sudo -n /usr/bin/id").stdout
    assert "games" in during
    assert "uid=0(root)" in during
    assert clean.tidegate("revoke", jti).returncode == 0
    assert clean.host.run("id -nG deploy; sudo -n -l -U deploy", check=False).stdout == listed_before


def test_a_login_that_is_taken_is_refused_and_comes_back_with_another_uid(clean: Scene) -> None:
    first = clean.open(account())
    uid = clean.status()["grants"][0]["uids"][ALICE]
    answer = clean.answer_for(clean.drop(clean.grant(account(), sub="mallory@example.com")))
    assert answer["code"] == "account_exists"
    clean.tidegate("revoke", first)
    clean.open(account())
    assert clean.status()["grants"][0]["uids"][ALICE] != uid


def test_a_home_to_be_archived_is_packed_away_for_the_admin(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(home="archive"), ssh(ALICE, public(ssh_key)))
    clean.host.ssh(ALICE, ssh_key, "echo work > notes; ln -s /etc/shadow trap")
    clean.tidegate("revoke", jti)
    listed = clean.host.run(
        f"tar -tvf /var/lib/tidegate/archive/{ALICE}-{jti}-*.tar.gz; stat -c %a /var/lib/tidegate/archive/*"
    ).stdout
    assert "notes" in listed
    assert "trap -> /etc/shadow" in listed
    assert listed.split()[-1] == "600"


def test_homes_that_take_long_to_pack_keep_nobody_in(ssh_key: Path) -> None:
    """A sparse file costs its tenant nothing and the packing much; meanwhile others end on their second, a restart too."""
    with Host.boot(prepare=install_tidegate_beside_a_person) as host:
        scene, exp = set_up(host, POLICY), int(time.time()) + 12
        for number in range(5):
            login = f"jit-pack{number}"
            scene.open(account(login, home="archive"), ssh(login, public(ssh_key)), sub=f"p{number}@example.com", exp=exp)
            assert host.ssh(login, ssh_key, "truncate -s 1360M big").returncode == 0
        for login, after in ((ALICE, 2), ("jit-bob", 5)):
            scene.open(account(login), ssh(login, public(ssh_key)), sub=f"{login}@example.com", exp=exp + after)
            host.ssh(login, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0")
        sleep_until(exp + 3)
        assert host.run("pgrep -u jit-alice; ls /run/tidegate/keys", check=False).stdout.split() == ["jit-bob"]
        host.run("systemctl kill --signal=KILL tidegated")
        sleep_until(exp + 7)
        assert host.run("pgrep -u jit-bob; ls /run/tidegate/keys", check=False).stdout == ""


def test_a_daemon_killed_comes_back_and_ends_the_grant_on_its_second(clean: Scene, ssh_key: Path) -> None:
    claims = clean.claims(account(), ssh(ALICE, public(ssh_key)), lifetime=6)
    clean.answer_for(clean.drop(clean.sign(claims)))
    clean.host.ssh(ALICE, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0")
    clean.kill()
    assert clean.status()["grants"][0]["state"] == "open"
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 0
    sleep_until(claims["exp"] + 0.05)
    late = clean.receipt(claims["jti"])["lateness_ms"]
    assert 0 <= late["last_process"] < 1000


def test_what_expired_while_the_daemon_was_stopped_is_gone_when_it_starts(clean: Scene, ssh_key: Path) -> None:
    claims = clean.claims(account(), ssh(ALICE, public(ssh_key)), lifetime=3)
    clean.answer_for(clean.drop(clean.sign(claims)))
    clean.host.ssh(ALICE, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0")
    clean.stop()
    sleep_until(claims["exp"] + 0.1)
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255  # the key's own expiry-time
    clean.start()
    clean.host.wait_for(lambda: not clean.status()["grants"], what="it is over")  # cleared away, and proved, beside the start
    assert clean.host.run("id jit-alice", check=False).returncode != 0


@pytest.mark.parametrize("clean_shutdown", [True, False])
def test_a_grant_stands_again_after_a_reboot_and_one_that_ended_does_not(ssh_key: Path, clean_shutdown: bool) -> None:
    with Host.boot(prepare=install_tidegate_beside_a_person) as host:
        scene = set_up(host, POLICY)
        host.run(["systemctl", "enable", "tidegated"])
        standing = scene.open(account(), ssh(ALICE, public(ssh_key)), sudo(), lifetime=120)
        scene.open(account("jit-bob"), ssh("jit-bob", public(ssh_key)), sub="bob@example.com", lifetime=2)
        time.sleep(1)
        scene.stop() if not clean_shutdown else None
        host.reboot(clean=clean_shutdown)
        host.wait_for(lambda: scene.pid() and scene.tidegate("status").returncode == 0, what="tidegated is back")
        sleep_until(time.time() + 1)
        assert [grant["jti"] for grant in scene.status()["grants"]] == [standing]
        assert host.ssh(ALICE, ssh_key, f"sudo -n {ALLOWED}").returncode == 0
        assert host.ssh("jit-bob", ssh_key, "true").returncode == 255
        assert host.run("id jit-bob", check=False).returncode != 0


@pytest.mark.parametrize("kind", ["nspawn", "namespaces"])
def test_the_demo_passes_and_its_last_line_is_one_object(kind: str) -> None:
    argv = [sys.executable, "-m", "examples.demo", "--json"]
    environment = {"TIDEGATE_TEST_HOSTS": kind} if kind != "nspawn" else {}
    done = subprocess.run(
        ["env", *(f"{k}={v}" for k, v in environment.items()), *argv],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, found["verdict"]) == (0, "pass"), done.stderr
    assert found["last_accept_ms"] < 0 <= found["first_refuse_ms"]
    assert all(isinstance(found[name], int | float) for name in ("login_ms", "doors_ms", "last_process_ms"))
    assert all(set(step) == {"at_ms", "what", "ok"} for step in found["steps"])
    assert picture.draw(found["access"]).startswith("<svg ")
