"""How long a revocation takes, end to end: ``python3 benchmarks/revocation.py [--transport nats] [--rounds 200]``, as root.

On a booted test host with tidegated and the courier, enrolled at the reference control plane: somebody's access is opened, a
process of theirs started, and the access revoked by the control plane's API. Measured is from before that call to the moment when
the kernel says that the process is dead (pidfd, looked at from outside the host). Beside it, in the same rounds: when the same
signed revocation is there on a bare connection that does nothing but listen: one more TLS stream, or one more NATS subscription.
Changes nothing outside a temporary folder and its own test host.
"""

import abc
import argparse
import asyncio
import contextlib
import http.client
import json
import os
import re
import select
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.control import client
from agent.courier.places import host_token
from examples.demo.fleet_scene import fleet
from examples.demo.plane import Person, Plane
from examples.demo.scene import ALICE, HOST_NAME, WITH_SYSTEMD, machine_address, set_up
from tests.host.scene import SOCKET
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

_FOLDER = "/var/lib/tidegate/courier"
_OPEN_S, _DEAD_S = 10.0, 10.0
_REST_S = 0.3  # between two rounds: what is left is cleared away


@dataclass(frozen=True, slots=True)
class _Stage:
    """Who takes part."""

    host: Host
    alice: Person
    carol: Person


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--transport", choices=("https", "nats"), default="https")
    asked = parser.parse_args()
    with _https() if asked.transport == "https" else _nats() as (stage, bare):
        dead, there = zip(*(_round(stage, bare, number) for number in range(asked.rounds)), strict=True)
    head = {"transport": asked.transport, "rounds": asked.rounds}
    found = {**head, **_figures("last_process_dead_ms", dead), **_figures("bare_connection_ms", there)}
    sys.stdout.write(json.dumps(found) + "\n" if asked.json else "".join(f"{name:28} {value}\n" for name, value in found.items()))


@contextlib.contextmanager
def _https() -> Iterator[tuple[_Stage, "_Bare"]]:
    with (
        Host.boot(prepare=install_tidegate) as host,
        tempfile.TemporaryDirectory() as folder,
        Plane(Path(folder), machine_address(host), WITH_SYSTEMD.allowed, recorded=True) as plane,
    ):
        scene = set_up(host, plane, WITH_SYSTEMD)
        yield _Stage(host, scene.alice, scene.carol), _BareStream(host, Path(folder))


@contextlib.contextmanager
def _nats() -> Iterator[tuple[_Stage, "_Bare"]]:
    with fleet(lambda line: print(line, file=sys.stderr), 1) as found, tempfile.TemporaryDirectory() as folder:
        (host,) = found.hosts.values()
        yield _Stage(host, found.alice, found.carol), _BareSubscription(host, Path(folder))


def _figures(name: str, values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"p50": statistics.median(ordered), "p99": ordered[max(0, int(len(ordered) * 0.99) - 1)], "max": ordered[-1]}
    return {f"{name}_{which}": round(value, 1) for which, value in at.items()}


class _Bare(abc.ABC):
    """A connection that only listens, and notes when something came."""

    def __init__(self) -> None:
        self._came = threading.Condition()
        self._at: list[float] = []
        threading.Thread(target=self._listen, daemon=True).start()  # it ends with this process

    @abc.abstractmethod
    def _listen(self) -> None:
        """Call ``_note`` for each token, for ever."""

    def _note(self) -> None:
        with self._came:
            self._at.append(time.monotonic())
            self._came.notify_all()

    def after(self, moment: float) -> float:
        """When the first token after that moment came; waits for one."""
        with self._came:
            if not self._came.wait_for(lambda: self._at[-1:] > [moment], _DEAD_S):
                raise RuntimeError("the bare connection got nothing")
            return next(at for at in self._at if at > moment)


class _BareStream(_Bare):
    """The host's stream of server-sent events, once more."""

    def __init__(self, host: Host, folder: Path) -> None:
        context = _tls(host, folder)
        url = urlsplit(re.findall(r"https://[^\s\"']+", host.read("/etc/tidegate/courier.yaml").decode())[0])
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, context=context)
        connection.request("GET", "/v1/host/stream")
        self._response = connection.getresponse()
        super().__init__()

    def _listen(self) -> None:
        while line := self._response.readline():
            if line.startswith(b"data:"):
                self._note()


