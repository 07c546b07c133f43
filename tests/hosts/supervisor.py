"""One process for each host, which owns all of it and outlives its owner by just as long as taking the host down needs.

The owner (a test run) talks to it over its stdin, a socket. When that socket ends, or the owner's process does, or a
signal comes, the host is taken down. Run as `python -m tests.hosts.supervisor`. The first line it reads is a `Spec` as
JSON, each further one a command: `boot`, `halt`, `kill`. Each answer is a JSON object on a line: `{"state": ...}`, or
`{"error": ..., "unavailable": bool}` and the end.
"""

import contextlib
import dataclasses
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from tests.hosts import cleanup, linux, network, tools
from tests.hosts.cgroup import Cgroup
from tests.hosts.errors import HostError, HostFailed, HostUnavailable
from tests.hosts.namespaces import Namespaces
from tests.hosts.nspawn import Nspawn

_SIGRTMIN_HALT = 3  # systemd as PID 1 takes SIGRTMIN+3 for "halt" (systemd(1))


@dataclass(frozen=True)
class Spec:
    """What the owner asks for: which kind of host, its name, what its tree lies on, where its files go."""

    kind: str
    name: str
    hostname: str
    lower: str
    run: str
    owner: int
    pids_max: int
    boot_timeout: float

    def host(self) -> Nspawn | Namespaces:
        """The host to be. Raises HostUnavailable."""
        fields = (self.name, self.hostname, Path(self.lower), Path(self.run, self.name))
        if self.kind == "nspawn":
            return Nspawn(*fields, Cgroup.named(self.name))
        try:
            return Namespaces(*fields, Cgroup.named(self.name))
        except HostUnavailable:
            return Namespaces(*fields, None)


class Ended(Exception):  # noqa: N818
    """The owner is gone, or has had enough."""


