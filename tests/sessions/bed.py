"""One booted host and two tenants on it: of one every session must be recorded, of the other none is."""

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.sessions.recording import Frame, read
from tests.host.scene import ISSUER, Scene, account, set_up, ssh
from tests.hosts import tools
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.hosts.ssh import make_key

RECORDED, PLAIN = "jit-rec-a", "jit-off-a"  # of one length, so that what is laid out by it looks the same
RECORDINGS = "/var/lib/tidegate/sessions"
BLOB = "/srv/blob"
BLOB_SIZE = 200 * 1024 * 1024
ACTIONS = ("login", "exec", "sftp", "port-forwarding")
UNRECORDED = "off"  # a rule's word for sessions that are not recorded
PACKAGES = ("git",)
PIDS_MAX = 8192


@dataclass(frozen=True)
class Tenant:
    """A login to open a grant for, and what its ssh entry allows. The prefix says whether it is recorded."""

    login: str
    actions: tuple[str, ...] = ACTIONS


BOTH = (Tenant(RECORDED), Tenant(PLAIN))


def policy(recorded: str = "required") -> str:
    """Two rules that differ in one word. ``recorded`` is the first one's."""
    rules = [
        f"""\
  - name: {name}
    issuers: [{ISSUER}]
    max_duration: 8h
    recording: {recording}
    accounts: {{ prefix: {login[:-1]}, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [{", ".join(ACTIONS)}] }}
"""
        for name, login, recording in (("recorded", RECORDED, recorded), ("plain", PLAIN, UNRECORDED))
    ]
    return "rules:\n" + "".join(rules)


@dataclass
class Person:
    """A tenant as a client on this machine is: a key, an ssh configuration that knows the host as ``t``, a folder to work in."""

    host: Host
    login: str
    key: Path
    config: Path
    folder: Path
    made: list[Path] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """Of every client program."""
        return {**tools.environment(), "TERM": "xterm", "GIT_SSH_COMMAND": f"ssh -F {self.config}", "HOME": str(self.folder)}

    def argv(self, command: str | None = None, options: Sequence[str] = ()) -> list[str]:
        """An ssh client's."""
        return ["ssh", "-F", str(self.config), *options, "t", *([command] if command is not None else [])]

    def run(self, argv: Sequence[str], stdin: bytes | None = b"", timeout: float = 60.0, cwd: Path | None = None) -> "Done":
        """A client program to its end. ``stdin`` None is an open, silent one. Raises subprocess.TimeoutExpired."""
        with subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd or self.folder,
            env=self.environment(),
        ) as client:
            try:
                if stdin is None:  # communicate() would close it
                    assert client.stdin is not None
                    kept, client.stdin = client.stdin, None
                    with kept:
                        out, err = client.communicate(timeout=timeout)
                else:
                    out, err = client.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                client.kill()
                raise
        return subprocess.CompletedProcess(argv, client.returncode, out, err)

    def ssh(self, command: str | None, stdin: bytes | None = b"", timeout: float = 60.0, options: Sequence[str] = ()) -> "Done":
        """One ssh session to its end."""
        return self.run(self.argv(command, options), stdin, timeout)

    def fresh(self) -> Path:
        """A new folder on the client's side."""
        made = Path(tempfile.mkdtemp(dir=self.folder))
        self.made.append(made)
        return made


Done = subprocess.CompletedProcess[bytes]


@dataclass
class Bed:
    """The host, and its tenants by login."""

    scene: Scene
    people: dict[str, Person]

    @property
    def recorded(self) -> Person:
        """Whose sessions are recorded."""
        return self.people[RECORDED]

    @property
    def plain(self) -> Person:
        """Whose sessions are not."""
        return self.people[PLAIN]

    @property
    def host(self) -> Host:
        """The host."""
        return self.scene.host

    def recordings(self) -> dict[str, str]:
        """All recordings on the host: each file's name, and whose session it is."""
        found = {}
        for path in sorted(Path(f"/proc/{self.host.leader}/root{RECORDINGS}").glob("*.tgr")):
            with path.open("rb") as stream:
                meta = next((frame for frame in read(stream) if isinstance(frame, Frame)), None)
            if meta is not None:
                found[path.name] = str(json.loads(meta.data).get("login"))
        return found


def person(host: Host, login: str, key: Path, folder: Path) -> Person:
    """The client's side of a login."""
    own = folder / login
    own.mkdir()
    config = own / "config"
    lines = {
        "HostName": host.address, "User": login, "IdentityFile": str(key), "IdentitiesOnly": "yes", "BatchMode": "yes",
        "StrictHostKeyChecking": "yes", "UserKnownHostsFile": str(host.known_hosts), "GlobalKnownHostsFile": "none",
        "ConnectTimeout": "20", "LogLevel": "ERROR", "IdentityAgent": "none", "SendEnv": "LANG LC_*",
    }  # fmt: skip
    config.write_text("Host t\n" + "".join(f"  {name} {value}\n" for name, value in lines.items()))
    return Person(host, login, key, config, own)


def prepare(root: Path) -> None:
    """Tidegate, a large file, and an sshd that takes many logins at once."""
    install_tidegate(root)
    with (root / BLOB.lstrip("/")).open("wb") as blob:
        for _ in range(BLOB_SIZE // (4 << 20)):
            blob.write(os.urandom(4 << 20))
    (root / "etc/ssh/sshd_config.d/10-many.conf").write_text("MaxStartups 200\nMaxSessions 600\nLoginGraceTime 60\n")


@contextlib.contextmanager
def booted(
    recorded: str = "required",
    tenants: Sequence[Tenant] = BOTH,
    also: Callable[[Path], None] = lambda _: None,
    packages: Sequence[str] = PACKAGES,
    suite: str | None = None,
) -> Iterator[Bed]:
    """Boot, install, open a grant for each tenant; gone after the ``with``. ``also`` is done to the file tree before.

    ``recorded`` is the policy's word for those whose sessions are to be recorded; ``packages`` are Debian's, added to the host's.
    """
    tools.need("rsync", "git")
    with tempfile.TemporaryDirectory(prefix="sessions-") as name:
        folder = Path(name)
        key = make_key(folder / "key")
        public = " ".join(key.with_suffix(".pub").read_text().split()[:2])

        def make(root: Path) -> None:
            prepare(root)
            also(root)

        with Host.boot(suite=suite, prepare=make, packages=packages, pids_max=PIDS_MAX) as host:
            scene = set_up(host, policy(recorded))
            for tenant in tenants:
                required = recorded == "required" and tenant.login.startswith(RECORDED[:-1])
                more = {"recording": {"required": True}} if required else {}
                entries = account(tenant.login, shell="/bin/bash"), ssh(tenant.login, public, actions=list(tenant.actions))
                scene.open(*entries, lifetime=4 * 3600, **more)
            yield Bed(scene, {tenant.login: person(host, tenant.login, key, folder) for tenant in tenants})