class _BareSubscription(_Bare):
    """A core subscription to the host's subjects."""

    def __init__(self, host: Host, folder: Path) -> None:
        self._context = _tls(host, folder)
        settings = host.read("/etc/tidegate/courier.yaml").decode()
        self._servers = re.findall(r"tls://[^\s\"',\]]+", settings)
        self._subject = f"$KV.tidegate.{host_token(json.loads(host.run('tidegate status --json').stdout)['host_id'])}.*"
        super().__init__()

    def _listen(self) -> None:
        asyncio.run(self._subscribe())

    async def _subscribe(self) -> None:
        client = await nats.connect(self._servers, tls=self._context, allow_reconnect=False)

        async def heard(_: object) -> None:
            self._note()

        await client.subscribe(self._subject, cb=heard)
        await asyncio.Event().wait()


def _tls(host: Host, folder: Path) -> ssl.SSLContext:
    """As the host's courier is known."""
    here = Path(f"/proc/{host.leader}/root{_FOLDER}")
    both = folder / "courier.pem"
    both.write_bytes((here / "client.key").read_bytes() + (here / "client.pem").read_bytes())
    context = ssl.create_default_context(cafile=str(here / "ca.pem"))
    context.load_cert_chain(both)
    return context


def _round(stage: _Stage, bare: _Bare, number: int) -> tuple[float, float]:
    """Milliseconds until the process was dead, and until the revocation was on the bare connection."""
    body = {"template": "web-restart", "hosts": [HOST_NAME], "duration_s": 600, "reason": f"round {number}", "ticket": "INC-42"}
    request = stage.alice.api.post("/v1/requests", body)
    stage.carol.api.post(f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]})
    uid = _opened(stage)
    stage.host.run(f"setsid runuser -u {ALICE} -- sleep 6000 >/dev/null 2>&1 &")
    pid = _process(stage.host, uid)
    descriptor = os.pidfd_open(pid)
    try:
        time.sleep(0.1)
        died: list[float] = []
        watch = threading.Thread(target=_watch, args=(descriptor, died))
        watch.start()
        began = time.monotonic()
        stage.alice.api.post(f"/v1/requests/{request['id']}/revoke", {"reason": "measured"})
        watch.join()
        if not died:
            raise RuntimeError(f"round {number}: the process lives on")
    finally:
        os.close(descriptor)
    there = bare.after(began)
    _settled(stage)
    if number % 20 == 19:
        print(f"{number + 1} rounds", file=sys.stderr, flush=True)
    return (died[0] - began) * 1000, (there - began) * 1000


def _watch(descriptor: int, died: list[float]) -> None:
    """Note when it died: by a thread, since it dies while the call that ends it is still being answered."""
    if select.select([descriptor], [], [], _DEAD_S)[0]:
        died.append(time.monotonic())


def _opened(stage: _Stage) -> int:
    """The account's uid, once it is open."""
    end = time.monotonic() + _OPEN_S
    while time.monotonic() < end:
        for grant in _grants(stage):
            if grant["state"] == "open" and ALICE in grant["uids"]:
                return int(grant["uids"][ALICE])
        time.sleep(0.02)
    raise RuntimeError("it did not open")


def _settled(stage: _Stage) -> None:
    end = time.monotonic() + 60
    while _grants(stage) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(_REST_S)


def _grants(stage: _Stage) -> list[dict[str, Any]]:
    status: Any = client.call(Path(f"/proc/{stage.host.leader}/root{SOCKET}"), "status")
    return list(status["grants"])


def _process(host: Host, uid: int) -> int:
    """The tenant's process, by this machine's number for it."""
    namespace = Path(f"/proc/{host.leader}/ns/pid").readlink()
    end = time.monotonic() + _OPEN_S
    while time.monotonic() < end:
        for path in Path("/proc").iterdir():
            try:
                theirs = path.name.isdigit() and path.stat().st_uid == uid and (path / "ns/pid").readlink() == namespace
                if theirs and b"6000" in (path / "cmdline").read_bytes():
                    return int(path.name)
            except OSError:
                continue
        time.sleep(0.01)
    raise RuntimeError("the tenant's process did not start")


if __name__ == "__main__":
    main()
