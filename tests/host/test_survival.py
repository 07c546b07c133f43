"""Nothing that a tenant left running outlives its grant: the quick rows of `make survive`, and what comes after the end."""

import time
from collections.abc import Iterator

import pytest

from tests.host.scene import ISSUER, Scene, account, group, set_up, sudo
from tests.hosts.fallback import available
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate_beside_a_person
from tests.survival.rows import ROWS
from tests.survival.stage import play

pytestmark = pytest.mark.host
POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash], existing: [deploy] }}
    groups: [games]
    sudo: {{ run_as: [games], commands: [/usr/bin/sleep 7777] }}
"""


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=install_tidegate_beside_a_person) as host:
        yield set_up(host, POLICY)


def test_whatever_was_left_running_is_dead_after_the_end_and_what_was_there_before_goes_on() -> None:
    rows = [row for row in ROWS if row.sample]
    results = play(available().host_class(), rows)
    assert len(results) == len(rows)
    assert not [f"{result.row.name}: {result.verdict} ({result.detail})" for result in results if result.survived]


def test_what_comes_after_the_end_is_ended_by_the_sweeps_and_nobody_elses_is(scene: Scene) -> None:
    jti = scene.open(account(), group("deploy", "games"))
    uid = scene.status()["grants"][0]["uids"]["jit-alice"]
    assert scene.tidegate("revoke", jti).returncode == 0
    late = ["--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
    held = ["--reuid", "deploy", "--regid", "deploy", "--groups", "games"]
    own = ["--reuid", "deploy", "--regid", "deploy", "--clear-groups"]
    for seconds, options in ((8101, late), (8102, held), (8103, own)):
        scene.host.run(["setsid", "-f", "setpriv", *options, "sh", "-c", f"exec sleep {seconds} >/dev/null 2>&1 </dev/null"])
    scene.host.wait_for(lambda: running(scene, "810[123]") == {"8103"}, timeout=7, what="the sweeps have been")
    time.sleep(0.3)
    assert running(scene, "810[123]") == {"8103"}


def test_what_was_lent_is_ended_from_the_journal_alone_by_a_daemon_that_saw_none_of_it(scene: Scene) -> None:
    """Killed while the grant stands, started after T."""
    claims = scene.claims(group("deploy", "games"), sudo("deploy", "/usr/bin/sleep 7777", run_as=["games"]), lifetime=4)
    assert scene.answer_for(scene.drop(scene.sign(claims)))["verdict"] == "accepted"
    start = "setsid -f runuser -u deploy -- sh -c 'exec %s' >/dev/null 2>&1 </dev/null"
    scene.host.run(start % "sudo -n -u games /usr/bin/sleep 7777")
    scene.host.run(start % "sleep 8104")
    scene.host.run("setsid -f setpriv --reuid deploy --regid deploy --clear-groups sleep 8105 >/dev/null 2>&1 </dev/null")
    scene.host.wait_for(lambda: running(scene, "7777|810[45]") == {"7777", "8104", "8105"}, what="all three run")
    scene.stop()
    time.sleep(max(0.0, claims["exp"] + 0.1 - time.time()))
    scene.start()
    assert running(scene, "7777|810[45]") == {"8105"}


def test_what_a_killed_agent_left_frozen_goes_on_when_it_is_back(scene: Scene) -> None:
    scene.host.run("mkdir -p /sys/fs/cgroup/user.slice")
    mark = "os.setxattr(p, 'trusted.tidegate-frozen', b'1')"
    scene.host.run(
        ["python3", "-I", "-c", f"import os; p = '/sys/fs/cgroup/user.slice'; {mark}; open(p + '/cgroup.freeze', 'w').write('1')"]
    )
    scene.kill()
    assert scene.host.read("/sys/fs/cgroup/user.slice/cgroup.freeze").strip() == b"0"


def running(scene: Scene, seconds: str) -> set[str]:
    """The sleeps of these lengths that live."""
    done = scene.host.run(f"pgrep -ax sleep | grep -Eo '({seconds})$'", check=False)
    return set(done.stdout.split())
