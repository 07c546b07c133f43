"""Somebody's own machine in the tests that follow pages letter by letter: a copy of the checkout, and ssh to a booted host."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hosts import ssh
from tests.hosts.machine import Host

ROOT = Path(__file__).resolve().parents[2]


class Laptop:
    """A folder with a copy of the checkout, and a PATH whose ssh and scp know ``web1`` and root's key for it."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.folder, tools = folder / "checkout", folder / "bin"
        tools.mkdir()
        for name in ("agent", "enforcers", "docs", "examples", "packaging", "systemd"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("Makefile", "pyproject.toml", "CHANGELOG.md", "LICENSE"):
            shutil.copyfile(ROOT / name, self.folder / name)
        (self.folder / ".venv/bin").mkdir(parents=True)  # as `make venv` left it
        self._tool(self.folder / ".venv/bin/python", f'exec {sys.executable} "$@"')
        (self.folder / ".venv/.made").touch()
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
        environment = {"PATH": self._path, "HOME": str(self.folder), "LANG": "C.UTF-8", "SOURCE_DATE_EPOCH": "1790000000"}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=self.folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
