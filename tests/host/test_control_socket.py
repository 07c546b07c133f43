"""The control socket of a whole host: who may ask, and that hostile local users cost nobody anything."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.scene import Scene, account, set_up
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host(beside=True)
CLIENT = "/opt/hostile_client.py"
ATTACK_S = 12


def prepare(root: Path) -> None:
    """With a member of the admin group, and somebody who is not."""
    install_tidegate(root)
    for name, more in (("oncall", ["--groups", "tidegate"]), ("mallory", [])):
        subprocess.run(["chroot", str(root), "useradd", "-m", "-s", "/bin/bash", *more, name], check=True)
    (root / CLIENT[1:]).write_bytes(Path(__file__).with_name("hostile_client.py").read_bytes())


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=prepare) as host:
        yield set_up(host)


def ask_as(scene: Scene, *user: str) -> str:
    """What a client that runs so is told: the first of the answer, or the error."""
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(10)\n"
        "try:\n s.connect('/run/tidegate/control.sock'); s.sendall(b'{\"op\":\"host_key\"}\\n'); print(s.recv(9) or 'hung up on')\n"
        "except OSError as error: print(type(error).__name__)"
    )
    return scene.host.run(["runuser", *user, "--", "python3", "-c", code]).stdout.strip()


def test_root_and_the_admin_group_may_ask_and_nobody_else(scene: Scene) -> None:
    assert scene.host.run("stat -c '%a %U %G' /run/tidegate/control.sock").stdout.split() == ["660", "root", "tidegate"]
    assert ask_as(scene, "-u", "root") == ask_as(scene, "-u", "oncall") == "b'{\"ok\":tru'"
    assert ask_as(scene, "-u", "mallory") == "PermissionError"
    jti = scene.open(account("jit-ten"))
    assert ask_as(scene, "-u", "jit-ten") == "PermissionError"
    assert ask_as(scene, "-u", "jit-ten", "-G", "tidegate") in {"hung up on", "ConnectionResetError", "BrokenPipeError"}
    scene.tidegate("revoke", jti)


def test_who_gave_an_order_stands_in_the_receipt_the_trail_and_the_log(scene: Scene) -> None:
    uid = scene.host.run("id -u oncall").stdout.strip()
    jti = scene.open(account("jit-order"))
    assert scene.tidegate("revoke", jti, "--reason", "left the firm", user="oncall").returncode == 0
    (entry,) = json.loads(scene.tidegate("receipts", "show", jti, "--json").stdout)["receipts"]
    assert entry["claims"]["cause_text"] == f"by uid {uid} on this host: left the firm"
    lines = [
        json.loads(line) for line in (scene.host.root / "var/lib/tidegate/spool/outbox/events.ndjson").read_text().splitlines()
    ]
    assert any(f"by uid {uid} on this host: left the firm" in json.dumps(line) and jti in json.dumps(line) for line in lines)
    assert f"uid {uid} (pid " in scene.host.journal("tidegated.service")


@pytest.mark.parametrize("user", ["oncall", "mallory"])
def test_hostile_local_users_hold_up_no_end_and_keep_nothing(scene: Scene, user: str) -> None:
    def cost() -> tuple[int, int]:
        folder = Path(f"/proc/{scene.host.leader}/root/proc/{scene.pid()}")
        rss = next(int(line.split()[1]) for line in (folder / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return len(list((folder / "fd").iterdir())), rss

    assert scene.status()["problems"] == []
    descriptors, kilobytes = cost()
    told: list[str] = []
    attack = threading.Thread(
        target=lambda: told.append(
            scene.host.run(["runuser", "-u", user, "--", "python3", CLIENT, str(ATTACK_S)], timeout=120).stdout
        )
    )
    claims = scene.claims(account(f"jit-{user}"), lifetime=7)
    assert scene.answer_for(scene.drop(scene.sign(claims)))["verdict"] == "accepted"
    attack.start()
    asked = 0
    while attack.is_alive():
        assert scene.tidegate("status", "--json").returncode == 0, "root is answered"
        asked += 1
        time.sleep(0.2)
    attack.join()
    counted = json.loads(told[0])
    assert counted.get("connected", 0) > 0 if user == "oncall" else counted.keys() == {"PermissionError"}, counted
    (entry,) = json.loads(scene.tidegate("receipts", "show", claims["jti"], "--json").stdout)["receipts"]
    late_ms = entry["claims"]["lateness_ms"]["doors"]
    assert entry["claims"]["cause"] == "expired" and late_ms < ATTACK_S * 1000 / 3, "it ended while they were at it"
    scene.host.wait_for(lambda: cost()[0] <= descriptors + 4, what="no descriptor is kept")
    assert cost()[1] < kilobytes + 96 * 1024
    print(f"\n{user}: {counted}; root was answered {asked} times; the grant ended {late_ms} ms after its deadline")
