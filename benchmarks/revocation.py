"""How long a revocation takes, end to end: ``python3 benchmarks/revocation.py [--rounds 200] [--json]``, as root.

On a booted test host with tidegated and the courier, enrolled at the reference control plane: somebody's access is opened, a
process of theirs started, and the access revoked by the control plane's API. Measured is from before that call to the moment when
the kernel says that the process is dead (pidfd, looked at from outside the host). Beside it, in the same rounds: when the same
signed revocation is there on a bare TLS connection that only reads the stream. Changes nothing outside a temporary folder and its
own test host.
"""

import argparse
import http.client
import json
import os
import select
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.control import client
from examples.demo.plane import Plane
from examples.demo.scene import ALICE, HOST_NAME, WITH_SYSTEMD, Scene, machine_address, set_up
from tests.host.scene import SOCKET
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

_FOLDER = "/var/lib/tidegate/courier"
_OPEN_S, _DEAD_S = 10.0, 10.0
_REST_S = 0.3  # between two rounds: what is left is cleared away


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    parser.add_argument("--rounds", type=int, default=200)
    asked = parser.parse_args()
    with (
        Host.boot(prepare=install_tidegate) as host,
        tempfile.TemporaryDirectory() as folder,
        Plane(Path(folder), machine_address(host), WITH_SYSTEMD.allowed, recorded=True) as plane,
    ):
        scene = set_up(host, plane, WITH_SYSTEMD)
        bare = _Bare(scene, Path(folder))
        dead, there = zip(*(_round(scene, bare, number) for number in range(asked.rounds)), strict=True)
        bare.close()
    found = {"rounds": asked.rounds, **_figures("last_process_dead_ms", dead), **_figures("bare_stream_ms", there)}
    sys.stdout.write(json.dumps(found) + "\n" if asked.json else "".join(f"{name:28} {value}\n" for name, value in found.items()))


def _figures(name: str, values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {"p50": statistics.median(ordered), "p99": ordered[max(0, int(len(ordered) * 0.99) - 1)], "max": ordered[-1]}
    return {f"{name}_{which}": round(value, 1) for which, value in at.items()}


class _Bare:
    """A connection that reads the host's stream, as its courier does, and notes when something came."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        here = Path(f"/proc/{scene.host.leader}/root{_FOLDER}")
        context = ssl.create_default_context(cafile=str(here / "ca.pem"))
        both = folder / "courier.pem"
        both.write_bytes((here / "client.key").read_bytes() + (here / "client.pem").read_bytes())
        context.load_cert_chain(both)
        settings = scene.host.read("/etc/tidegate/courier.yaml").decode()
        _, _, rest = settings.partition("https://")
        name, _, port = rest.split()[0].strip("\"'").partition(":")
        self._connection = http.client.HTTPSConnection(name, int(port), context=context)
        self._connection.request("GET", "/v1/host/stream")
        self._response = self._connection.getresponse()
        self._came = threading.Condition()
        self._at = 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while line := self._response.readline():
            if line.startswith(b"data:"):
                with self._came:
                    self._at = time.monotonic()
                    self._came.notify_all()

    def after(self, moment: float) -> float:
        """When the first token after that moment came; waits for it."""
        with self._came:
            if not self._came.wait_for(lambda: self._at > moment, _DEAD_S):
                raise RuntimeError("the bare connection got nothing")
            return self._at

    def close(self) -> None:
        """Hang up; its thread ends with the process."""
        sock = self._connection.sock
        if sock is not None:
            sock.shutdown(2)


def _round(scene: Scene, bare: _Bare, number: int) -> tuple[float, float]:
    """Milliseconds until the process was dead, and until the revocation was on the bare connection."""
    body = {"template": "web-restart", "hosts": [HOST_NAME], "duration_s": 600, "reason": f"round {number}", "ticket": "INC-42"}
    request = scene.alice.api.post("/v1/requests", body)
    scene.carol.api.post(f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]})
    uid = _opened(scene)
    scene.host.run(f"setsid runuser -u {ALICE} -- sleep 6000 >/dev/null 2>&1 &")
    pid = _process(scene.host, uid)
    descriptor = os.pidfd_open(pid)
    try:
        time.sleep(0.1)
        died: list[float] = []
        watch = threading.Thread(target=_watch, args=(descriptor, died))
        watch.start()
        began = time.monotonic()
        scene.alice.api.post(f"/v1/requests/{request['id']}/revoke", {"reason": "measured"})
        watch.join()
        if not died:
            raise RuntimeError(f"round {number}: the process lives on")
    finally:
        os.close(descriptor)
    there = bare.after(began)
    _settled(scene)
    if number % 20 == 19:
        print(f"{number + 1} rounds", file=sys.stderr, flush=True)
    return (died[0] - began) * 1000, (there - began) * 1000


def _watch(descriptor: int, died: list[float]) -> None:
    """Note when it died: by a thread, since it dies while the call that ends it is still being answered."""
    if select.select([descriptor], [], [], _DEAD_S)[0]:
        died.append(time.monotonic())


def _opened(scene: Scene) -> int:
    """The account's uid, once it is open."""
    end = time.monotonic() + _OPEN_S
    while time.monotonic() < end:
        for grant in _grants(scene):
            if grant["state"] == "open" and ALICE in grant["uids"]:
                return int(grant["uids"][ALICE])
        time.sleep(0.02)
    raise RuntimeError(f"it did not open{scene.refusal()}")


def _settled(scene: Scene) -> None:
    end = time.monotonic() + 60
    while _grants(scene) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(_REST_S)


def _grants(scene: Scene) -> list[dict[str, Any]]:
    return list(client.call(Path(f"/proc/{scene.host.leader}/root{SOCKET}"), "status")["grants"])


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
