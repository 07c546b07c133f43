"""Revocations and bulletins on a whole host: what ends, how fast, what is suspended and comes back, and what is refused."""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.trust import TYP_BULLETIN, TYP_EVENT
from tests.host.scene import ALLOWED, ISSUER, OTHER_ISSUER, SUBJECT, Scene, account, public, role, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host
ALICE = "jit-alice"
EVENT = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
FRESH = "https://fresh.example"
WITHIN = 30
POLICY = f"""\
roles:
  watched:
    fresh_within: 1h
    entries:
      - {{type: account}}
rules:
  - name: contractors
    issuers: [{ISSUER}, {OTHER_ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], home: [ephemeral, archive] }}
    ssh: {{ keys: true, actions: [login, exec, port-forwarding] }}
    sudo: {{ run_as: [root], commands: ["{ALLOWED}", /usr/bin/id] }}
    roles: [watched]
  - name: fresh-only
    issuers: [https://fresh.example]
    fresh_within: {WITHIN}s
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [login, exec] }}
"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=install_tidegate) as host:
        found = set_up(host, POLICY)
        found.new_key("fresh", FRESH)
        yield found


def event(scene: Scene, sub_id: dict[str, str], **more: object) -> dict[str, Any]:
    """Claims of a good SET."""
    reason = {"reason_admin": {"en": "left the company"}}
    good = {"iss": ISSUER, "aud": scene.host_id, "iat": int(time.time()), "jti": f"set-{secrets.token_hex(6)}"}
    return {**good, "events": {EVENT: reason}, "sub_id": sub_id, **more}


def send_event(scene: Scene, sub_id: dict[str, str], *kids: str, **more: object) -> dict[str, Any]:
    """The answer to a SET."""
    return scene.answer_for(scene.drop(scene.sign(event(scene, sub_id, **more), *kids, typ=TYP_EVENT)))


_seq = iter(range(1, 1 << 30))


def bulletin(scene: Scene, *revoked: str, kid: str = "fresh", **more: object) -> dict[str, Any]:
    """The answer to a bulletin with the next seq."""
    now = int(time.time())
    iss = FRESH if kid == "fresh" else ISSUER
    good = {"iss": iss, "aud": scene.host_id, "iat": now, "exp": now + 600, "seq": next(_seq), "revoked": list(revoked)}
    return scene.answer_for(scene.drop(scene.sign({**good, **more}, kid, typ=TYP_BULLETIN)))


def age(scene: Scene, left_s: int = 6) -> float:
    """A bulletin that has only so much of its freshness left; returns when it is stale."""
    issued = int(time.time()) - WITHIN + left_s
    assert bulletin(scene, iat=issued)["verdict"] == "accepted"
    return issued + WITHIN


def state(scene: Scene, jti: str) -> str:
    return next((str(found["state"]) for found in scene.status()["grants"] if found["jti"] == jti), "gone")


def opens(scene: Scene, jti: str) -> None:
    """By the bulletin that was just answered; the answer waits for no opening."""
    scene.host.wait_for(lambda: state(scene, jti) == "open", 2, "the bulletin is fresh")


def sleeps(scene: Scene, login: str = ALICE) -> int:
    """How many of the tenant's sleeps live."""
    return int(scene.host.run(f"pgrep -c -u {login} sleep", check=False).stdout.strip() or 0)


def occupy(scene: Scene, key: Path, login: str = ALICE) -> None:
    left = "nohup sleep 600 >/dev/null 2>&1 & setsid sleep 600 >/dev/null 2>&1 & exit 0"
    assert scene.host.ssh(login, key, left).returncode == 0
    scene.host.wait_for(lambda: sleeps(scene, login) >= 2, what="the session's processes")


def daemon_pid(scene: Scene) -> int:
    """The daemon's process id as this machine sees it: asking systemd costs more time than there is."""
    cgroups = Path(f"/proc/{scene.host.leader}/root/sys/fs/cgroup/system.slice/tidegated.service/cgroup.procs")
    return int(cgroups.read_text().split()[0])


