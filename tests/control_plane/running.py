"""A real control plane: a process of its own on loopback, with TLS, a temporary folder, and people who are logged in."""

import contextlib
import http.client
import json
import os
import select
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.control_plane.config import load
from examples.control_plane.people import People, local, provisioning
from examples.control_plane.people.person import PEOPLE_SCHEMA
from examples.control_plane.setup import make
from examples.control_plane.store import Store
from tests.hosts.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"
PEOPLE: Mapping[str, frozenset[str]] = {
    "alice": frozenset({"contractor", "on-call"}),
    "carol": frozenset({"contractor"}),
    "bob": frozenset({"approver"}),
    "dave": frozenset({"approver"}),
    "root": frozenset({"admin"}),
    "audra": frozenset({"auditor"}),
}
START_S = 20.0

CONFIG = """
issuer: https://access.example.com
people_listener: {{listen: "127.0.0.1:{people}", url: "https://localhost:{people}"}}
hosts_listener: {{listen: "127.0.0.1:{hosts}", url: "https://localhost:{hosts}"}}
templates:
  web-restart:
    title: Restart the web server
    account: {{groups: [adm]}}
    ssh: {{actions: [login, exec]}}
    sudo: {{commands: ["/usr/bin/systemctl restart nginx"]}}
  from-office:
    ssh: {{actions: [login, port-forwarding], source_address: [10.1.0.0/16]}}
rules:
  - name: staging
    who: {{roles: [contractor]}}
    templates: [web-restart, from-office]
    hosts: {{labels: {{env: staging}}}}
    max_duration: 4h
    approvals: {{count: 1, roles: [approver]}}
  - name: production
    who: {{roles: [contractor]}}
    templates: [web-restart]
    hosts: {{labels: {{env: production}}}}
    max_duration: 1h
    approvals: {{count: 2, roles: [approver]}}
    ticket: required
  - name: glass
    who: {{roles: [on-call]}}
    templates: [web-restart]
    hosts: {{labels: {{env: production}}}}
    max_duration: 30m
    approvals: {{count: 2, roles: [approver]}}
    break_glass: true
{more}
"""


@dataclass(frozen=True)
class Answer:
    """What came back. ``body`` is the parsed JSON, or the text."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def code(self) -> str:
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


@dataclass
class ControlPlane:
    """One that runs. ``bearers``: a session of each of the people, by name."""

    data: Path
    config: Path
    people_port: int
    hosts_port: int
    bearers: dict[str, str]
    subjects: dict[str, str]
    process: "subprocess.Popen[str] | None" = None
    log: list[str] = field(default_factory=list)

    @property
    def people_url(self) -> str:
        return f"https://localhost:{self.people_port}"

    @property
    def hosts_url(self) -> str:
        return f"https://localhost:{self.hosts_port}"

    @property
    def ca_file(self) -> Path:
        return self.data / "keys" / "ca.pem"

    def start(self, *more: str) -> None:
        """Returns when it serves."""
        command = ["-m", "examples.control_plane", "serve", "--data", str(self.data), "--config", str(self.config)]
        argv = [sys.executable, *command, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        errors = (self.data.parent / "log").open("a")
        with errors:
            self.process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline() if readable else ""
        if not line.startswith("serving"):
            self.kill()
            raise RuntimeError(f"the control plane does not start: {(self.data.parent / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL, as by a power cut."""
        self._over(signal_kill=True)

    def stop(self) -> None:
        """SIGTERM; it must end by itself."""
        self._over(signal_kill=False)

    def _over(self, *, signal_kill: bool) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill() if signal_kill else process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()

    def call(self, method: str, path: str, body: object = None, *, who: str = "", timeout: float = 30.0) -> Answer:
        """One request by somebody, or by nobody."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        headers = {"Authorization": f"Bearer {self.bearers[who]}"} if who else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPSConnection("localhost", self.people_port, timeout=timeout, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            return answered(connection.getresponse())

    def ok(self, method: str, path: str, body: object = None, *, who: str = "") -> Any:
        """The body of a request that must go well."""
        answer = self.call(method, path, body, who=who)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body}"
        return answer.body

    def ask(self, who: str, hosts: Sequence[str], **more: object) -> Any:
        """A request for web-restart, for ten minutes."""
        body = {"template": "web-restart", "hosts": list(hosts), "duration_s": 600, "reason": "restart web", **more}
        return self.ok("POST", "/v1/requests", body, who=who)

    def approve(self, who: str, request: Mapping[str, Any]) -> Any:
        return self.ok("POST", f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]}, who=who)

    def until(self, path: str, who: str, found: Any, timeout: float = 10.0) -> Any:
        """The body of a GET once ``found(body)`` is true."""
        end = time.monotonic() + timeout
        while True:
            body = self.ok("GET", path, who=who)
            if found(body):
                return body
            assert time.monotonic() < end, body
            time.sleep(0.05)


def answered(response: http.client.HTTPResponse) -> Answer:
    """The whole answer."""
    data = response.read()
    kind = response.headers.get_content_type()
    parsed = json.loads(data) if data and "json" in kind and "ndjson" not in kind else data.decode("utf-8")
    return Answer(response.status, parsed, dict(response.headers))


def prepared(folder: Path, more: str = "") -> ControlPlane:
    """A data folder with keys and people, nothing running. ``more``: more of the configuration."""
    people, hosts = free_port(), free_port()
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(people=people, hosts=hosts, more=more))
    config.chmod(0o600)
    make(folder / "data", config)
    store = Store(folder / "data", PEOPLE_SCHEMA)
    found = ControlPlane(folder / "data", config, people, hosts, {}, {})
    try:
        known = People.configured(store, load(config).people)
        if known.settings.local:
            kept = local.secret(PASSWORD)  # once for all: it takes its time
            with store.write() as db:
                for name, roles in PEOPLE.items():
                    prefix = known.settings.prefix
                    person = provisioning.add_local(db, name, f"{name.title()} Example", roles, prefix, time.time())
                    local.keep(db, person.id, kept)
                    found.bearers[name] = known.sessions.open(db, person.id, time.time()).bearer
                    found.subjects[name] = person.subject
    finally:
        store.close()
    return found


@contextlib.contextmanager
def running_control_plane(folder: Path, more: str = "") -> Iterator[ControlPlane]:
    """One that serves until the block ends; then it must end by itself."""
    plane = prepared(folder, more)
    plane.start()
    try:
        yield plane
    except BaseException:
        plane.kill()
        raise
    plane.stop()
