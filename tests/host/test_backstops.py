"""What is left when tidegated is not there: backstops, the start of the host, and a journal or a key that was damaged."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ISSUER, Scene, account, group, public, set_up, sleep_until, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate_beside_a_person

pytestmark = pytest.mark.host
ALICE, BOB = "jit-alice", "jit-bob"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], existing: [deploy] }}
    groups: [games]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root, games], commands: [/usr/bin/id] }}
"""
STATE, KEY = "/var/lib/tidegate/state.db", "/var/lib/tidegate/host.jwk"
WITHIN_S = 25.0  # for what is measured in benchmarks/, and only has to come here
# What is in /run is gone at a reboot by itself, so what reboots is looked at with rows of /etc/passwd, all else with records.
RECORDS, ROWS = "userdb", "passwd"


def prepare(root: Path, backend: str) -> None:
    """With a person's account that was there before, and one of the two kinds of accounts."""
    install_tidegate_beside_a_person(root)
    (root / "etc/tidegate/conf.d/backend.yaml").write_text(f"account_backend: {backend}\n")


def scene_on(backend: str, suite: str) -> Iterator[Scene]:
    with Host.boot(suite=suite, prepare=lambda root: prepare(root, backend)) as host:
        host.run(["systemctl", "enable", "tidegated"])
        yield set_up(host, POLICY)


@pytest.fixture(scope="module")
def shared(suite: str) -> Iterator[Scene]:
    yield from scene_on(RECORDS, suite)


@pytest.fixture
def scene(shared: Scene) -> Iterator[Scene]:
    """As every test finds it: running, healthy, nothing open."""
    yield shared
    host = shared.host
    host.run("systemctl unmask tidegated; test -d /usr/lib/tidegate || mv /usr/lib/tidegate.away /usr/lib/tidegate", check=False)
    host.run("systemctl kill -s CONT tidegated; systemctl kill -s KILL tidegated; systemctl restart tidegated", check=False)
    shared.start()
    shared.tidegate("revoke", "--all")
    host.wait_for(lambda: not shared.status()["grants"], what="everything is shut")


@pytest.fixture
def fresh(suite: str) -> Iterator[Scene]:
    yield from scene_on(ROWS, suite)


def opened(scene: Scene, key: Path, lifetime: int = 7) -> dict[str, Any]:
    """A tenant with a process that hides from nobody, and a person with a group and a sudo rule, both until the same second."""
    exp, iat = int(time.time()) + lifetime, int(time.time()) + 59  # a damaged journal before this test has cost a minute
    hers = scene.claims(account(groups=["games"]), ssh(ALICE, public(key)), sudo(ALICE, "/usr/bin/id"), exp=exp, iat=iat)
    assert scene.answer_for(scene.drop(scene.sign(hers)))["verdict"] == "accepted"
    scene.open(group("deploy", "games"), sudo("deploy", "/usr/bin/id"), exp=exp, iat=iat, sub="deploy@example.com")
    assert scene.host.ssh(ALICE, key, "nohup sleep 600 >/dev/null 2>&1 & exit 0").returncode == 0
    return {**hers, "uid": next(g["uids"][ALICE] for g in scene.status()["grants"] if ALICE in g["uids"])}


def assert_over(scene: Scene, key: Path, claims: dict[str, Any]) -> None:
    """From T on nobody logs in anew; then nobody is left, and nothing that would let anybody in again."""
    host, uid = scene.host, claims["uid"]
    sleep_until(claims["exp"])
    assert host.ssh(ALICE, key, "true").returncode == 255

    def alive() -> str:
        return host.run(f"ps -o pid= -u {uid}; pgrep -f '^sleep 600'", check=False).stdout.strip()

    host.wait_for(lambda: not alive(), WITHIN_S, "every process is dead")
    print(f"\nlast process dead by T+{(time.time() - claims['exp']) * 1000:.0f} ms")
    host.wait_for(lambda: not standing(host), WITHIN_S, "everything is taken away")


def standing(host: Host) -> str:
    """What of any grant is there; /run/userdb and the rows, keys, rules, the person's group, homes."""
    script = """
        ls /run/userdb /run/tidegate/keys /run/tidegate/sudoers.d /run/tidegate/tenants /home | grep -E 'jit-|grant-|[.]user'
        grep -hE 'jit-' /etc/passwd /etc/group /etc/shadow
        id -nG deploy | grep -o games
        sudo -n -l -U deploy | grep -o /usr/bin/id
    """
    return host.run(script, check=False).stdout.strip()


