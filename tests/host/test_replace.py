"""A grant that takes another's place, sessions seen and ended one by one, and revoked with time to leave: on a whole host."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ALLOWED, OTHER_ISSUER, Scene, account, public, set_up, ssh, sudo
from tests.host.test_orders import ALICE, POLICY, daemon_pid, occupy, sleeps, state
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.hosts.snapshot import differences

pytestmark = pytest.mark.host
FORWARDING = ["login", "exec", "port-forwarding"]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=install_tidegate) as host:
        yield set_up(host, POLICY)


def uid(scene: Scene, jti: str) -> int:
    return next(int(found["uids"][ALICE]) for found in scene.status()["grants"] if found["jti"] == jti)


def test_extended_the_session_goes_on_past_the_old_end(clean: Scene, ssh_key: Path) -> None:
    old = clean.claims(account(groups=["games"]), ssh(ALICE, public(ssh_key)), sudo(), lifetime=8)
    clean.answer_for(clean.drop(clean.sign(old)))
    occupy(clean, ssh_key)
    clean.host.ssh(ALICE, ssh_key, "echo mine > file")
    number = uid(clean, old["jti"])
    new = clean.open(
        account(groups=["games"]),
        ssh(ALICE, public(ssh_key), actions=FORWARDING),
        sudo(ALICE, ALLOWED, "/usr/bin/id"),
        lifetime=16,
        supersedes=old["jti"],
    )
    assert (state(clean, old["jti"]), state(clean, new), uid(clean, new)) == ("gone", "open", number)
    assert sleeps(clean) == 2
    found = clean.receipt(old["jti"])
    assert (found["cause"], found["superseded_by"], found["processes_killed"]["count"]) == ("superseded", new, 0)
    time.sleep(max(0.0, old["exp"] + 1.5 - time.time()))
    assert sleeps(clean) == 2
    assert clean.host.ssh(ALICE, ssh_key, "sudo -n /usr/bin/id -u; cat file").stdout.endswith("mine\n")
    assert "uid=0" in clean.host.ssh(ALICE, ssh_key, "sudo -n /usr/bin/id").stdout
    clean.host.wait_for(lambda: state(clean, new) == "gone", 30, "the new end")
    assert (sleeps(clean), clean.receipt(new)["cause"]) == (0, "expired")
    assert clean.host.run("id jit-alice; ls /home/jit-alice", check=False).stdout == ""


@pytest.mark.parametrize("lost", ["group", "sudo", "key", "action"])
def test_narrowed_what_stood_on_more_ends_and_the_home_stays(clean: Scene, ssh_key: Path, lost: str) -> None:
    old = clean.open(account(groups=["games"]), ssh(ALICE, public(ssh_key), actions=FORWARDING), sudo())
    occupy(clean, ssh_key)
    clean.host.ssh(ALICE, ssh_key, "echo mine > file")
    number = uid(clean, old)
    groups = [] if lost == "group" else ["games"]
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBnc8i9vGk7Rfw1reGCxSy82P4TZjXaxZnTjibyr7uwi" if lost == "key" else public(ssh_key)
    actions = ["login", "exec"] if lost == "action" else FORWARDING
    entries = [account(groups=groups), ssh(ALICE, key, actions=actions), *([] if lost == "sudo" else [sudo()])]
    new = clean.open(*entries, supersedes=old)
    assert (sleeps(clean), state(clean, new), uid(clean, new)) == (0, "open", number)
    again = clean.host.ssh(ALICE, ssh_key, f"cat file; id -nG; sudo -n -l {ALLOWED}")
    if lost == "key":
        assert again.returncode == 255
    else:
        assert again.stdout.startswith("mine\n")
        assert ("games" in again.stdout.split()) is (lost != "group")
        assert (again.returncode == 0) is (lost != "sudo")
    assert clean.receipt(old)["cause"] == "superseded"


def test_what_may_not_take_its_place_is_refused_and_leaves_it_alone(clean: Scene, ssh_key: Path) -> None:
    entries = (account(), ssh(ALICE, public(ssh_key)))
    jti = clean.open(*entries)
    occupy(clean, ssh_key)
    before = clean.state()
    cases = {
        "supersedes_unknown": clean.grant(*entries, supersedes="g-nothing"),
        "supersedes_other_subject": clean.grant(*entries, supersedes=jti, sub="bob@example.com"),
        "supersedes_other_accounts": clean.grant(account("jit-bob"), supersedes=jti),
        "supersedes_account_differs": clean.grant(account(full_name="Another"), supersedes=jti),
        "supersedes_begins_later": clean.grant(*entries, supersedes=jti, nbf=int(time.time()) + 60),
        "command_not_allowed": clean.grant(*entries, sudo(ALICE, "/usr/bin/who"), supersedes=jti),
    }
    for code, token in cases.items():
        assert clean.answer_for(clean.drop(token))["code"] == code
    theirs = clean.sign(clean.claims(*entries, supersedes=jti, iss=OTHER_ISSUER), "other")
    assert clean.answer_for(clean.drop(theirs))["code"] == "supersedes_unknown"
    after = clean.state()
    assert (before.live, differences(before.files, after.files)) == (after.live, [])
    assert sleeps(clean) == 2


@pytest.mark.parametrize("narrower", [False, True])
def test_killed_at_any_moment_one_of_the_two_stands(clean: Scene, ssh_key: Path, narrower: bool) -> None:
    for delay in (0.0, 0.006, 0.02, 0.05) if narrower else (0.003, 0.012, 0.03):
        old = clean.open(account(groups=["games"]), ssh(ALICE, public(ssh_key)), sudo())
        occupy(clean, ssh_key)
        claims = clean.claims(account(groups=[] if narrower else ["games"]), ssh(ALICE, public(ssh_key)), sudo(), supersedes=old)
        pid = daemon_pid(clean)
        name = clean.drop(clean.sign(claims))
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        clean.host.wait_for(lambda: bool(clean.pid()) and clean.tidegate("status").returncode == 0, what="it is back")
        assert clean.answer_for(name, timeout=20)["verdict"] == "accepted"
        clean.host.wait_for(lambda: len(clean.status()["grants"]) == 1, what="the old one is over")
        assert state(clean, claims["jti"]) == "open"
        left = clean.host.ssh(ALICE, ssh_key, f"id -nG; sudo -n -l {ALLOWED}")
        assert left.returncode == 0
        assert ("games" in left.stdout.split()) is not narrower
        assert sleeps(clean) == (0 if narrower else 2)
        clean.tidegate("revoke", claims["jti"])
        clean.host.wait_for(lambda: not clean.status()["grants"], what="it is over")


def stay(scene: Scene, key: Path, command: str) -> subprocess.Popen[bytes]:
    """A login that stays."""
    return subprocess.Popen(scene.host.ssh_argv(ALICE, key, command), stdin=subprocess.DEVNULL)


def test_sessions_are_seen_and_ended_one_by_one(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)))
    first, second = (stay(clean, ssh_key, f"sleep 60{number}") for number in (1, 2))
    try:
        found = clean.host.wait_for(lambda: listed if len(listed := sessions(clean)) == 2 and all(map(asleep, listed)) else None)
        assert found is not None
        assert {entry["jti"] for entry in found} == {jti}
        assert all(entry["login"] == ALICE and entry["from"] and entry["processes"] >= 2 for entry in found)
        chosen = next(entry for entry in found if any("sleep 601" in words for words in entry["commands"]))
        assert "sleep 601" in clean.tidegate("sessions", "list").stdout
        done = clean.tidegate("sessions", "kill", chosen["id"])
        assert (done.returncode, "goes on" in done.stdout) == (0, True), done
        first.wait(timeout=10)
        assert [entry["id"] for entry in sessions(clean)] == [entry["id"] for entry in found if entry is not chosen]
        assert second.poll() is None
        assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 0
        assert state(clean, jti) == "open"
        unknown = clean.tidegate("sessions", "kill", "nothing", "--json")
        assert (unknown.returncode, json.loads(unknown.stdout)["code"]) == (1, "session_unknown")
    finally:
        for process in (first, second):
            process.kill()
            process.wait()


def asleep(entry: dict[str, Any]) -> bool:
    """Its shell has become the command that was asked for, which takes a moment after it is listed."""
    return any("sleep 60" in words for words in entry["commands"])


def sessions(scene: Scene) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(scene.tidegate("sessions", "list", "--json").stdout)["sessions"]
    return found


def test_drained_nobody_new_gets_in_and_the_sessions_end_when_the_time_is_over(clean: Scene, ssh_key: Path) -> None:
    jti = clean.open(account(), ssh(ALICE, public(ssh_key)), sudo())
    occupy(clean, ssh_key)
    began = time.time()
    done = clean.tidegate("revoke", jti, "--drain", "8s", "--reason", "maintenance", "--json")
    assert done.returncode == 0, done
    assert [entry["jti"] for entry in json.loads(done.stdout)["draining"]] == [jti]
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255
    assert (state(clean, jti), sleeps(clean)) == ("draining", 2)
    clean.kill()
    assert (state(clean, jti), sleeps(clean)) == ("draining", 2)
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255
    longer = clean.tidegate("revoke", jti, "--drain", "1h", "--json")  # nothing lengthens it
    assert longer.returncode == 0
    clean.host.wait_for(lambda: state(clean, jti) == "gone", 20, "its time is over")
    found = clean.receipt(jti)
    assert (sleeps(clean), found["cause"]) == (0, "revoked")
    assert "maintenance" in found["cause_text"]
    assert 7.9 < time.time() - began < 60


def test_drained_it_still_ends_at_its_own_end_if_that_is_sooner(clean: Scene, ssh_key: Path) -> None:
    claims = clean.claims(account(), ssh(ALICE, public(ssh_key)), lifetime=5)
    clean.answer_for(clean.drop(clean.sign(claims)))
    clean.tidegate("revoke", "--subject", claims["sub"], "--drain", "1h")
    time.sleep(max(0.0, claims["exp"] + 0.5 - time.time()))
    assert clean.receipt(claims["jti"])["cause"] == "revoked"
    assert clean.tidegate("revoke", claims["jti"], "--drain", "2d").returncode == 2