class Supervisor:
    """Makes one host and takes it down."""

    def __init__(self, spec: Spec, control: socket.socket) -> None:
        self._spec = spec
        self._control = control
        self._incoming = b""
        self._host = spec.host()
        self._owner = os.pidfd_open(spec.owner)
        self._namespace = -1
        self._link: network.Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # READY=1 comes here: systemd-nspawn looks it up by name (sd_notify(3)), the other kind has it as its stdout.
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def serve(self) -> None:
        """Do what the owner says until it ends."""
        self._host.folder.mkdir(mode=0o755)
        self._make_cgroup()
        tree = self._host.make_tree()
        self._namespace = network.new_namespace()
        self._link = network.connect(self._namespace)
        self._notify.bind(f"\0{self._spec.name}")
        self._answer({"state": "made", "root": str(tree), **asdict(self._link)})
        while True:
            command = self._command()
            if command == "boot":
                self._boot(tree)
                self._answer({"state": "booted", "leader": self._host.leader(self._started().pid)})
            elif command in ("halt", "kill"):
                self._end_processes(clean=command == "halt")
                self._answer({"state": "ended"})
            else:
                raise Ended(command)

    def take_down(self) -> None:
        """Leave nothing of the host on the machine."""
        if self._process is not None:
            self._end_processes(clean=False)
        if self._namespace >= 0:
            os.close(self._namespace)
        if self._link is not None:
            network.disconnect(self._link)
        cleanup.destroy(self._spec.name, Path(self._spec.run))

    def _make_cgroup(self) -> None:
        if self._host.cgroup is None:
            return
        try:
            self._host.cgroup.create(self._spec.pids_max)
        except HostUnavailable:
            if isinstance(self._host, Nspawn):
                raise
            # Half of it may be there: it is not used, and removed with the host.
            self._host = dataclasses.replace(self._host, cgroup=None)

    def _boot(self, tree: Path) -> None:
        if self._host.cgroup is not None:
            self._host.cgroup.clear()
        environment = {
            **tools.environment(),
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
            "NOTIFY_SOCKET": f"@{self._spec.name}",
        }
        said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        with self._console().open("ab") as console, said:
            said.connect(f"\0{self._spec.name}")
            self._process = subprocess.Popen(
                self._host.argv(tree, self._namespace),
                stdin=subprocess.DEVNULL,
                stdout=(console if isinstance(self._host, Nspawn) else said).fileno(),
                stderr=console,
                env=environment,
                pass_fds=(self._namespace,),
                start_new_session=True,
            )
        self._await_ready()

    def _await_ready(self) -> None:
        end = time.monotonic() + self._spec.boot_timeout
        pidfd = os.pidfd_open(self._started().pid)
        try:
            while True:
                ready = self._wait({self._notify: "notify", pidfd: "exit"}, end - time.monotonic())
                if ready == "notify" and b"READY=1" in self._notify.recv(4096).splitlines():
                    return
                if ready in ("exit", ""):
                    what = "ended while booting" if ready else f"did not boot in {self._spec.boot_timeout:.0f} s"
                    raise HostFailed(f"host {self._spec.name} {what}; its console ends with:\n{self._console_tail()}")
        finally:
            os.close(pidfd)

    def _end_processes(self, clean: bool) -> None:
        process = self._started()
        if clean and process.poll() is None and isinstance(self._host, Nspawn):
            os.kill(self._host.leader(process.pid), signal.SIGRTMIN + _SIGRTMIN_HALT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self._spec.boot_timeout)
        if self._host.cgroup is not None and not self._host.cgroup.kill():
            print(f"host {self._spec.name}: processes that cannot be killed", file=sys.stderr)
        # Without a cgroup this ends it all: PID 1 of the host goes with its parent, and all of the host with its PID 1.
        process.kill()
        process.wait()
        # A dead process keeps its number, its cgroup and its namespaces busy until it is reaped.
        if not tools.wait_until(linux.reap, timeout=5.0, step=0.002):
            print(f"host {self._spec.name}: processes that do not end", file=sys.stderr)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise HostFailed("the host was not started")
        return self._process

    def _console(self) -> Path:
        return self._host.folder / "console"

    def _console_tail(self) -> str:
        return "\n".join(self._console().read_text(errors="replace").splitlines()[-20:])

    def _answer(self, message: dict[str, object]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")

    def _command(self) -> str:
        """The owner's next line. Raises Ended when there will be none."""
        while b"\n" not in self._incoming:
            self._wait({self._control: "control"}, None)
            received = self._control.recv(4096)
            if not received:
                raise Ended("the owner closed its end")
            self._incoming += received
        line, _, self._incoming = self._incoming.partition(b"\n")
        return line.decode()

    def _wait(self, sources: dict[socket.socket | int, str], timeout: float | None) -> str:
        """Wait for one of `sources`; its name, or "" after `timeout` seconds. Raises Ended when the owner ends."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._owner, selectors.EVENT_READ, "owner")
            for source, name in sources.items():
                selector.register(source, selectors.EVENT_READ, name)
            if self._control not in sources:
                selector.register(self._control, selectors.EVENT_READ, "hang-up")
            if self._notify not in sources:
                # systemd tells of each reload, too: with ten of them unread, the host's PID 1 would wait for a reader for ever.
                selector.register(self._notify, selectors.EVENT_READ, "drain")
            while (ready := [str(chosen.data) for chosen, _ in selector.select(timeout)]) == ["drain"]:
                self._notify.recv(4096)
        if "owner" in ready or "hang-up" in ready:
            raise Ended("the owner is gone")
        return ready[0] if ready else ""


def _on_signal(number: int, _: FrameType | None) -> None:
    raise Ended(f"signal {number}")


def main() -> int:
    """Serve the owner on stdin; 0 when the host is gone."""
    linux.set_name("tidegate-host")
    linux.forget_login()
    linux.adopt_orphans()
    control = socket.socket(fileno=os.dup(0))
    stream: IO[str] = control.makefile("r", newline="\n")
    spec = Spec(**json.loads(stream.readline()))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _on_signal)
    supervisor: Supervisor | None = None
    failed = False
    try:
        supervisor = Supervisor(spec, control)
        supervisor.serve()
    except Ended:
        pass
    except Exception as failure:
        failed = True
        _report(control, failure)
    finally:
        # From here on it only cleans up, and must not be stopped half-way.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if supervisor is not None:
            supervisor.take_down()
        else:
            cleanup.destroy(spec.name, Path(spec.run))
    return 1 if failed else 0


def _report(control: socket.socket, failure: Exception) -> None:
    expected = isinstance(failure, HostError)
    error = str(failure) if expected else "".join(traceback.format_exception(failure))
    answer = {"error": error, "unavailable": isinstance(failure, HostUnavailable)}
    with contextlib.suppress(OSError):  # nobody there to hear it
        control.sendall(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
