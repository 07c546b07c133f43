"""Logging in to a host over the network: OpenSSH's own client, and paramiko's."""

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hosts import tools
from tests.hosts.errors import HostFailed

if TYPE_CHECKING:
    import paramiko


def make_key(path: Path, comment: str = "test") -> Path:
    """Make an ed25519 key pair without a passphrase: `path` and `path` with `.pub` added; returns `path`."""
    tools.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path


class Network(ABC):
    """A host's sshd as a client on this machine sees it."""

    @property
    @abstractmethod
    def address(self) -> str:
        """The host's IPv4 address."""

    @property
    @abstractmethod
    def known_hosts(self) -> Path:
        """A known_hosts file with this host's keys and no others."""

    def ssh_argv(self, user: str, key: Path | None, command: str | None = None, options: Sequence[str] = ()) -> list[str]:
        """The argv of an ssh client which reads no configuration of this machine's user, offers `key` only, never asks.

        `options` go before the destination, as on the command line: `("-tt", "-o", "ControlMaster=no")`.
        """
        fixed = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "none",
            "ConnectTimeout": "10",
            "LogLevel": "ERROR",
        }
        # The first value ssh sees for an option wins: the caller's come first.
        argv = ["ssh", "-F", "none", *options]
        argv += [word for name, value in fixed.items() for word in ("-o", f"{name}={value}")]
        argv += ["-o", "PubkeyAuthentication=no"] if key is None else ["-i", str(key)]
        return [*argv, "-l", user, self.address, *([command] if command is not None else [])]

    def ssh(
        self,
        user: str,
        key: Path | None,
        command: str | None = None,
        timeout: float = 30.0,
        options: Sequence[str] = (),
        input: str | None = None,  # noqa: A002 - named as subprocess.run has it
    ) -> subprocess.CompletedProcess[str]:
        """Log in with ssh and run `command` (or the login shell on `input`). Status 255 is ssh's own: refused, or cut.

        Raises:
            subprocess.TimeoutExpired: it took longer than `timeout` seconds; the client was killed.
        """
        return subprocess.run(
            self.ssh_argv(user, key, command, options),
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
            check=False,
            env=tools.environment(),
        )

    def paramiko(self, user: str, key: Path, timeout: float = 10.0) -> "paramiko.SSHClient":
        """A connected and authenticated paramiko client; the caller closes it.

        Raises:
            paramiko.SSHException: refused (its subclass AuthenticationException), or no sshd answered.
        """
        import paramiko  # only here: it costs a third of a second to import

        client = paramiko.SSHClient()
        client.load_host_keys(str(self.known_hosts))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        client.connect(
            self.address,
            username=user,
            pkey=paramiko.Ed25519Key.from_private_key_file(str(key)),
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
            allow_agent=False,
            look_for_keys=False,
        )
        return client


def write_known_hosts(path: Path, address: str, tree: Path) -> None:
    """Write the known_hosts file for a host at `address` from the public host keys in its file tree.

    Raises:
        HostFailed: it has none.
    """
    keys = [file.read_text().split()[:2] for file in sorted((tree / "etc/ssh").glob("ssh_host_*_key.pub"))]
    if not keys:
        raise HostFailed(f"no ssh host keys in {tree}")
    path.write_text("".join(f"{address} {kind} {blob}\n" for kind, blob in keys))
