"""README's five minutes, letter by letter, as a part of one host's whole life: installed, used, upgraded in mid-session, purged."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.host.test_package import APT, ours
from tests.hosts import ssh
from tests.hosts.machine import Host
from tests.hosts.snapshot import differences

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^<!-- run: (here|web1) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEWER = "0.1.1"
WHOLE = ["/etc", "/var", "/home", "/usr/lib/tidegate", "/run/tidegate"]
LIFETIME_S = 40
CHECK_S = 5.0  # from T to the client's own end, on a machine that does other things: not a measurement

pytestmark = pytest.mark.host(beside=True)


def blocks() -> list[tuple[str, str]]:
    """``(where, commands)`` of README.md, in order."""
    return [(found[1], found[2]) for found in BLOCK.finditer((ROOT / "README.md").read_text())]


class Laptop:
    """A folder with a copy of the checkout, and a PATH whose ssh and scp know ``web1`` and root's key for it."""

    def __init__(self, folder: Path, host: Host) -> None:
        self._folder, tools = folder / "checkout", folder / "bin"
        tools.mkdir()
        for name in ("agent", "enforcers", "docs", "examples", "packaging", "systemd"):
            shutil.copytree(ROOT / name, self._folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "CHANGELOG.md", "LICENSE"):
            shutil.copyfile(ROOT / name, self._folder / name)
        (self._folder / ".venv/bin").mkdir(parents=True)  # as `make venv` left it
        self._tool(self._folder / ".venv/bin/python", f'exec {sys.executable} "$@"')
        (self._folder / ".venv/.made").touch()
        host.run("mkdir --mode=700 --parents /root/.ssh")
        key, config = ssh.make_key(folder / "root-key"), folder / "ssh_config"
        host.write("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), mode=0o600)
        config.write_text(
            f"Host web1\n HostName {host.address}\n UserKnownHostsFile {host.known_hosts}\n GlobalKnownHostsFile none\n"
            " StrictHostKeyChecking yes\n BatchMode yes\n IdentitiesOnly yes\n IdentityAgent none\n LogLevel ERROR\n"
            f"Match host {host.address} user root\n IdentityFile {key}\n"
        )
        for name in ("ssh", "scp"):
            self._tool(tools / name, f'exec {shutil.which(name)} -F {shlex.quote(str(config))} "$@"')
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agent.cli import main; main()"
        self._tool(tools / "tidegate", f'exec {sys.executable} -c {shlex.quote(code)} {ROOT} "$@"')
        self._path = f"{tools}:/usr/bin:/bin"
        self._said: list[str] = []

    @staticmethod
    def _tool(path: Path, line: str) -> None:
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def run(self, commands: str) -> str:
        """Run a block as a shell would, stopping at the first failure; returns what it printed."""
        process = self.popen(commands)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, f"{commands}\n{out}{error}"
        return out

    def popen(self, commands: str) -> subprocess.Popen[str]:
        """The same, left running, with pipes."""
        argv = ["bash", "-euo", "pipefail", "-c", commands]
        environment = {"PATH": self._path, "HOME": str(self._folder), "LANG": "C.UTF-8", "SOURCE_DATE_EPOCH": "1790000000"}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=self._folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def follow(laptop: Laptop, host: Host) -> None:
    """Do what README says, and look whether each block prints what it promises."""
    said = []
    for where, commands in blocks():
        if where == "here":
            said.append(laptop.run(commands))
        else:
            done = host.run(["bash", "-euo", "pipefail", "-c", f"cd /root\n{commands}"], check=False, timeout=120)
            assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
            said.append(done.stdout)
        print(said[-1])
    assert "Nobody can get in" in said[1]
    assert "jit-alice" in said[-4]
    assert "/usr/bin/systemctl restart cron.service" in said[-3]
    assert "ended, doors shut" in said[-2]
    assert said[-1].startswith("valid: ")


def test_a_host_is_as_it_was_after_a_whole_life_with_tidegate(host: Host, tmp_path: Path) -> None:
    laptop = Laptop(tmp_path, host)
    host.run(["systemd-run", "--quiet", "--wait", "true"])
    before = ours(host.snapshot(WHOLE))
    follow(laptop, host)

    ends = bobs_grant(laptop)
    session = laptop.popen("ssh -i alice jit-bob@web1 cat")
    assert echoed(session, "before") == "before\n"
    argv = [sys.executable, str(ROOT / "packaging/build.py"), "tidegate", "--version", NEWER, "--out", str(tmp_path / "newer")]
    subprocess.run(argv, check=True, timeout=120, stdout=subprocess.DEVNULL)
    host.push(tmp_path / "newer", "/srv/newer")
    host.run(f"{APT} install /srv/newer/tidegate_{NEWER}-1_all.deb", timeout=120)
    assert time.time() < ends, "the upgrade took longer than the grant: nothing is shown"
    assert echoed(session, "after") == "after\n"

    session.wait(max(1.0, ends - time.time()) + 30)
    late = time.time() - ends
    session.communicate()
    assert -0.5 < late < CHECK_S
    listed = "tidegate receipts list --json"
    host.wait_for(lambda: len(json.loads(host.run(listed).stdout)["receipts"]) == 2, 20, "Bob's receipt")
    assert {found["claims"]["cause"] for found in json.loads(host.run(listed).stdout)["receipts"]} == {"revoked", "expired"}

    said = host.run(f"{APT} purge 'tidegate*'", timeout=120).stdout
    assert "/var/lib/tidegate/archive" in said
    archive = ("new: /var/lib/tidegate ", "new: /var/lib/tidegate/archive")
    assert [line for line in differences(before, ours(host.snapshot(WHOLE))) if not line.startswith(archive)] == []


def bobs_grant(laptop: Laptop) -> float:
    """A second grant, for another account, that nobody revokes; returns its end, in seconds since 1970."""
    laptop.run(
        f"""sed 's/alice@example.com/bob@example.com/; s/jit-alice/jit-bob/' grant.json > bob.json
        tidegate sign bob.json --key cp-1.jwk --for {LIFETIME_S}s --out bob.jwt
        scp bob.jwt root@web1:/var/lib/tidegate/spool/inbox/bob.jwt.part
        ssh root@web1 mv /var/lib/tidegate/spool/inbox/bob.jwt.part /var/lib/tidegate/spool/inbox/bob.jwt
        sleep 1"""
    )
    (grant,) = json.loads(laptop.run("ssh root@web1 tidegate status --json"))["grants"]
    return datetime.fromisoformat(grant["ends"]).timestamp()


def echoed(session: subprocess.Popen[str], line: str) -> str:
    """What cat at the other end gives back."""
    assert session.stdin is not None
    assert session.stdout is not None
    session.stdin.write(f"{line}\n")
    session.stdin.flush()
    return session.stdout.readline()
