"""A host for the sweep: Tidegate installed and set up, a person on it, the driver in place; and the talk with the driver."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.trust import generate_key
from tests.crash.checks import LOGIN, PERSON
from tests.hosts import ssh
from tests.hosts.machine import Host
from tests.hosts.prepare import REPOSITORY, install_tidegate

ISSUER = "https://cp.example"
BACKENDS = ("userdb", "passwd")
COMMAND = "/usr/bin/systemctl restart cron.service"
POLICY = f"""\
rules:
  - name: crash
    issuers: [{ISSUER}]
    max_duration: 4h
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], home: [archive], existing: [{PERSON}] }}
    groups: [games, users]
    ssh: {{ keys: true, principals: ["alice@example.com"], actions: [login, exec] }}
    sudo: {{ run_as: [root, games], commands: ["{COMMAND}", /usr/bin/id] }}
"""
_LIMIT_S = 300.0


class DriverFailed(Exception):  # noqa: N818
    """The driver in a host ended, or says nothing any more."""


def _prepare(root: Path) -> None:
    install_tidegate(root)
    subprocess.run(["chroot", str(root), "useradd", "-m", "-s", "/bin/bash", PERSON], check=True)


class Bed:
    """One host and its driver. ``ask`` gives the driver an order and waits for what it says."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._driver: subprocess.Popen[str] | None = None

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order. Raises DriverFailed; the next order then finds a new driver."""
        driver = self._driver or self._start()
        assert driver.stdin is not None
        assert driver.stdout is not None
        try:
            driver.stdin.write(json.dumps(order) + "\n")
            driver.stdin.flush()
            line = driver.stdout.readline()
        except OSError as error:
            line = str(error)
        if not line.startswith("{"):
            driver.kill()
            driver.wait()
            self._driver = None
            raise DriverFailed(f"the driver ended: {line} {self.host.run('tail -n 20 /opt/crash/stderr', check=False).stdout}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the driver; the host stays."""
        if self._driver is not None:
            assert self._driver.stdin is not None
            self._driver.stdin.close()
            self._driver.wait(30)
            assert self._driver.stdout is not None
            self._driver.stdout.close()

    def set_up(self) -> None:
        """Keys, policy, configurations, the grant's claims, the driver's code. tidegated is left stopped."""
        host = self.host
        key, public = generate_key("cp-1", (ISSUER,))
        host.write("/etc/tidegate/trust.d/cp-1.jwks", json.dumps({"keys": [public]}))
        host.write("/etc/tidegate/policy.d/50-crash.yaml", POLICY)
        for backend in BACKENDS:
            host.run(["mkdir", "-p", f"/etc/tidegate-{backend}"])
            host.write(f"/etc/tidegate-{backend}/tidegate.yaml", f"account_backend: {backend}\n")
        host.run("mkdir -p /opt/crash; systemd-run --quiet --wait true")
        with tempfile.TemporaryDirectory() as folder:
            login = ssh.make_key(Path(folder) / "key")
            host.write("/etc/tidegate/ssh_user_ca.pub", login.with_suffix(".pub").read_text())
            host.write("/opt/crash/key", login.read_bytes(), mode=0o600)
            public_key = " ".join(login.with_suffix(".pub").read_text().split()[:2])
        host.write("/opt/crash/scene.json", json.dumps({"claims": _claims(public_key), "key": key}), mode=0o600)
        _push_code(host)
        host.run("systemctl start tidegated; tidegate status --json | python3 -c "
                 "'import json, sys; print(json.load(sys.stdin)[\"host_id\"])' > /opt/crash/host-id; "
                 "systemctl stop tidegated; systemctl is-active cron")  # fmt: skip

    def _start(self) -> subprocess.Popen[str]:
        command = "cd /opt/crash/code && exec python3 -B -m tests.crash.driver 2>>/opt/crash/stderr"
        self._driver = self.host.popen(["bash", "-c", command], stderr=subprocess.DEVNULL)
        return self._driver


@contextmanager
def booted() -> Iterator[Bed]:
    """A host with its driver, for as long as the ``with`` lasts."""
    with Host.boot(prepare=_prepare) as host:
        bed = Bed(host)
        bed.set_up()
        try:
            yield bed
        finally:
            bed.close()


def _claims(public_key: str) -> dict[str, Any]:
    """A grant that uses all four enforcers, for an account of its own and for one that was there before."""
    return {
        "iss": ISSUER,
        "sub": "alice@example.com",
        "reason": "crash sweep",
        "authorization_details": [
            {"type": "account", "identifier": LOGIN, "groups": ["games"], "home": "archive"},
            {"type": "ssh", "identifier": LOGIN, "keys": [public_key], "principals": ["alice@example.com"]},
            {"type": "sudo", "identifier": LOGIN, "commands": [COMMAND]},
            {"type": "group", "identifier": LOGIN, "groups": ["users"]},
            {"type": "group", "identifier": PERSON, "groups": ["games"]},
            {"type": "sudo", "identifier": PERSON, "commands": ["/usr/bin/id"]},
        ],
    }


def _push_code(host: Host) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder) / "code"
        for name in ("tests/__init__.py", "tests/hosts/__init__.py", "tests/hosts/snapshot.py"):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes((REPOSITORY / name).read_bytes())
        (top / "tests/crash").mkdir()
        for path in (REPOSITORY / "tests/crash").glob("*.py"):
            (top / "tests/crash" / path.name).write_bytes(path.read_bytes())
        host.push(top, "/opt/crash/code")
