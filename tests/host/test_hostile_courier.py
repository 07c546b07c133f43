"""What a courier in the wrong hands can do: keep back and throw away what it carries, and nothing else."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from agent.trust import TYP_EVENT
from tests.host.scene import ISSUER, OUTBOX, Scene, account, public, sleep_until, ssh
from tests.host.test_orders import event
from tests.hosts.shell import Shell

pytestmark = pytest.mark.host
PROGRAM = Path(__file__).with_name("hostile_courier.py")
STOLEN, CANARY = "/var/lib/tidegate/courier/stolen", "/etc/canary"
ATTACK_S = 14


def attack(host: Shell) -> "subprocess.Popen[str]":
    """The attacker, as the courier's account on the host."""
    host.write("/usr/local/lib/hostile_courier.py", PROGRAM.read_bytes())
    as_courier = ["setpriv", "--reuid=tidegate-courier", "--regid=tidegate-courier", "--init-groups", "--no-new-privs"]
    argv = [*as_courier, "/usr/bin/python3", "-I", "/usr/local/lib/hostile_courier.py", str(ATTACK_S), STOLEN, CANARY]
    return host.popen(argv)


def alive(scene: Scene, login: str) -> int:
    return int(scene.host.run(f"pgrep -c -u {login}", check=False).stdout.strip() or 0)


def grants(scene: Scene) -> dict[str, str]:
    return {str(found["jti"]): str(found["state"]) for found in scene.status()["grants"]}


def test_a_courier_in_the_wrong_hands_opens_nothing_reads_nothing_and_holds_up_no_end(fresh_scene: Scene, ssh_key: Path) -> None:
    scene, host = fresh_scene, fresh_scene.host
    key = ssh("jit-alice", public(ssh_key))
    claims = scene.claims(account("jit-old"), ssh("jit-old", public(ssh_key)))
    old = scene.sign(claims)
    assert scene.answer_for(scene.drop(old))["verdict"] == "accepted"
    assert scene.tidegate("revoke", claims["jti"]).returncode == 0
    host.run(f"install -d -o tidegate-courier -g tidegate-courier -m 0700 {STOLEN}")
    host.write(f"{STOLEN}/old.jws", old)
    host.write(f"{STOLEN}/stranger.jws", scene.sign(scene.claims(account("jit-evil")), "stranger"))
    host.run(f"chown -R tidegate-courier {STOLEN}")
    host.write(CANARY, "untouched\n")
    exp = int(time.time()) + 12
    alice = scene.open(account("jit-alice"), key, exp=exp)
    bob = scene.open(account("jit-bob"), ssh("jit-bob", public(ssh_key)), sub="bob@example.com")
    for login in ("jit-alice", "jit-bob"):
        assert host.ssh(login, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0").returncode == 0
    with attack(host) as attacker:
        host.wait_for(lambda: len(list(scene.inbox.iterdir())) > 20, what="the flood has begun")
        ordered = time.monotonic()
        scene.drop(scene.sign(event(scene, {"format": "jwt_id", "iss": ISSUER, "jti": bob}), typ=TYP_EVENT))
        host.wait_for(lambda: alive(scene, "jit-bob") == 0, 5, "the revoked tenant's processes are dead")
        revoked_s = time.monotonic() - ordered
        sleep_until(exp + 1)
        assert alive(scene, "jit-alice") == 0 and host.ssh("jit-alice", ssh_key, "true").returncode == 255
        printed, _ = attacker.communicate(timeout=60)
    said: dict[str, Any] = json.loads(printed)
    assert said["uid"] >= 100 and said["replayed"] == 8 and said["flooded"] > 100
    assert (said["read"], said["reached"], said["wrote"]) == ([], [], [])
    assert host.run(["cat", CANARY]).stdout == "untouched\n"
    receipts = {jti: scene.receipt(jti) for jti in (alice, bob)}
    late = {jti: found["lateness_ms"] for jti, found in receipts.items()}
    assert all(found["last_process"] < 1000 for found in late.values()), late
    left = [each for found in receipts.values() for each in found["residue"] if not each["removed"]]
    assert left == []
    host.wait_for(lambda: not grants(scene), 30, "everything has ended")
    assert host.run("getent passwd jit-old jit-evil jit-alice jit-bob", check=False).stdout == ""
    print(f"\nrevoked under a flood of {said['flooded']} files: dead after {revoked_s:.2f} s; receipts: {late}")
    _works_afterwards(scene)


def _works_afterwards(scene: Scene) -> None:
    """With the folders cleared, everything is as before: nothing had to be mended but the attacker's own files."""
    scene.host.wait_for(lambda: not [path for path in scene.inbox.iterdir() if path.name[0] != "."], 60, "the inbox is taken in")
    scene.host.run(f"find {OUTBOX} -name '*junk*' -delete; find {OUTBOX} -type l -delete")
    jti = scene.open(account("jit-carol"), lifetime=60)
    assert scene.tidegate("revoke", jti).returncode == 0
    assert any(jti in json.dumps(found) for found in scene.events("grant.ended"))