def receipts(scene: Scene) -> list[dict[str, Any]]:
    return [found["claims"] for found in json.loads(scene.tidegate("receipts", "list", "--json").stdout)["receipts"]]


def receipt(scene: Scene, jti: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        return next((claims for claims in receipts(scene) if claims["grant"]["jti"] == jti), None)

    claims = scene.host.wait_for(found, WITHIN_S, "the receipt")
    assert claims is not None
    return claims


def timers(host: Host) -> list[str]:
    return re.findall(
        r"tidegate-backstop@\S+\.timer", host.run("systemctl list-units --all --no-legend 'tidegate-backstop@*'").stdout
    )


def test_a_timer_stands_behind_a_grant_from_its_first_step_to_its_end(scene: Scene) -> None:
    exp = int(time.time()) + 300
    jtis = [scene.open(account(login), exp=exp, sub=f"{login}@example.com") for login in (ALICE, BOB)]
    assert len(timers(scene.host)) in {1, 2}  # one for each second; the boot clock's may differ by one
    scene.tidegate("revoke", jtis[0])
    assert len(timers(scene.host)) == 1
    scene.tidegate("revoke", jtis[1])
    scene.host.wait_for(lambda: not timers(scene.host), what="the timer is gone")
    assert any("systemd timer" in line for line in receipt(scene, jtis[0])["backstops"])
    assert receipt(scene, jtis[0])["ended_by"] == "tidegated"


def test_no_timer_no_grant(scene: Scene) -> None:
    scene.host.run("mv /run/systemd/private /run/systemd/private.away")
    try:
        answer = scene.answer_for(scene.drop(scene.grant(account())))
    finally:
        scene.host.run("mv /run/systemd/private.away /run/systemd/private")
    assert answer["code"] == "backstop_unavailable"
    assert standing(scene.host) == ""


def test_a_healthy_daemon_ends_it_and_the_backstop_keeps_quiet(scene: Scene, ssh_key: Path) -> None:
    claims = opened(scene, ssh_key)
    assert_over(scene, ssh_key, claims)
    assert receipt(scene, claims["jti"])["ended_by"] == "tidegated"
    assert "does not do its job" not in scene.host.journal()


@pytest.mark.host(everywhere=True)
def test_killed_and_masked_before_its_deadline(scene: Scene, ssh_key: Path) -> None:
    claims = opened(scene, ssh_key)
    scene.host.run("systemctl mask --runtime tidegated; kill -KILL $(systemctl show -P MainPID tidegated)")
    assert_over(scene, ssh_key, claims)
    scene.host.run("systemctl unmask --runtime tidegated")
    scene.start()
    found = receipt(scene, claims["jti"])
    assert (found["cause"], found["ended_by"]) == ("expired", "tidegate-backstop")
    assert found["processes_killed"]["count"] >= 1
    assert all(step["undone"] for step in found["steps"])


def test_many_deadlines_with_tidegated_dead_each_come_on_their_second_and_leave_the_journal_whole(
    scene: Scene, ssh_key: Path
) -> None:
    """Each backstop clears away for seconds while the next ones cut: several hold the journal at once."""
    host, first = scene.host, int(time.time()) + 13
    due = {f"jit-turn{number}": first + 3 * number for number in range(12)}
    jtis = {}
    for login, exp in due.items():
        jtis[login] = scene.open(account(login), ssh(login, public(ssh_key)), exp=exp, sub=f"{login}@example.com")
        assert host.ssh(login, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0").returncode == 0
    assert time.time() < first - 1, "too slow for this test to mean anything"
    host.run("systemctl mask --runtime tidegated; kill -KILL $(systemctl show -P MainPID tidegated)")
    for login, exp in due.items():
        door = Path(f"/proc/{host.leader}/root/run/tidegate/keys/{login}")
        sleep_until(exp - 0.3)
        assert door.exists(), f"{login} was ended before its time"
        host.wait_for(lambda door=door: not door.exists(), WITHIN_S, f"the door of {login} is shut")  # type: ignore[misc]
    host.wait_for(lambda: not standing(host), WITHIN_S, "everything is taken away")
    host.run("systemctl unmask --runtime tidegated")
    scene.start()
    assert scene.status()["problems"] == []
    assert {receipt(scene, jti)["cause"] for jti in jtis.values()} == {"expired"}
    assert host.run("ls /var/lib/tidegate | grep damaged", check=False).stdout == ""


def test_stopped_on_purpose(scene: Scene, ssh_key: Path) -> None:
    claims = opened(scene, ssh_key)
    scene.stop()
    assert scene.host.ssh(ALICE, ssh_key, "true").returncode == 0  # a stop ends nobody's access
    assert_over(scene, ssh_key, claims)


def test_hung(scene: Scene, ssh_key: Path) -> None:
    claims = opened(scene, ssh_key)
    scene.host.run(f"kill -STOP {scene.pid()}")
    assert_over(scene, ssh_key, claims)


def test_hung_while_it_holds_the_journals_write_lock(scene: Scene, ssh_key: Path) -> None:
    """By another process here, which holds it as long: nobody else can write."""
    claims = opened(scene, ssh_key)
    code = (
        f"import sqlite3, time; c = sqlite3.connect({STATE!r}, isolation_level=None); c.execute('BEGIN IMMEDIATE'); time.sleep(30)"
    )
    holder = scene.host.popen(["python3", "-c", code])
    time.sleep(0.5)
    scene.host.run(f"kill -STOP {scene.pid()}")
    assert_over(scene, ssh_key, claims)
    holder.kill()
    holder.communicate()


def test_its_package_is_gone(scene: Scene, ssh_key: Path) -> None:
    claims = opened(scene, ssh_key)
    scene.stop()
    scene.host.run("mv /usr/lib/tidegate /usr/lib/tidegate.away")
    assert_over(scene, ssh_key, claims)


@pytest.mark.parametrize("masked", [False, True])
def test_a_reboot_across_the_deadline(fresh: Scene, ssh_key: Path, masked: bool) -> None:
    claims, host = opened(fresh, ssh_key), fresh.host
    host.run("echo 'sleep 300' | at -M now + 2 minutes; systemctl mask tidegated" if masked else "true", check=False)
    if masked:
        host.run("kill -KILL $(systemctl show -P MainPID tidegated)", check=False)
    host.reboot(clean=False)  # a machine in a container is up again at once, so it goes down twice
    sleep_until(claims["exp"] + 0.5)
    if not masked:
        host.reboot(clean=False)
    assert standing(host) == ""
    assert host.run(f"ps -o pid= -u {claims['uid']}", check=False).stdout.strip() == ""
    assert host.ssh(ALICE, ssh_key, "true").returncode == 255
    before_ssh = (
        "systemctl show -P ExecMainExitTimestampMonotonic tidegate-boot; systemctl show -P ExecMainStartTimestampMonotonic ssh"
    )
    boot, sshd = (int(line) for line in host.run(before_ssh).stdout.split())
    assert 0 < boot < sshd


def test_a_reboot_with_tidegated_masked_ends_what_nobody_would_end(fresh: Scene, ssh_key: Path) -> None:
    claims, host = opened(fresh, ssh_key, lifetime=600), fresh.host
    host.run("systemctl mask tidegated; kill -KILL $(systemctl show -P MainPID tidegated)", check=False)
    host.reboot(clean=False)
    assert standing(host) == ""
    host.run("systemctl unmask tidegated")
    fresh.start()
    assert "tidegated is masked" in receipt(fresh, claims["jti"])["cause_text"]


def test_a_reboot_with_a_daemon_that_never_comes_up(fresh: Scene, ssh_key: Path) -> None:
    """What may go on does, with a timer behind it."""
    claims, host = opened(fresh, ssh_key, lifetime=20), fresh.host
    host.run("mv /usr/lib/tidegate /usr/lib/tidegate.away")
    host.reboot(clean=False)
    assert time.time() < claims["exp"], "the host took too long to start for this test to mean anything"
    assert ALICE in standing(host)
    sleep_until(claims["exp"])
    host.wait_for(lambda: not standing(host), WITHIN_S, "everything is taken away")


DAMAGE: dict[str, str] = {
    "pages": f"dd if=/dev/urandom of={STATE} bs=4096 seek=2 count=6 conv=notrunc",
    "one-page": f"dd if=/dev/urandom of={STATE} bs=4096 seek=$(($(stat -c %s {STATE}) / 4096 - 1)) count=1 conv=notrunc",
    "truncated": f"truncate -s 9000 {STATE}",
    "empty": f"truncate -s 0 {STATE}; rm -f {STATE}-wal {STATE}-shm",
    "garbage": f"head -c 60000 /dev/urandom > {STATE}; rm -f {STATE}-wal {STATE}-shm",
    "gone": f"rm -f {STATE} {STATE}-wal {STATE}-shm",
    "key-gone": f"rm {KEY}",
    "key-garbage": f"echo nonsense > {KEY}",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_journal_or_key_ends_everything_and_then_a_new_grant_works(scene: Scene, ssh_key: Path, damage: str) -> None:
    host = scene.host
    claims = opened(scene, ssh_key, lifetime=600)
    last = claims["uid"]
    host.run("systemctl stop tidegated")  # so that the journal is one file
    host.run(DAMAGE[damage])
    used = scene.sign({name: value for name, value in claims.items() if name != "uid"})
    host.run("systemctl start tidegated")
    scene.host_id = host.wait_for(scene._answers_status, what="tidegated answers")["host_id"]
    host.wait_for(lambda: not standing(host), WITHIN_S, "everything is taken away")
    assert host.run(f"ps -o pid= -u {claims['uid']}; pgrep -f '^sleep 600'", check=False).stdout.strip() == ""
    host.wait_for(lambda: not scene.status()["grants"], WITHIN_S, "all are ended")
    told = " ".join(scene.status()["problems"])
    assert ("host key" if damage.startswith("key") else "journal") in told
    if damage not in {"gone", "key-gone"}:
        assert host.run("ls /var/lib/tidegate | grep -c 'damaged-'").stdout.strip() != "0"
    assert scene.answer_for(scene.drop(used))["verdict"] == "refused"  # never twice
    time.sleep(3)
    late = int(time.time()) + 59  # a minute of signing times is lost with the journal
    anew = scene.claims(account(BOB), ssh(BOB, public(ssh_key)), iat=late, sub="bob@example.com")
    answer = scene.answer_for(scene.drop(scene.sign(anew)))
    assert answer["verdict"] == "accepted", answer
    assert host.ssh(BOB, ssh_key, "true").returncode == 0
    assert scene.status()["grants"][0]["uids"][BOB] > last
    host.run("rm -f /var/lib/tidegate/*.damaged-*")


def test_a_journal_that_cannot_be_written_keeps_open_grants_to_their_time(fresh: Scene, ssh_key: Path) -> None:
    host = fresh.host
    claims = opened(fresh, ssh_key, lifetime=15)
    host.run(
        "systemctl stop tidegated; mount --bind /var/lib/tidegate /var/lib/tidegate; mount -o remount,ro,bind /var/lib/tidegate"
    )
    host.run("systemctl start tidegated")
    host.wait_for(fresh._answers_status, what="tidegated answers")
    assert any("closing only" in problem for problem in fresh.status()["problems"])
    assert host.ssh(ALICE, ssh_key, "true").returncode == 0
    assert_over(fresh, ssh_key, claims)
    # The backstop of the deadline that has passed, or the daemon's next try, may hold a file there for a moment.
    host.wait_for(lambda: host.run("umount /var/lib/tidegate", check=False).returncode == 0, 10, "the journal is writable again")
    host.wait_for(lambda: not fresh._answers_status().get("problems", ["-"]), 40, "the daemon goes on as ever")
    fresh.open(account(BOB), sub="bob@example.com")
    assert receipt(fresh, claims["jti"])["cause"] == "expired"


def test_a_daemon_that_hangs_is_started_again(scene: Scene) -> None:
    old = scene.pid()
    scene.host.run(f"kill -STOP {old}")
    scene.host.wait_for(lambda: scene.pid() not in {0, old}, 60, "the watchdog")
    scene.host.wait_for(scene._answers_status, what="tidegated answers")


def test_doctor_says_which_backstops_there_are(scene: Scene) -> None:
    checks = {check["name"]: check for check in json.loads(scene.tidegate("doctor", "--json").stdout)["checks"]}
    assert checks["backstop timers"]["level"] == "ok"
    assert checks["backstop at boot"]["level"] == "ok"
    scene.host.run("systemctl mask tidegate-boot.service")
    checks = {check["name"]: check for check in json.loads(scene.tidegate("doctor", "--json").stdout)["checks"]}
    scene.host.run("systemctl unmask tidegate-boot.service")
    assert checks["backstop at boot"]["level"] == "warn"
