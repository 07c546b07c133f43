"""An undo that fails keeps no door open, stays open itself, is tried again at growing distances, says so, and ends whole."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.scene import ISSUER, OUTBOX, UNIT, Scene, account, group, set_up, ssh, sudo
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.hosts.snapshot import differences

pytestmark = pytest.mark.host
ALICE = "jit-alice"
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games] }}
    groups: [games]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["/usr/bin/systemctl restart cron.service"] }}
"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Accounts are rows of /etc here: a folder that can be made read-only under the daemon."""
    with Host.boot(prepare=install_tidegate) as host:
        host.write("/etc/tidegate/conf.d/10-rows.yaml", "account_backend: passwd\n")
        yield set_up(host, POLICY)


@contextlib.contextmanager
def read_only(scene: Scene, path: str) -> Iterator[None]:
    """A mount over the folder by which nothing in it can be changed; the daemon has a mount namespace of its own."""
    host, remount = scene.host, f"mount -o remount,bind,ro {path}"
    host.run(f"mount --bind {path} {path} && {remount} && nsenter --target {scene.pid()} --mount {remount}")
    try:
        yield
    finally:
        # The daemon goes on trying: it may hold a file in the folder for the moment of one try.
        host.wait_for(lambda: host.run(f"umount {path}", check=False).returncode == 0, 10, f"{path} is writable again")


def retries(scene: Scene, jti: str) -> list[dict[str, Any]]:
    """The events of every attempt that failed, oldest first."""
    lines = (scene.host.root / OUTBOX[1:] / "events.ndjson").read_text().splitlines()
    events = [json.loads(line) for line in lines if jti in line]
    return [event for event in events if "next_try_ms" in json.dumps(event)]


def detail(event: dict[str, Any]) -> dict[str, Any]:
    """What the event says beyond OCSF."""
    found: dict[str, Any] = event["unmapped"]["tidegate"] if "tidegate" in event["unmapped"] else event["unmapped"]
    return {**found, **found.get("detail", {})}


@pytest.mark.parametrize(
    ("folder", "what"),
    [("/run/tidegate/sudoers.d", "Read-only"), ("/etc", "Read-only")],
)
def test_an_undo_that_fails_is_loud_and_tried_again_until_it_is_done(scene: Scene, ssh_key: Path, folder: str, what: str) -> None:
    host, before = scene.host, scene.state()
    key = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    jti = scene.open(account(), ssh(ALICE, key), sudo(), group(ALICE, "games"))
    assert host.ssh(ALICE, ssh_key, "nohup sleep 600 >/dev/null 2>&1 & exit 0").returncode == 0
    with read_only(scene, folder):
        done = scene.tidegate("revoke", jti)
        assert (done.returncode, "NOT OVER" in done.stdout) == (1, True)
        assert host.ssh(ALICE, ssh_key, "true").returncode == 255
        assert host.run("pgrep -u 70000-99999; pgrep -U jit-alice", check=False).stdout == ""
        host.wait_for(lambda: len(retries(scene, jti)) >= 4, 30, "four attempts")
        (problem,) = scene.status()["problems"]
        assert jti in problem
        assert what in problem
        assert f"tidegate revoke {jti}" in problem
        told = [detail(event) for event in retries(scene, jti)[:4]]
        assert [found["next_try_ms"] for found in told] == [250, 500, 1000, 2000]
        assert all(what in found["error"] and jti in found["mend"] for found in told)
        times = [event["time"] for event in retries(scene, jti)[:4]]
        assert all(later - earlier >= wait for earlier, later, wait in zip(times, times[1:], (250, 500, 1000), strict=False))
        assert what in host.journal(UNIT)
        assert scene.tidegate("receipts", "show", jti).returncode != 0
        scene.kill()  # what could not be undone is not forgotten by the next daemon
        assert [grant["state"] for grant in scene.status()["grants"]] == ["shutting"]
    host.wait_for(lambda: not scene.status()["grants"], 90, "the undo is done, now that nothing is in its way")
    (receipt,) = json.loads(scene.tidegate("receipts", "show", jti, "--json").stdout)["receipts"]
    assert receipt["claims"]["attempts"] >= 5
    assert receipt["claims"]["cause"] == "revoked"
    assert all(step["undone"] for step in receipt["claims"]["steps"])
    time.sleep(0.3)
    # The daemon that started meanwhile proves sshd and sudo again within 15 s, and takes its probes away.
    host.wait_for(lambda: not scene.status()["problems"], 60, "nothing is wrong any more")
    assert differences(before.files, host.snapshot()) == []


def test_mended_and_told_to_it_does_not_wait_for_its_next_try(scene: Scene, ssh_key: Path) -> None:
    host = scene.host
    key = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    jti = scene.open(account(), ssh(ALICE, key), sudo())
    with read_only(scene, "/run/tidegate/sudoers.d"):
        scene.tidegate("revoke", jti)
        host.wait_for(lambda: len(retries(scene, jti)) >= 6, 60, "the next try is seconds away")
    assert "ended" in scene.tidegate("revoke", jti).stdout
    assert scene.status()["grants"] == []


def test_a_revocation_on_a_full_disk_is_not_forgotten_by_a_daemon_that_dies_then(scene: Scene, ssh_key: Path) -> None:
    """Neither by one that starts with the disk still full."""
    host = scene.host
    key = " ".join(ssh_key.with_suffix(".pub").read_text().split()[:2])
    jti = scene.open(account(), ssh(ALICE, key))
    scene.stop()
    # The journal's folder on a file system of its own, so that it alone is full.
    host.run(
        "cp -a /var/lib/tidegate /root/state && mount -t tmpfs -o size=8m,mode=711 state /var/lib/tidegate"
        " && cp -a /root/state/. /var/lib/tidegate/ && rm -r /root/state"
    )
    try:
        scene.start()
        assert [grant["state"] for grant in scene.status()["grants"]] == ["open"]
        host.run("dd if=/dev/zero of=/var/lib/tidegate/full bs=4k 2>/dev/null; dd if=/dev/zero of=/var/lib/tidegate/full2 bs=1 "
                 "count=9000 2>/dev/null; true")  # fmt: skip
        done = scene.tidegate("revoke", jti, "--reason", "now")
        assert (done.returncode, "NOT OVER" in done.stdout) == (1, True), done.stdout
        assert host.ssh(ALICE, ssh_key, "true").returncode == 255
        scene.kill()
        assert [grant["state"] for grant in scene.status()["grants"]] == ["shutting"]
        assert host.ssh(ALICE, ssh_key, "true").returncode == 255
        host.run("rm /var/lib/tidegate/full*")
        host.wait_for(lambda: not scene.status()["grants"], 90, "it is written down, now that there is room")
        (receipt,) = json.loads(scene.tidegate("receipts", "show", jti, "--json").stdout)["receipts"]
        assert receipt["claims"]["cause"] == "revoked"
        assert "now" in receipt["claims"]["cause_text"]
    finally:
        scene.stop()
        host.run("umount /var/lib/tidegate; rm -f /var/lib/tidegate/state.db*")
