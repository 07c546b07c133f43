"""GCE's guest agent, as Debian packages it, against a metadata server of ours in the same host: accounts and keys by metadata.

It ends a key when the metadata says so, or when ``expireOn`` has passed and it looks again (at the latest when the held request
comes back, after a minute). It ends no session. Network set-up, clocks and host keys are switched off: none is about access.
"""

import contextlib
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.frame.row import Absent
from tests.hosts.machine import Host

PACKAGES = ("google-guest-agent",)
_UNITS = ("google-guest-agent", "google-startup-scripts", "google-shutdown-scripts")
_SETTINGS = """\
[Accounts]
useradd_cmd = useradd -m -s /bin/bash -p * {user}
[Daemons]
accounts_daemon = true
clock_skew_daemon = false
network_daemon = false
[InstanceSetup]
network_enabled = false
set_host_keys = false
set_boto_config = false
[NetworkInterfaces]
setup = false
"""
_SERVER = Path(__file__).with_name("metadata_server.py")
_UNIT = "guest-agent-measured"
_READY_S = 20.0


def prepare(root: Path) -> None:
    """Into a host's tree, before it boots: the package's own units would wait for a metadata server at boot."""
    for unit in _UNITS:
        (root / f"etc/systemd/system/{unit}.service").symlink_to("/dev/null")
    (root / "etc/default/instance_configs.cfg").write_text(_SETTINGS)


class GuestAgent:
    """The agent and the server on one host, and the lines that ssh-keys holds now, by login."""

    def __init__(self, host: Host) -> None:
        """Start both. Raises Absent: the agent is not there, or makes no account."""
        self._host = host
        self._lines: dict[str, str] = {}
        if host.run("test -x /usr/bin/google_guest_agent", check=False).returncode != 0:
            raise Absent("google-guest-agent is not installed")
        host.write("/usr/local/lib/metadata_server.py", _SERVER.read_bytes())
        host.run("ip address add 169.254.169.254/32 dev lo; echo '169.254.169.254 metadata.google.internal' >> /etc/hosts")
        host.run("systemd-run --quiet --unit metadata-server python3 /usr/local/lib/metadata_server.py")
        host.run(
            "timeout 10 sh -c 'until (exec 3<>/dev/tcp/169.254.169.254/80) 2>/dev/null; do sleep 0.05; done'".replace(
                "sh -c", "bash -c"
            )
        )
        host.run(f"systemd-run --quiet --unit {_UNIT} /usr/bin/google_guest_agent")

    @property
    def unit(self) -> str:
        """The unit that the agent runs in."""
        return f"{_UNIT}.service"

    def give(self, login: str, public: str, until_s: float | None = None) -> None:
        """An account with that key, until then where it is said; waits until it is there. Raises Absent."""
        line = f"{login}:{public}"
        if until_s is not None:
            expiry = datetime.fromtimestamp(until_s, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")
            line += f' google-ssh {{"userName":"{login}@example.com","expireOn":"{expiry}"}}'
        self._lines[login] = line
        self.tell()
        keys = f"/home/{login}/.ssh/authorized_keys"
        waited = f"timeout {_READY_S:.0f} bash -c 'until grep -q ssh-ed25519 {keys} 2>/dev/null; do sleep 0.02; done'"
        if self._host.run(waited, check=False, timeout=_READY_S + 10).returncode != 0:
            said = self._host.journal(self.unit).splitlines()[-3:]
            raise Absent(f"the agent made no account: {' '.join(said)}")

    def take(self, login: str) -> None:
        """The metadata no longer has it; returns at once."""
        self._lines.pop(login, None)
        self.tell()

    def tell(self) -> None:
        """Put the keys as they are now."""
        body = "\n".join(self._lines.values()).encode()
        request = urllib.request.Request(f"http://{self._host.address}/keys", data=body, method="PUT")
        with contextlib.closing(urllib.request.urlopen(request, timeout=10)):  # noqa: S310  (as above)
            pass
