"""Nobody answers the name service, be it systemd or another user database: what is open ends on its second all the same."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from agent.trust import TYP_EVENT
from tests.host.scene import ISSUER, Scene, account, public, set_up, sleep_until, ssh, sudo
from tests.host.test_orders import event
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host
ALICE, BOB, CAROL, DAVE = "jit-alice", "jit-bob", "jit-carol", "jit-dave"
# A user database beside systemd's own (systemd.io/USER_GROUP_API): knows nobody, and never says whose member somebody is.
_DATABASE = """
import socketserver, time

class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        heard = b""
        while more := self.request.recv(4096):
            heard += more
            while b"\\0" in heard:
                message, _, heard = heard.partition(b"\\0")
                if b"GetMemberships" in message and b"userName" in message:
                    time.sleep(60)
                self.request.sendall(b'{"error":"io.systemd.UserDatabase.NoRecordFound","parameters":{}}\\0')

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server("/run/systemd/userdb/org.example.Slow", Answer).serve_forever()
"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A host of its own: its PID 1 stands still for a while."""
    with Host.boot(prepare=install_tidegate) as host:
        yield set_up(host)


@contextlib.contextmanager
def stopped(host: Host) -> Iterator[None]:
    """The host's PID 1 runs no more, until the end of the block."""
    os.kill(host.leader, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(host.leader, signal.SIGCONT)


@contextlib.contextmanager
def slow_database(host: Host) -> Iterator[None]:
    """Another user database, which leaves one kind of question open."""
    host.write("/usr/local/lib/database.py", _DATABASE.encode())
    host.run(["systemd-run", "--quiet", "--unit=slow-database", "python3", "-I", "/usr/local/lib/database.py"])
    host.wait_for(lambda: Path(f"/proc/{host.leader}/root/run/systemd/userdb/org.example.Slow").exists(), what="the database")
    try:
        yield
    finally:
        host.run("systemctl stop slow-database; rm -f /run/systemd/userdb/org.example.Slow")


@pytest.mark.parametrize("silent", [stopped, slow_database])
def test_others_end_on_their_second_or_as_told_while_a_grant_waits_for_an_answer(
    scene: Scene, ssh_key: Path, silent: Callable[[Host], AbstractContextManager[None]]
) -> None:
    host, key = scene.host, public(ssh_key)
    claims = scene.claims(account(ALICE), ssh(ALICE, key), sudo(ALICE), lifetime=8)
    revoked = scene.open(account(CAROL), ssh(CAROL, key), sub="carol@example.com")
    ordered = scene.open(account(DAVE), ssh(DAVE, key), sub="dave@example.com")
    scene.answer_for(scene.drop(scene.sign(claims)))
    doors = {login: Path(f"/proc/{host.leader}/root/run/tidegate/keys/{login}") for login in (ALICE, CAROL, DAVE)}
    tenants = [_left_behind(host, login, ssh_key) for login in doors]
    asks = scene.sign(scene.claims(account(BOB), ssh(BOB, key), sudo(BOB), sub="bob@example.com"))
    with silent(host), ThreadPoolExecutor(1) as pool:
        assert time.time() < claims["exp"] - 1.5, "too slow for this test to mean anything"
        sleep_until(claims["exp"] - 1.5)
        waiting = scene.drop(asks)
        time.sleep(0.3)
        order = pool.submit(scene.ask, "revoke", jti=revoked)
        told = scene.drop(scene.sign(event(scene, {"format": "jwt_id", "iss": ISSUER, "jti": ordered}), typ=TYP_EVENT))
        sleep_until(claims["exp"] - 0.2)
        assert [login for login, door in doors.items() if door.exists()] == [ALICE]
        assert (scene.inbox / waiting).exists(), "it waits for nobody: the test means nothing"
        assert not (scene.inbox / told).exists()
        sleep_until(claims["exp"] + 1)
        assert [login for login, door in doors.items() if door.exists()] == []
        assert [path for path in tenants if _lives(path)] == []
        if silent is stopped:
            os.kill(host.leader, signal.SIGCONT)  # what is cleared away after an end needs systemd
        assert order.result(60)["revoked"][0]["jti"] == revoked
    assert scene.answer_for(waiting, timeout=60)["verdict"] == "accepted"
    assert scene.receipt(claims["jti"])["cause"] == "expired"
    assert scene.answer_for(told)["revoked"] == [{"iss": ISSUER, "jti": ordered}]
    assert [scene.receipt(jti)["cause"] for jti in (revoked, ordered)] == ["revoked", "revoked"]
    assert scene.status()["problems"] == []
    scene.tidegate("revoke", "--all", timeout=60)


def _left_behind(host: Host, login: str, ssh_key: Path) -> Path:
    """A process that outlives its session; returns what tells whether anything of the login's lives."""
    host.ssh(login, ssh_key, "setsid nohup sleep 600 >/dev/null 2>&1 & sleep 0.2")
    uid = int(host.run(["id", "-u", login]).stdout)
    path = Path(f"/proc/{host.leader}/root/sys/fs/cgroup/user.slice/user-{uid}.slice/cgroup.events")
    assert _lives(path)
    return path


def _lives(cgroup_events: Path) -> bool:
    """Whether anybody does in that group; systemd takes an empty one away."""
    return cgroup_events.exists() and "populated 1" in cgroup_events.read_text()
