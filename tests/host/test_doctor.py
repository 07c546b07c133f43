"""doctor on a whole host: what is broken there is found, named by its code, and gone once it is mended as it says."""

import json
from collections.abc import Iterator

import pytest

from tests.host.scene import POLICY, POLICY_FILE, Scene, set_up
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)

Found = dict[str, tuple[str, str]]
DROP_IN = "/etc/ssh/sshd_config.d/10-admin.conf"
RECORDER = "tidegate-recorder.service"


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    return set_up(shared_tidegate_host)


@pytest.fixture
def healthy(scene: Scene) -> Iterator[Scene]:
    """Before and after each test nothing is found but what a container lacks."""
    assert codes(scene) <= {"execs_unseen", "clock_unsynchronised"}
    yield scene
    scene.host.wait_for(lambda: codes(scene) <= {"execs_unseen", "clock_unsynchronised"}, 40, "all is mended")


def checks(scene: Scene, *before: str) -> list[dict[str, str]]:
    done = scene.tidegate(*before, "doctor", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1) and done.stderr == ""
    listed: list[dict[str, str]] = found["checks"]
    return listed


def codes(scene: Scene, *before: str) -> set[str]:
    """Every code that is told."""
    return {check["code"] for check in checks(scene, *before)} - {""}


def failed(scene: Scene) -> set[str]:
    return {check["code"] for check in checks(scene) if check["level"] == "fail"}


def test_a_match_of_the_admins_that_wins_over_ours_is_found(healthy: Scene) -> None:
    healthy.host.write(DROP_IN, "Match All\n  PasswordAuthentication yes\n")
    healthy.host.wait_for(lambda: failed(healthy) == {"sshd_conflict"}, 30, "the conflict is found")
    (told,) = [check for check in checks(healthy) if check["code"] == "sshd_conflict"]
    assert "PasswordAuthentication yes" in told["detail"] and told["mend"]
    assert "[sshd_conflict]" in healthy.tidegate("doctor").stdout
    healthy.host.run(["rm", DROP_IN])


def test_an_sshd_that_would_not_start_again_is_found_with_the_daemon_dead_too(healthy: Scene) -> None:
    healthy.stop()
    healthy.host.write(DROP_IN, "NoSuchKeyword yes\n")
    assert failed(healthy) == {"agent_unreachable", "sshd_failed"}
    (told,) = [check for check in checks(healthy) if check["code"] == "sshd_failed"]
    assert "10-admin.conf" in told["detail"]
    healthy.host.run(["rm", DROP_IN])
    healthy.start()


def test_accounts_that_nobody_would_resolve_are_found(healthy: Scene) -> None:
    """Asked of another configuration, so that the daemon goes on as it was."""
    healthy.host.write("/tmp/userdb.yaml", "account_backend: userdb\n")
    assert "nsswitch_without_systemd" not in codes(healthy, "--config", "/tmp/userdb.yaml")
    healthy.host.run("cp -p /etc/nsswitch.conf /tmp/nsswitch.before && sed -i 's/ systemd//' /etc/nsswitch.conf")
    assert "nsswitch_without_systemd" in codes(healthy, "--config", "/tmp/userdb.yaml")
    assert not codes(healthy) & {"nsswitch_without_systemd", "nss_systemd_missing"}, "auto keeps rows of passwd, and says so"
    healthy.host.run("cp -p /tmp/nsswitch.before /etc/nsswitch.conf")
    library = healthy.host.run("ls /usr/lib/*/libnss_systemd.so.2").stdout.strip()
    healthy.host.run(["mv", library, f"{library}.away"])
    assert "nss_systemd_missing" in codes(healthy)
    healthy.host.run(["mv", f"{library}.away", library])


def test_a_recorder_that_is_dead_is_found_though_its_socket_stands(healthy: Scene) -> None:
    healthy.host.run(["systemctl", "mask", "--runtime", RECORDER])
    healthy.host.run(["systemctl", "kill", "--signal=KILL", RECORDER])
    healthy.host.wait_for(lambda: "recorder_down" in failed(healthy), what="it is found")
    healthy.host.run(["systemctl", "unmask", "--runtime", RECORDER])
    healthy.host.run(["systemctl", "restart", RECORDER])


def test_backstops_that_would_start_nothing_are_found(healthy: Scene) -> None:
    healthy.host.run("systemctl mask tidegate-boot.service && mv /var/lib/tidegate/backstop /var/lib/tidegate/backstop.away")
    assert {"boot_backstop_off", "backstop_program_missing"} <= codes(healthy)
    healthy.host.run("mv /var/lib/tidegate/backstop.away /var/lib/tidegate/backstop && systemctl unmask tidegate-boot.service")


def test_a_policy_that_gives_root_is_found_and_keeps_nothing_from_working(healthy: Scene) -> None:
    wide = POLICY.replace("sudo: {", 'root_equivalent: ["/bin/bash"]\n    sudo: {').replace(
        "commands: [", 'commands: ["/bin/bash", '
    )
    healthy.policy(wide)
    assert "gives_root" in codes(healthy) and failed(healthy) == set()
    healthy.policy(POLICY)
    assert healthy.host.run(f"grep -c bash {POLICY_FILE}", check=False).stdout.strip() == "1", "the scene's own line of shells"


def test_a_disk_that_is_nearly_full_is_found(healthy: Scene) -> None:
    """A file system of its own for recordings, as many hosts have it."""
    folder = "/var/lib/tidegate/sessions"
    healthy.host.run(f"mount -t tmpfs -o size=64m,mode=2750,uid=tidegate-recorder tmpfs {folder}")
    (told,) = [check for check in checks(healthy) if check["code"] == "disk_low"]
    assert folder in told["detail"]
    healthy.host.run(["umount", folder])