def sign_wait(scene: Scene, kid: str = "fresh") -> None:
    """Until the host knows the key."""
    scene.host.wait_for(lambda: bulletin(scene, kid=kid)["verdict"] == "accepted", what=f"key {kid} is trusted")


def test_a_revocation_costs_the_milliseconds_of_an_expiry(clean: Scene, ssh_key: Path) -> None:
    expiring = clean.claims(account(), ssh(ALICE, public(ssh_key)), lifetime=8)
    assert clean.answer_for(clean.drop(clean.sign(expiring)))["verdict"] == "accepted"
    revoked = clean.open(account("jit-bob"), ssh("jit-bob", public(ssh_key)), sudo("jit-bob"), sub="bob@example.com")
    for login in (ALICE, "jit-bob"):
        occupy(clean, ssh_key, login)
    answer = send_event(clean, {"format": "jwt_id", "iss": ISSUER, "jti": revoked})
    assert (answer["verdict"], answer["revoked"]) == ("accepted", [{"iss": ISSUER, "jti": revoked}])
    assert clean.host.ssh("jit-bob", ssh_key, "true").returncode == 255
    found, other = clean.receipt(revoked), clean.receipt(expiring["jti"])
    assert (found["cause"], other["cause"]) == ("revoked", "expired")
    assert "left the company" in found["cause_text"]
    print(f"\nms to the doors / the last process: revocation by SET {found['lateness_ms']}, expiry {other['lateness_ms']}")


def test_a_set_for_a_subject_ends_what_was_issued_before_it_and_no_later_grant(clean: Scene, ssh_key: Path) -> None:
    old = clean.open(account(), ssh(ALICE, public(ssh_key)))
    kept = clean.open(account("jit-bob"), sub="bob@example.com")
    early = clean.sign(clean.claims(account("jit-late"), ssh("jit-late", public(ssh_key))))  # on its way, the courier is slow
    sub_id = {"format": "iss_sub", "iss": ISSUER, "sub": SUBJECT}
    first = event(clean, sub_id)
    data = clean.sign(first, typ=TYP_EVENT)
    assert clean.answer_for(clean.drop(data))["revoked"] == [{"iss": ISSUER, "jti": old}]
    clean.host.wait_for(lambda: state(clean, old) == "gone", what="the revoked one is over")
    assert state(clean, kept) == "open"
    assert clean.answer_for(clean.drop(early))["code"] == "grant_revoked"
    time.sleep(max(0.0, first["iat"] + 1 - time.time()))
    again = clean.open(account(), ssh(ALICE, public(ssh_key)))
    assert clean.answer_for(clean.drop(data))["revoked"] == []  # replayed: it means what it meant
    assert state(clean, again) == "open"
    clean.kill()
    assert clean.answer_for(clean.drop(early))["code"] == "grant_revoked"


def test_a_set_that_comes_before_its_grant_stops_it(clean: Scene) -> None:
    claims = clean.claims(account())
    answer = send_event(clean, {"format": "jwt_id", "iss": ISSUER, "jti": claims["jti"]})
    assert (answer["verdict"], answer["revoked"]) == ("accepted", [])
    clean.restart()
    assert clean.answer_for(clean.drop(clean.sign(claims)))["code"] == "grant_revoked"
    email = send_event(clean, {"format": "email", "email": "Carol@Example.com"})
    assert email["verdict"] == "accepted"
    assert (
        clean.answer_for(clean.drop(clean.grant(account(), sub="carol@example.com", iat=int(time.time()) - 5)))["code"]
        == "grant_revoked"
    )


