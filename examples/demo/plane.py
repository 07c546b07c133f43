"""The control plane of the demo, a process of its own on this machine, and the people who use it by its commands."""

import json
import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self, TypeVar

from examples.control_plane.commands.client import Api, Json
from examples.control_plane.commands.profile import Profile, Server
from tests.hosts.ports import free_port

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
ISSUER = "https://access.example.com"
_SERVER, _ADMIN, _REQUEST = (
    "examples.control_plane",
    "examples.control_plane.commands.admin",
    "examples.control_plane.commands.request",
)
_START_S, _COMMAND_S, _ENDS_S = 30.0, 60.0, 15.0

CONFIG = """\
issuer: {issuer}
people_listener: {{listen: "127.0.0.1:{people}", url: "https://localhost:{people}"}}
hosts_listener: {{listen: "{address}:{hosts}", url: "https://{address}:{hosts}"}}
templates:
  web-restart:
    title: Restart the web server
    ssh: {{actions: [login, exec]}}
    sudo: {{commands: ["{allowed}"]}}
    recording: {{required: {recorded}}}
  root-shell:
    title: A root shell, for emergencies
    ssh: {{actions: [login, exec]}}
    sudo: {{commands: ["/bin/bash"]}}
    recording: {{required: {recorded}}}
rules:
  - name: contractors
    who: {{roles: [contractor]}}
    templates: [web-restart]
    hosts: {{labels: {{env: demo}}}}
    max_duration: 1h
    approvals: {{count: 1, roles: [approver]}}
    ticket: required
  - name: break-glass
    who: {{roles: [on-call]}}
    templates: [root-shell]
    hosts: {{labels: {{env: demo}}}}
    max_duration: 1h
    approvals: {{count: 2, roles: [approver]}}
    break_glass: true
"""


@dataclass
class Person:
    """Somebody with a home folder of their own, logged in at the control plane."""

    name: str
    home: Path
    server: Server
    bearer: str = field(repr=False)

    @property
    def api(self) -> Api:
        """The people's API, as them."""
        return Api(self.server, self.bearer, lambda: self.bearer)

    def request(self, *words: str) -> "subprocess.Popen[str]":
        """`tidegate-request`, started."""
        return self._started(_REQUEST, words)

    def admin(self, *words: str) -> "subprocess.Popen[str]":
        """`tidegate-cp`, started."""
        return self._started(_ADMIN, words)

    def _started(self, module: str, words: tuple[str, ...]) -> "subprocess.Popen[str]":
        return _started(module, self.home, "--url", self.server.url, "--ca-file", str(self.server.ca_file), *words)


def finished(process: "subprocess.Popen[str]") -> str:
    """Its output, once it has ended well. Raises RuntimeError with what it said."""
    try:
        out, err = process.communicate(timeout=_COMMAND_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a command ended with status {process.returncode}: {(err or out).strip()[-500:]}")
    return out


class Plane:
    """One control plane; a context manager. ``address``: where hosts reach it."""

    def __init__(self, folder: Path, address: str, allowed: str, *, recorded: bool, more: str = "") -> None:
        """``more``: more of the configuration."""
        self._folder = folder
        self._data, self._config = folder / "data", folder / "config.yaml"
        people, hosts = free_port(), free_port(address)
        words = {"issuer": ISSUER, "people": people, "hosts": hosts, "address": address, "allowed": allowed}
        self._config.write_text(CONFIG.format(**words, recorded="true" if recorded else "false") + more)
        self._config.chmod(0o600)
        self._url = f"https://localhost:{people}"
        self._where = ("--data", str(self._data), "--config", str(self._config))
        self._password = ""
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._root: Person | None = None

    def server(self, *words: str) -> str:
        """Another command of the control plane's own program; before it serves, too. Returns what it prints."""
        return finished(_started(_SERVER, self._folder, words[0], *self._where, *words[1:]))

    def make(self) -> Self:
        """Its keys and its admin, once."""
        if not self._password:
            made = json.loads(finished(_started(_ADMIN, self._folder, "init", *self._where, "--admin", "root", "--json")))
            self._password = str(made["password"])
        return self

    def __enter__(self) -> Self:
        self.make()
        self._log = (self._folder / "log").open("w")
        argv = [sys.executable, "-m", _SERVER, "serve", *self._where]
        self._process = subprocess.Popen(
            argv, cwd=ROOT, env=_environment(self._folder), stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        try:
            self._wait_until_it_serves(self._process)
            self._root = self._person("root", self._password)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.communicate(timeout=_ENDS_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
        if self._log is not None:
            self._log.close()

    @property
    def root(self) -> Person:
        """The admin."""
        if self._root is None:
            raise RuntimeError("the control plane has not started")
        return self._root

    def person(self, name: str, role: str) -> Person:
        """Add somebody with that role, and log them in."""
        added = self.root.api.post("/v1/people", {"name": name, "roles": [role]})
        return self._person(name, str(added["password"]))

    def enrolment(self, name: str, address: str) -> list[str]:
        """The words of the command that enrols a host: what `tidegate-cp hosts add` prints."""
        options = ("--label", "env=demo", "--address", address, "--json")
        return shlex.split(str(json.loads(finished(self.root.admin("hosts", "add", name, *options)))["command"]))

    def _person(self, name: str, password: str) -> Person:
        home = self._folder / "people" / name
        home.mkdir(parents=True)
        server = Server(self._url, self._data / "keys" / "ca.pem")
        found = Api(server, "none", lambda: "none").post("/v1/login/local", {"name": name, "password": password})
        bearer = str(found["session"])
        Profile(home / ".config" / "tidegate").keep_session(server, bearer, int(time.time()) + 3600)
        return Person(name, home, server, bearer)

    def _wait_until_it_serves(self, process: "subprocess.Popen[str]") -> None:
        stdout = process.stdout
        readable = select.select([stdout], [], [], _START_S)[0] if stdout else []
        line = stdout.readline() if stdout and readable else ""
        if not line.startswith("serving"):
            raise RuntimeError(f"the control plane does not start: {(self._folder / 'log').read_text()[-500:]}")


def wait_for(found: Callable[[], T], seconds: float, what: str) -> T:
    """What ``found`` returns once that is true. Raises RuntimeError."""
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)
    return value


def listed(api: Api, path: str, name: str) -> list[Json]:
    """The objects of a list that the API gives."""
    found: Any = api.get(path)[name]
    return list(found)


def _started(module: str, home: Path, *words: str) -> "subprocess.Popen[str]":
    argv, pipe = [sys.executable, "-m", module, *words], subprocess.PIPE
    return subprocess.Popen(argv, cwd=home, env=_environment(home), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def _environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE_", "XDG_", "SSH_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}
