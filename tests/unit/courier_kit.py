"""What the tests of the courier share: its folders, the real process as a user that is not root, and waiting."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.courier.places import Places
from agent.courier.status import Status
from tests.courier_peer import Peer

ROOT = Path(__file__).resolve().parents[2]
URI = "urn:tidegate:host:test"
SOMEBODY = 65000
RECORDING = "r-20261122T000000-00000000"


def wait_for(until: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Until that is so; fails the test otherwise."""
    end = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.01)


class Ground:
    """One host's folders, as packaging/tmpfiles.conf makes them, below ``root``, all of one user's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.places = Places(
            settings=root / "etc/courier.yaml",
            folder=root / "courier",
            inbox=root / "inbox",
            outbox=root / "outbox",
            sessions=root / "sessions",
            status=self.run / "courier/status.json",
        )
        for folder in (
            root / "etc",
            self.places.folder,
            self.places.inbox,
            self.places.outbox,
            self.places.sessions,
            self.places.status.parent,
        ):
            folder.mkdir(parents=True)
        self.places.shipped.mkdir()
        names = {
            "courier": "courier",
            "courier_config": "etc/courier.yaml",
            "inbox": "inbox",
            "outbox": "outbox",
            "sessions": "sessions",
        }
        paths = "".join(f"  {name}: {root / path}\n" for name, path in {**names, "run_dir": "run"}.items())
        (root / "etc/tidegate.yaml").write_text(f"paths:\n{paths}")

    def configure(self, text: str) -> None:
        """Put courier.yaml there, as root and an editor would: whole."""
        new = self.places.settings.with_name("new")
        new.write_text(text)
        new.chmod(0o644)
        new.replace(self.places.settings)

    def status(self) -> Status:
        """A status of its own, for a part that is tested in this process."""
        return Status(self.places.status, self.places.folder, "https", "https://peer")

    def said(self) -> dict[str, Any]:
        """What the courier says of itself."""
        try:
            found: dict[str, Any] = json.loads(self.places.status.read_text())
        except FileNotFoundError:
            return {}
        return found

    def inbox(self) -> list[bytes]:
        """What lies in the inbox, in order."""
        return [path.read_bytes() for path in sorted(self.places.inbox.glob("*.jws"))]

    def receipt(self, number: int, text: str = "eyJ") -> str:
        """A receipt in the outbox; its name."""
        name = f"20261122T000000.{number:09d}Z-receipt-r{number}.jws"
        (self.places.outbox / ".tidegate-new").write_text(text)
        (self.places.outbox / ".tidegate-new").rename(self.places.outbox / name)
        return name

    def events(self, first: int, last: int, name: str = "events.ndjson") -> None:
        """Append so many events."""
        lines = (
            json.dumps({"metadata": {"uid": f"uid-{number}", "sequence": number}, "message": "x" * 50})
            for number in range(first, last + 1)
        )
        with (self.places.outbox / name).open("a") as file:
            file.write("".join(line + "\n" for line in lines))

    def give(self) -> None:
        """What is the courier's becomes that user's, where these tests are run by root."""
        if os.geteuid() != 0:
            return
        for folder, _, files in os.walk(self.root):
            for path in (Path(folder), *(Path(folder) / name for name in files)):
                ours = path.name.endswith(".yaml")
                os.chown(path, 0 if ours else SOMEBODY, 0 if ours else SOMEBODY)


@pytest.fixture
def ground() -> Iterator[Ground]:
    """Below a folder that others may pass through: pytest's own is its user's alone."""
    root = Path(tempfile.mkdtemp(prefix="tidegate-courier-"))
    root.chmod(0o755)
    yield Ground(root)
    shutil.rmtree(root)


def as_somebody() -> dict[str, Any]:
    """For subprocess: as a user that is not root."""
    return {"user": SOMEBODY, "group": SOMEBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def interpreter() -> tuple[str, dict[str, str]]:
    """A Python that somebody who is not root may run, with this repository's code and libraries."""
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    real = Path(sys.executable).resolve()
    if os.geteuid() != 0 or all(folder.stat().st_mode & stat.S_IXOTH for folder in real.parents):
        return sys.executable, env
    env["PYTHONPATH"] += f":{sysconfig.get_path('purelib')}"  # the venv's own interpreter is in root's home here
    return "/usr/bin/python3", env


class Courier:
    """The real process, as a user that is not root, on one ground."""

    def __init__(self, ground: Ground, **environ: str) -> None:
        python, env = interpreter()
        self.ground = ground
        self.log = ground.root / "log"
        ground.give()
        argv = [python, "-m", "agent.courier.main", "--config", str(ground.root / "etc/tidegate.yaml")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, env={**env, **environ}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_somebody()
            )

    def kill(self) -> None:
        """SIGKILL, and reaped."""
        self.process.kill()
        self.process.wait(5)

    def stop(self) -> float:
        """SIGTERM; how long it took, in seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log.read_text()
        return time.monotonic() - began


@contextmanager
def running(ground: Ground, peer: Peer | None = None, **environ: str) -> Iterator[Courier]:
    """A courier that is enrolled at that peer, until the end of the block."""
    if peer is not None:
        peer.enrol(ground.places.folder, URI)
        ground.configure(f"url: {peer.url}\n")
    courier = Courier(ground, **environ)
    try:
        yield courier
    finally:
        if courier.process.poll() is None:
            courier.kill()