def test_nobody_revokes_what_he_may_not_grant(clean: Scene) -> None:
    jti = clean.open(account())
    named = {"format": "jwt_id", "iss": ISSUER, "jti": jti}
    for answer in (
        send_event(clean, named, "stranger"),
        send_event(clean, named, "other"),
        send_event(clean, named, "other", iss=OTHER_ISSUER),
        send_event(clean, named, aud="urn:tidegate:other"),
        send_event(clean, named, iat=int(time.time()) + 600),
    ):
        assert answer["verdict"] == "refused", answer
    assert send_event(clean, {"format": "email", "email": SUBJECT}, "other", iss=OTHER_ISSUER)["revoked"] == []
    assert bulletin(clean, jti, kid="fresh")["revoked"] == []  # of another issuer
    assert state(clean, jti) == "open"


def test_a_set_goes_before_the_grants_that_came_first(clean: Scene) -> None:
    jti = clean.open(account("jit-x"), sub="x@example.com")
    clean.host.run(["systemctl", "kill", "--signal=STOP", "tidegated"])
    names = [clean.drop(clean.grant(account(f"jit-n{n}"), sub=f"n{n}@example.com")) for n in range(80)]
    order = clean.drop(clean.sign(event(clean, {"format": "jwt_id", "iss": ISSUER, "jti": jti}), typ=TYP_EVENT))
    clean.host.run(["systemctl", "kill", "--signal=CONT", "tidegated"])
    assert clean.answer_for(order, timeout=30)["revoked"] == [{"iss": ISSUER, "jti": jti}]
    before = [found["source"] for found in clean.answers()]
    assert sum(name in before[: before.index(order)] for name in names) <= 32
    for name in names:
        assert clean.answer_for(name, timeout=60)["verdict"] == "accepted"


def test_stale_is_suspended_and_fresh_is_open_again(clean: Scene, ssh_key: Path) -> None:
    sign_wait(clean)
    claims = clean.claims(account(), ssh(ALICE, public(ssh_key)), iss=FRESH, lifetime=300)
    assert clean.answer_for(clean.drop(clean.sign(claims, "fresh")))["verdict"] == "accepted"
    occupy(clean, ssh_key)
    assert clean.host.ssh(ALICE, ssh_key, "echo kept > file").returncode == 0
    age(clean)
    clean.host.wait_for(lambda: state(clean, claims["jti"]) == "suspended", 20, "the bulletin is stale")
    clean.host.wait_for(lambda: sleeps(clean) == 0, what="its sessions are dead")
    assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255
    assert "bulletin" in clean.status()["grants"][0]["suspended"]
    assert "Suspended" in clean.tidegate("status").stdout
    for again in (clean.restart, clean.kill):  # and it stays so
        again()
        assert state(clean, claims["jti"]) == "suspended"
        assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255
    assert bulletin(clean, seq=1)["code"] == "bulletin_replayed"
    assert bulletin(clean, iat=int(time.time()) - 60)["verdict"] == "accepted"  # new, but old when it came
    time.sleep(0.5)
    assert state(clean, claims["jti"]) == "suspended"
    assert bulletin(clean)["verdict"] == "accepted"
    opens(clean, claims["jti"])
    assert clean.host.ssh(ALICE, ssh_key, "cat file").stdout == "kept\n"
    assert bulletin(clean, claims["jti"])["revoked"] == [{"iss": FRESH, "jti": claims["jti"]}]
    found = clean.receipt(claims["jti"])
    assert (found["cause"], len(found["suspensions"])) == ("revoked", 1)
    assert "bulletin" in found["cause_text"]


def test_a_grant_waits_for_the_fresh_bulletin_that_it_needs_and_a_suspended_one_ends_in_time(clean: Scene, ssh_key: Path) -> None:
    sign_wait(clean)
    assert bulletin(clean, iat=int(time.time()) - 100)["verdict"] == "accepted"
    claims = clean.claims(account(), ssh(ALICE, public(ssh_key)), iss=FRESH, lifetime=18)
    assert clean.answer_for(clean.drop(clean.sign(claims, "fresh")))["verdict"] == "accepted"
    assert state(clean, claims["jti"]) == "pending"
    assert clean.host.run("id jit-alice", check=False).returncode != 0
    assert bulletin(clean)["verdict"] == "accepted"
    opens(clean, claims["jti"])
    occupy(clean, ssh_key)
    age(clean, 4)
    clean.host.wait_for(lambda: state(clean, claims["jti"]) == "suspended", 20, "the bulletin is stale")
    time.sleep(max(0.0, claims["exp"] + 0.5 - time.time()))
    assert clean.receipt(claims["jti"])["cause"] == "expired"
    assert bulletin(clean)["verdict"] == "accepted"
    assert state(clean, claims["jti"]) == "gone"


