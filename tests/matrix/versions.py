"""What a suite's host itself says it runs."""

import re
import socket
from dataclasses import dataclass

from tests.hosts.machine import Host

SUDO_RS = frozenset({"trixie", "sid"})  # suites that package it
_ASKED = {
    "sudo": ("sudo -V", r"Sudo version (\S+)"),
    "sudo_rs": ("sudo-rs -V 2>&1", r"sudo-rs (\S+)"),
    "systemd": ("systemctl --version", r"systemd (\d+)"),
    "python": ("python3 -V", r"Python (\S+)"),
    "kernel": ("uname -r", r"(\S+)"),
}


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions as they are named in a bug report. ``sudo_rs`` is empty where the suite does not package it."""

    openssh: str
    sudo: str
    sudo_rs: str
    systemd: str
    python: str
    kernel: str


def ask(suite: str) -> Versions:
    """Boot a host of the suite and ask it.

    Raises:
        HostError: no host came up.
        LookupError: what a program says of itself has no version in it.
    """
    packages = ("sudo-rs",) if suite in SUDO_RS else ()
    with Host.boot(suite=suite, packages=packages) as host:
        asked = {name: question for name, question in _ASKED.items() if name != "sudo_rs" or packages}
        found = {name: _in(host.run(command).stdout, pattern) for name, (command, pattern) in asked.items()}
        return Versions(**{"openssh": _banner(host), "sudo_rs": "", **found})


def _banner(host: Host) -> str:
    """By the sshd that listens, not by a program that lies on the disk."""
    with socket.create_connection((host.address, 22), timeout=10) as connection:
        return _in(connection.recv(255).decode(errors="replace"), r"OpenSSH_(\S+)")


def _in(said: str, pattern: str) -> str:
    found = re.search(pattern, said)
    if not found:
        raise LookupError(f"no version in {said[:80]!r}")
    return found[1]
