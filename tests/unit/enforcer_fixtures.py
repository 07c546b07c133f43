"""A fake host that can carry every enforcer, and one entry of each kind. cvtsudoers is the real one, where it is installed."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agent.config import Config
from agent.host.contract import CommandResult, Group, User
from agent.host.fake import FakeHost
from agent.model import Enforcer, Grant
from enforcers import REGISTRY, sshd_match

ENFORCERS: Mapping[str, Enforcer] = {enforcer.type: enforcer for enforcer in REGISTRY}
NBF = 1_800_000_000
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJpgTHRKhL0KR2iFXHY2yrkqSYqBNdpVvVZyTXFMNuHI"
needs_cvtsudoers = pytest.mark.skipif(shutil.which("cvtsudoers") is None, reason="cvtsudoers (package sudo) is not installed")

BODIES: dict[str, list[dict[str, Any]]] = {
    "account": [
        {"type": "account", "identifier": "jit-alice", "full_name": "Alice Ng", "groups": ["adm", "video"], "home": "archive"},
    ],
    "ssh": [
        {"type": "account", "identifier": "jit-alice"},
        {"type": "ssh", "identifier": "jit-alice", "keys": [KEY], "principals": ["alice@example.com"]},
    ],
    "sudo": [
        {"type": "sudo", "identifier": "deploy", "commands": ["/usr/bin/systemctl restart nginx", "/usr/bin/id"]},
    ],
    "group": [{"type": "group", "identifier": "deploy", "groups": ["adm", "video", "audio"]}],
}
BODIES["all"] = [*BODIES["ssh"], *BODIES["sudo"], *BODIES["group"]]


def answer(stdout: str = "", *, code: int = 0, stderr: str = "") -> Any:
    """A tool that always says the same."""
    return lambda argv, stdin: CommandResult(tuple(argv), code, stdout, stderr)


def real(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
    """The tool of this machine; for read-only ones."""
    done = subprocess.run(list(argv), input=stdin or b"", capture_output=True, check=False)
    return CommandResult(tuple(argv), done.returncode, done.stdout.decode(), done.stderr.decode())


def sshd_says(config: Config, **other: str) -> Any:
    """What ``sshd -T`` prints for a tenant; ``other`` gives keywords another value."""
    lines = []
    for keyword, values in sshd_match.settings(config, tenant_shell=True):
        lines += [f"{keyword.lower()} {value}" for value in ([other[keyword]] if keyword in other else values)]
    return answer("\n".join(lines) + "\n")


def fake_host(config: Config | None = None) -> FakeHost:
    """root, deploy (a member of audio), the usual groups, sshd, sudo and tidegate-shell."""
    config = config or Config()
    host = FakeHost.with_rows(
        [User("root", 0, 0, "/root", "/bin/bash"), User("deploy", 1001, 1001, "/home/deploy", "/bin/bash")],
        [Group(config.tenant_group, 600), Group("adm", 4), Group("video", 44), Group("audio", 29, ("deploy",))],
        config,
    )
    host.homes = {config.paths.home_base / "deploy": 1001}
    host.files = {config.paths.ssh_user_ca: (b"ssh-ed25519 AAAA ca\n", 0o644)}
    host.commands = {
        "sshd": sshd_says(config),
        "sudo": answer("Sudo version 1.9.13p3\n"),
        "cvtsudoers": real,
        "tidegate-shell": answer(),
        **{name: answer() for name in ("bash", "id", "systemctl", "ls", "kill", "install")},
    }
    return host


def grant_of(bodies: Sequence[Mapping[str, Any]], **claims: Any) -> Grant:
    """A grant with these entries, decoded by their enforcers; one hour from NBF on."""
    wants = tuple(ENFORCERS[body["type"]].decode(body, f"authorization_details[{n}]") for n, body in enumerate(bodies))
    values: dict[str, Any] = {"jti": "grant-1", "reason": "restart web", **claims}
    return Grant(
        iss="https://cp.example",
        aud="host-1",
        sub="alice@example.com",
        iat=NBF,
        nbf=NBF,
        exp=NBF + 3600,
        wants=wants,
        signers=(),
        digest="",
        **values,
    )