def test_a_role_needs_fresh_word_too(clean: Scene) -> None:
    claims = clean.claims(
        role("watched"), ssh(ALICE, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBnc8i9vGk7Rfw1reGCxSy82P4TZjXaxZnTjibyr7uwi")
    )
    assert clean.answer_for(clean.drop(clean.sign(claims)))["verdict"] == "accepted"
    assert state(clean, claims["jti"]) == "pending"
    assert bulletin(clean, kid="cp-1")["verdict"] == "accepted"
    opens(clean, claims["jti"])


def test_killed_at_any_moment_of_suspending_and_resuming_it_converges(clean: Scene, ssh_key: Path) -> None:
    sign_wait(clean)
    claims = clean.claims(account(), ssh(ALICE, public(ssh_key)), iss=FRESH, lifetime=900)
    assert clean.answer_for(clean.drop(clean.sign(claims, "fresh")))["verdict"] == "accepted"
    for delay in (0.0, 0.01):
        stale = age(clean, 8)  # then the daemon is killed
        occupy(clean, ssh_key)
        time.sleep(max(0.0, stale + delay - time.time()))
        os.kill(daemon_pid(clean), signal.SIGKILL)
        clean.host.wait_for(lambda: bool(clean.pid()) and clean.tidegate("status").returncode == 0, what="it is back")
        clean.host.wait_for(lambda: state(clean, claims["jti"]) == "suspended", what="it is suspended")
        clean.host.wait_for(lambda: sleeps(clean) == 0, what="nobody is in")
        assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 255
        now = int(time.time())
        fresh = {"iss": FRESH, "aud": clean.host_id, "iat": now, "exp": now + 600, "seq": next(_seq), "revoked": []}
        name = clean.drop(clean.sign(fresh, "fresh", typ=TYP_BULLETIN))
        time.sleep(delay)
        os.kill(daemon_pid(clean), signal.SIGKILL)
        clean.host.wait_for(lambda: bool(clean.pid()) and clean.tidegate("status").returncode == 0, what="it is back")
        assert clean.answer_for(name)["verdict"] == "accepted"
        opens(clean, claims["jti"])
        assert clean.host.ssh(ALICE, ssh_key, "true").returncode == 0


def test_suspended_stays_suspended_over_a_reboot(ssh_key: Path) -> None:
    with Host.boot(prepare=install_tidegate) as host:
        scene = set_up(host, POLICY)
        scene.new_key("fresh", FRESH)
        sign_wait(scene)
        host.run(["systemctl", "enable", "tidegated"])
        claims = scene.claims(account(), ssh(ALICE, public(ssh_key)), iss=FRESH, lifetime=300)
        assert scene.answer_for(scene.drop(scene.sign(claims, "fresh")))["verdict"] == "accepted"
        age(scene)
        host.wait_for(lambda: state(scene, claims["jti"]) == "suspended", 20, "the bulletin is stale")
        host.reboot(clean=False)
        host.wait_for(lambda: scene.pid() and scene.tidegate("status").returncode == 0, what="tidegated is back")
        host.wait_for(lambda: state(scene, claims["jti"]) == "suspended", what="still suspended")
        assert host.ssh(ALICE, ssh_key, "true").returncode == 255
        assert bulletin(scene)["verdict"] == "accepted"
        opens(scene, claims["jti"])
        assert host.ssh(ALICE, ssh_key, "true").returncode == 0
