"""What a person does with hosts and files by hand: `make host`, and packaging/install.sh on a host that is running."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.machine import Host

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.host(beside=True)


def shell(typed: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`python3 -m tests.hosts shell`, with this typed into it."""
    argv = [sys.executable, "-m", "tests.hosts", "shell", *options]
    return subprocess.run(argv, cwd=REPOSITORY, input=typed, capture_output=True, text=True, timeout=120, check=False)


def test_make_host_gives_a_shell_with_tidegate_running() -> None:
    recipe = (REPOSITORY / "Makefile").read_text().partition("\nhost: ")[2].partition("\n\n")[0]
    assert "--prepare tests.hosts.prepare:install_tidegate --run 'systemctl start tidegated'" in recipe
    done = shell(
        "systemctl is-active tidegated && tidegate status; exit 7\n",
        *("--prepare", "tests.hosts.prepare:install_tidegate", "--run", "systemctl start tidegated"),
    )
    assert done.returncode == 7, "the shell's own"
    assert "Nobody can get in" in done.stdout


def test_the_shell_comes_though_what_was_to_run_before_it_failed() -> None:
    done = shell("exit 5\n", "--run", "echo the reason >&2; exit 3")
    assert done.returncode == 5
    assert "failed with status 3" in done.stderr and "the reason" in done.stderr


@pytest.mark.parametrize("sysusers", [True, False], ids=["systemd-sysusers", "groupadd"])
def test_installing_on_a_running_host_makes_the_two_groups_once(host: Host, sysusers: bool) -> None:
    for name in ("agent", "enforcers", "docs", "examples", "packaging", "systemd"):
        host.push(REPOSITORY / name, f"/root/tidegate/{name}")
    if not sysusers:
        host.run("rm $(command -v systemd-sysusers)")
    host.run("/root/tidegate/packaging/install.sh")
    once = host.read("/etc/group"), host.read("/etc/shells")
    assert {line.partition(":")[0] for line in once[0].decode().splitlines()} >= {"tidegate", "tidegate-tenants"}
    host.run("/root/tidegate/packaging/install.sh")
    assert (host.read("/etc/group"), host.read("/etc/shells")) == once
    host.run("systemd-tmpfiles --create tidegate.conf; systemctl daemon-reload; systemctl start tidegated")
    problems = json.loads(host.run("tidegate status --json").stdout)["problems"]
    assert not [problem for problem in problems if "group" in problem]
