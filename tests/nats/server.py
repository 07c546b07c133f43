"""Debian's nats-server, unpacked into the cache (never installed), run on loopback with files of its own."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.hosts import cache
from tests.hosts.errors import BuildFailed, HostUnavailable
from tests.hosts.ports import free_port

_NO_NETWORK = (
    "Could not resolve",
    "Temporary failure resolving",
    "Unable to connect",
    "Could not connect",
    "Network is unreachable",
)
START_S = 10.0
_PRCTL = ctypes.CDLL(None).prctl


def binary() -> Path:
    """The program's path; downloaded with apt-get and unpacked if it is not in the cache.

    Raises:
        HostUnavailable: no apt, or no network.
        BuildFailed: apt or dpkg failed for another reason.
    """
    folder = cache.folder() / "nats"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        descriptor = cache.lock(folder / "lock", wait=True)
        stack.callback(os.close, descriptor)
        found = folder / "root/usr/sbin/nats-server"
        if not found.exists():
            _fetch(folder)
        return found


def version(program: Path) -> str:
    """Such as ``2.9.10``."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.split("v")[-1].strip()


def _fetch(folder: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise HostUnavailable("nats-server comes as a Debian package, and here is no apt-get or no dpkg-deb")
    for old in (*folder.glob("*.deb"), *folder.glob("root*")):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "nats-server"]
    try:
        _run(download, folder)
    except BuildFailed:
        _run(["apt-get", "-o", "Acquire::Check-Valid-Until=false", "update"], folder)
        _run(download, folder)
    (package,) = folder.glob("nats-server_*.deb")
    _run(["dpkg-deb", "-x", str(package), "root.part"], folder)
    (folder / "root.part").rename(folder / "root")


def _run(argv: list[str], folder: Path) -> None:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise (HostUnavailable if any(word in said for word in _NO_NETWORK) else BuildFailed)(f"{' '.join(argv)}: {said}")


def _with_us() -> None:
    """Between fork and exec: the kernel kills the server when the thread that started it ends (PR_SET_PDEATHSIG, prctl(2))."""
    _PRCTL(1, signal.SIGKILL)


class Server:
    """One nats-server. ``configure`` before the first start; it keeps its port and its store over restarts."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        """``folder``: an empty one, for configuration, store and log."""
        self.folder, self.address, self.port = folder, address, free_port(address)
        self.store, self.log = folder / "store", folder / "log"
        self._config = folder / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def listen(self) -> str:
        """``ADDRESS:PORT``."""
        return f"{self.address}:{self.port}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def configure(self, text: str) -> None:
        """The configuration from the next start or reload on."""
        self._config.write_text(text)

    def start(self) -> None:
        """Start it, and wait until it answers. Raises BuildFailed with its log when it does not."""
        with self.log.open("ab") as log:
            argv = [str(binary()), "--config", str(self._config)]
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_with_us,  # noqa: PLW1509  # one system call, resolved before: it takes no lock
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1) as probe:
                probe.settimeout(2)
                if probe.recv(5) == b"INFO ":
                    return
            time.sleep(0.02)
        self.kill()
        raise BuildFailed(f"nats-server did not start: {self.log.read_text()[-2000:]}")

    def reload(self) -> None:
        """Read the configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL, as a crash; also for one that is not running."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and the end awaited; killed after 10 s."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running(folder: Path, config: str | None = None) -> Iterator[Server]:
    """A server for the length of the block; ``config`` has ``{listen}`` and ``{store}`` where these go."""
    server = Server(folder)
    try:
        if config is not None:
            server.configure(config.replace("{listen}", server.listen).replace("{store}", str(server.store)))
            server.start()
        yield server
    finally:
        server.stop()
