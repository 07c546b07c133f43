"""What sshd and sudo log of tenants on a booted host: each an event, counted in the receipt, none lost while the daemon is dead."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ISSUER, UNIT, Scene, account, public, set_up, ssh, sudo
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)
LOGIN = "jit-alice"
ACTIONS = ["exec", "port-forwarding"]
POLICY = f"""\
rules:
  - name: recorded
    issuers: [{ISSUER}]
    subjects: [alice@example.com]
    max_duration: 1h
    accounts: {{ prefix: jit- }}
    ssh: {{ keys: true, actions: [login, exec, sftp, port-forwarding] }}
    sudo: {{ run_as: [root], commands: [/usr/bin/id] }}
    recording: required
"""
_JOURNALD = "/etc/systemd/journald.conf.d/test.conf"


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    return set_up(shared_tidegate_host, POLICY)


@pytest.fixture
def grant(scene: Scene, ssh_key: Path) -> Iterator[Callable[[], str]]:
    """Opens hers; it is over afterwards."""
    yield lambda: scene.open(account(LOGIN), ssh(LOGIN, public(ssh_key), actions=ACTIONS))
    scene.tidegate("revoke", "--all")
    scene.host.wait_for(lambda: not scene.status()["grants"], 30, "the grant is over")


def through(host: Host, key: Path, target: str) -> str:
    """What ``ssh -W`` to that target says first."""
    argv = host.ssh_argv(LOGIN, key, options=("-W", target))
    return subprocess.run(argv, input="x\n", capture_output=True, text=True, timeout=20, check=False).stdout


def told(scene: Scene, kind: str = "connection.forwarded") -> list[dict[str, Any]]:
    """The details of the events of that kind, oldest first."""
    return [event["unmapped"]["detail"] for event in scene.events(kind)]


def over(scene: Scene, jti: str) -> dict[str, Any]:
    """What the receipt says of its connections."""
    scene.ask("revoke", jti=jti)
    found: dict[str, Any] = scene.receipt(jti)["forwards"]
    return found


@pytest.mark.host(everywhere=True)
def test_every_forwarded_connection_is_an_event_and_counted(scene: Scene, grant: Callable[[], str], ssh_key: Path) -> None:
    jti, before = grant(), len(told(scene))
    assert through(scene.host, ssh_key, "127.0.0.1:22").startswith("SSH-2.0")
    through(scene.host, ssh_key, "no.such.host:25")
    argv = scene.host.ssh_argv(LOGIN, ssh_key, options=("-N", "-R", f"127.0.0.1:7777:{scene.host.address}:22"))
    client = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        knock = "exec 3<>/dev/tcp/127.0.0.1/7777 && head -c 7 <&3"
        scene.host.wait_for(
            lambda: scene.host.run(["bash", "-c", knock], check=False).stdout == "SSH-2.0", 10, "the port is taken over"
        )
    finally:
        client.terminate()
        client.wait()
    scene.host.wait_for(lambda: len(told(scene)) >= before + 4, 10, "four events")
    found = [(event["kind"], event["host"], event["port"]) for event in told(scene)[before:]]
    assert found[:3] == [("local", "127.0.0.1", 22), ("local", "no.such.host", 25), ("listen", "127.0.0.1", 7777)]
    assert set(found[3:]) == {("remote", "", 7777)}
    assert over(scene, jti) == {"absent": "", "count": len(found), "told": len(found), "gaps": 0}


def test_a_session_without_forwards_counts_none(scene: Scene, grant: Callable[[], str], ssh_key: Path) -> None:
    jti = grant()
    assert scene.host.ssh(LOGIN, ssh_key, "echo in").stdout == "in\n"
    assert over(scene, jti) == {"absent": "", "count": 0, "told": 0, "gaps": 0}


@pytest.mark.host(everywhere=True)
def test_every_command_by_sudo_is_an_event_also_one_that_was_refused(scene: Scene, ssh_key: Path) -> None:
    jti = scene.open(account(LOGIN), ssh(LOGIN, public(ssh_key)), sudo(LOGIN, "/usr/bin/id"))
    folder = "'; USER=root ; COMMAND=fake'"
    asked = "printf 'a\na\na\n' | sudo -S -p ''"  # with -n sudo gives up before it says anything in its log
    said = scene.host.ssh(LOGIN, ssh_key, f"mkdir {folder}; cd {folder}; sudo -n id; {asked} id -u")
    assert said.stdout.count("uid=0") == 1
    scene.host.wait_for(lambda: len(scene.events("privilege.used")) >= 2, 10, "two events")
    found = [(event["status"], event["unmapped"]["detail"]) for event in scene.events("privilege.used")]
    assert [(status, detail["path"], detail["command"]) for status, detail in found] == [
        ("Success", "/usr/bin/id", "id"),
        ("Failure", "/usr/bin/id", "id -u"),
    ]
    assert all(detail["cwd"].endswith("fake") and detail["run_as"] == "root" for _, detail in found)
    scene.ask("revoke", jti=jti)
    assert scene.receipt(jti)["sudo"] == {"absent": "", "count": 2, "refused": 1, "told": 2, "gaps": 0}


def test_none_is_lost_while_the_daemon_is_dead(scene: Scene, grant: Callable[[], str], ssh_key: Path) -> None:
    jti, before = grant(), len(told(scene))
    through(scene.host, ssh_key, "127.0.0.1:22")
    scene.host.wait_for(lambda: len(told(scene)) == before + 1, 10, "one event")
    scene.host.run(["systemctl", "kill", "--signal=KILL", UNIT], check=False)
    scene.host.run(["systemctl", "stop", UNIT])
    assert through(scene.host, ssh_key, "localhost:22").startswith("SSH-2.0")
    assert len(told(scene)) == before + 1
    scene.start()
    scene.host.wait_for(lambda: len(told(scene)) == before + 2, 10, "the other event")
    assert [event["host"] for event in told(scene)[before:]] == ["127.0.0.1", "localhost"]
    assert over(scene, jti) == {"absent": "", "count": 2, "told": 2, "gaps": 0}


def test_lines_that_journald_dropped_are_no_silence(scene: Scene, grant: Callable[[], str], ssh_key: Path) -> None:
    """A flood by the tenant itself, over its session's limit."""
    limit(scene.host, "RateLimitIntervalSec=2s\nRateLimitBurst=10")
    try:
        jti = grant()
        # By one process that lives on while journald reads: of lines from one that is gone it knows no unit, and limits none.
        flood = "seq 3000 | logger -p user.debug; for n in 1 2 3 4 5; do sleep 1; logger -p user.debug after; done"
        assert scene.host.ssh(LOGIN, ssh_key, flood, timeout=60).returncode == 0
        found = over(scene, jti)
    finally:
        limit(scene.host, "")
    assert found["gaps"] > 0 and any("Suppressed" in event["why"] for event in told(scene, "log.unseen"))


def test_where_journald_keeps_no_debug_messages_who_must_be_recorded_is_refused(scene: Scene, ssh_key: Path) -> None:
    limit(scene.host, "MaxLevelStore=info")
    try:
        claims = scene.claims(account(LOGIN), ssh(LOGIN, public(ssh_key), actions=ACTIONS))
        answer = scene.answer_for(scene.drop(scene.sign(claims)), timeout=30)
        assert (answer["verdict"], answer["code"]) == ("refused", "forwards_unseen")
        assert scene.open(account(LOGIN), ssh(LOGIN, public(ssh_key), actions=["exec"]))
    finally:
        limit(scene.host, "")
        scene.tidegate("revoke", "--all")
    scene.host.wait_for(lambda: not scene.status()["grants"], 30, "the grant is over")


def limit(host: Host, setting: str) -> None:
    """Let journald have these settings, or its own again."""
    host.run(["mkdir", "-p", str(Path(_JOURNALD).parent)])
    host.write(_JOURNALD, f"[Journal]\n{setting}\n")
    host.run(["systemctl", "restart", "systemd-journald"])
