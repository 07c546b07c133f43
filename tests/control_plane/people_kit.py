"""The two commands as people run them, and a host that opens whatever it is sent."""

import contextlib
import http.client
import io
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent import trust
from agent.model import Grant
from examples.control_plane.commands import admin, request
from examples.control_plane.commands.profile import Profile, Server
from tests.control_plane.host import TestHost
from tests.control_plane.running import PASSWORD, ROOT, Answer, ControlPlane, answered

REQUEST, ADMIN = "examples.control_plane.commands.request", "examples.control_plane.commands.admin"


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


_ADDRESSES = itertools.cycle(f"127.0.0.{number}" for number in range(2, 250))


def log_in(plane: ControlPlane, body: Mapping[str, object]) -> Answer:
    """A login by an ID token, each time from another address of the loopback: tries are limited for each."""
    context = ssl.create_default_context(cafile=plane.ca_file)
    source = (next(_ADDRESSES), 0)
    connection = http.client.HTTPSConnection("localhost", plane.people_port, timeout=20, context=context, source_address=source)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/login/oidc", json.dumps(body), {"Content-Type": "application/json"})
        return answered(connection.getresponse())


def inside(main: Callable[[Sequence[str]], None], home: Path, words: Sequence[str]) -> Done:
    """A command's own main in this process, for somebody with this home folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("HOME", str(home))
        for name in ("XDG_CONFIG_HOME", "TIDEGATE_URL", "TIDEGATE_CA_FILE"):
            patch.delenv(name, raising=False)
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert isinstance(ended.value.code, int)
    return Done(ended.value.code, out.getvalue(), err.getvalue())


@dataclass
class Desk:
    """Somebody's own machine: a home folder, a session in it, the commands."""

    plane: ControlPlane
    home: Path
    user: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(exist_ok=True)
        (self.home / "password").write_text(PASSWORD + "\n")
        if self.user in self.plane.bearers:  # logging in is a test of its own, and limited for each address
            server = Server(self.plane.people_url, self.plane.ca_file)
            Profile(self.home / ".config/tidegate").keep_session(server, self.plane.bearers[self.user], int(time.time()) + 3000)

    def start(self, module: str, *words: str) -> "subprocess.Popen[str]":
        reach = ["--url", self.plane.people_url, "--ca-file", str(self.plane.ca_file)]
        who = ["--user", self.user, "--password-file", str(self.home / "password")] if self.user else []
        # The server's options belong to the group of tidegate-cp, and stand before tidegate-request's own `--`.
        argv = [sys.executable, "-m", module, *reach, *who, *words]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEGATE_", "XDG_", "SSH_"))}
        environment = {**kept, "HOME": str(self.home), "PYTHONPATH": str(ROOT), **self.environment}
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, cwd=self.home, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def run(self, module: str, *words: str) -> Done:
        """As a process of its own, to its end."""
        with self.start(module, *words) as process:
            return finished(process)

    def request(self, *words: str) -> Done:
        """tidegate-request, in this process: what needs none of its own costs no start of one."""
        return self._inside(request.main, words)

    def admin(self, *words: str) -> Done:
        """tidegate-cp, likewise."""
        return self._inside(admin.main, words)

    def _inside(self, main: Callable[[Sequence[str]], None], words: Sequence[str]) -> Done:
        reach = ["--url", self.plane.people_url, "--ca-file", str(self.plane.ca_file)]
        who = ["--user", self.user, "--password-file", str(self.home / "password")] if self.user else []
        return inside(main, self.home, [*reach, *who, *words])

    @property
    def kept(self) -> list[Path]:
        return sorted((self.home / ".config" / "tidegate").iterdir())


def finished(process: "subprocess.Popen[str]", timeout: float = 30) -> Done:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"does not end: {out}{err}") from None
    return Done(process.returncode, out, err)


class OpenHost:
    """A host that opens whatever it is sent (or refuses it with the code ``refuses``), and ends what is revoked with a receipt."""

    def __init__(self, host: TestHost) -> None:
        self.host, self.refuses = host, ""
        self.revoked: list[Mapping[str, Any]] = []
        self._held: dict[str, str] = {}  # jti → subject
        self._connection = host.connection(timeout=60)
        self._connection.request("GET", "/v1/host/stream")
        self._socket = self._connection.sock
        self._response = self._connection.getresponse()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            while line := self._response.readline():
                if line.startswith(b"data: "):
                    self._take(line[6:].strip())

    def _take(self, token: bytes) -> None:
        typ = trust.claimed_typ(token)
        if typ == trust.TYP_GRANT:
            self._open(self.host.read(token.decode()))
        elif typ == trust.TYP_EVENT:
            event = json.loads(trust.verify(token, trust.keyring(self.host.signing_keys), typ=typ).payload)
            about = event["sub_id"]
            ended = [jti for jti, subject in self._held.items() if about.get("jti") == jti or about.get("sub") == subject]
            self._end(ended, "revoked")
            self.revoked.append(event)

    def _open(self, grant: Grant) -> None:
        if self.refuses:
            self.host.send(self.host.answer(grant.jti, "refused", self.refuses))
            return
        self._held[grant.jti] = grant.sub
        self.host.send(self.host.answer(grant.jti))
        self._end([jti for jti in [grant.supersedes] if jti in self._held], "superseded")

    def _end(self, jtis: list[str], cause: str) -> None:
        for jti in jtis:
            del self._held[jti]
            self.host.send(self.host.receipt(jti, cause))

    def until_revoked(self, count: int = 1, timeout: float = 5.0) -> Mapping[str, Any]:
        """The newest revocation, once there are so many."""
        end = time.monotonic() + timeout
        while len(self.revoked) < count:
            assert time.monotonic() < end, "no revocation came"
            time.sleep(0.02)
        return self.revoked[-1]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._response.close()
        self._connection.close()


@contextlib.contextmanager
def opening(host: TestHost) -> Iterator[OpenHost]:
    found = OpenHost(host)
    try:
        yield found
    finally:
        found.close()
