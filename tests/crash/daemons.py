"""The tidegateds of one host: started, traced or not, waited for, asked, and killed."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.control import client
from agent.errors import TidegateError
from tests.crash import agent_process
from tests.crash.flags import Flags
from tests.crash.syscalls import OWN, Filter
from tests.crash.tracer import Tracer

ANSWERS = 50  # descriptor of the driver's answers; no fork keeps it, so that its end is the driver's
FOLDER = Path(OWN)
LOG = FOLDER / "log"
SOCKET = Path("/run/tidegate/control.sock")
_INBOX = Path("/var/lib/tidegate/spool/inbox")
_PATIENCE_S = 60.0
_QUIET_S = 0.6  # so long without a counted call, and what was set off is taken to be over
_LEAST_S = 0.002


class Stuck(Exception):  # noqa: N818
    """Something that must come did not."""


class Daemons:
    """``flags`` are theirs and the tracer's; ``backend`` chooses the configuration."""

    def __init__(self) -> None:
        self.flags = Flags()
        self._filter = Filter()
        self._pids: list[int] = []  # of tidegated, or of its tracer, with which it dies
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notify.bind(f"\0tidegate-crash-{os.getpid()}")
        self._notify.setblocking(False)
        os.environ["NOTIFY_SOCKET"] = f"@tidegate-crash-{os.getpid()}"

    def start(self, backend: str, offset_ns: int) -> None:
        """Untraced, its clocks ahead by so much; returns when it is ready."""
        self.flags.clear()
        self.flags.offset_ns = offset_ns
        self._forget_what_was_said()
        self._pids.append(forked(lambda: self._serve(backend)))
        self._wait_until_ready(self._pids[-1])

    def start_traced(self, backend: str, kill: dict[str, Any], *, armed: bool = False) -> int:
        """Under a tracer; returns its report's descriptor. ``armed``: the start itself is what counts, and the clocks stay.

        ``kill``: ``at`` (the how-manieth call), ``only_agent`` (what it runs goes on), ``boundary`` (see Flags); see :meth:`arm`.
        """
        offset = self.flags.offset_ns
        self.flags.clear()
        if armed:
            self.flags.offset_ns = offset
            self.arm(kill)
        self._forget_what_was_said()
        theirs, ours = os.pipe()
        tracer = Tracer(self._filter, self.flags, ours, kill.get("at", 0), bool(kill.get("only_agent")))
        self._pids.append(forked(lambda: tracer.run(lambda: self._serve(backend))))
        os.close(ours)
        if not armed:
            self._wait_until_ready(0)
        return theirs

    def arm(self, kill: dict[str, Any]) -> None:
        """From here on calls and commits count."""
        self.flags.boundary = kill.get("boundary", 0)
        self.flags.armed = 1

    def hit(self, report: int) -> dict[str, Any]:
        """Wait for the kill, and return what the tracer says; where it never comes, because all is over, kill then."""
        said, last = b"", -1
        still = begun = time.monotonic()
        os.set_blocking(report, False)
        while not said.endswith(b"\n"):
            with contextlib.suppress(BlockingIOError):
                part = os.read(report, 1 << 20)
                if not part:
                    raise Stuck("the tracer ended and said nothing")
                said += part
                continue
            now = time.monotonic()
            if self.flags.calls != last:
                last, still = self.flags.calls, now
            if now - still > _QUIET_S and not self._busy() and not self.flags.agent_status:
                os.kill(self.flags.agent, signal.SIGKILL)
                still = now
            if now - begun > _PATIENCE_S:
                raise Stuck("nothing more is heard of the traced tidegated")
            time.sleep(_LEAST_S)
        os.close(report)
        return json.loads(said)  # type: ignore[no-any-return]

    def settled(self) -> list[str]:
        """The states of all live grants, once none is between two states and the inbox is empty; at the latest after a while."""
        end = time.monotonic() + _PATIENCE_S
        while _in_hand(states := _states()) and time.monotonic() < end:
            time.sleep(_LEAST_S)
        return states

    def wait_for(self, states: list[str]) -> None:
        """Until that is how the live grants stand. Raises Stuck."""
        wait(lambda: self.settled() == states, f"the grants are {states}")

    def kill_all(self) -> None:
        """SIGKILL, and wait; what a traced one runs goes with its tracer."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._pids.clear()

    def service(self, backend: str, action: str) -> None:
        """Start or stop the real unit, by systemd."""
        for argv in (["set-environment", f"TIDEGATE_CONFIG={_config(backend)}"], [action, "tidegated"]):
            subprocess.run(["systemctl", *argv], check=True, timeout=_PATIENCE_S, capture_output=True)

    def _serve(self, backend: str) -> None:
        with LOG.open("a") as log:
            os.dup2(log.fileno(), 2)
        agent_process.serve(_config(backend), self.flags)

    def _wait_until_ready(self, pid: int) -> None:
        def said() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    if b"READY=1" in self._notify.recv(4096):
                        return True
            if self.flags.agent_status or (pid and os.waitpid(pid, os.WNOHANG)[0]):
                raise Stuck("tidegated ended at its start")
            return False

        wait(said, "tidegated is ready")

    def _forget_what_was_said(self) -> None:
        """READY=1 of one that is dead by now."""
        with contextlib.suppress(BlockingIOError):
            while self._notify.recv(4096):
                continue

    @staticmethod
    def _busy() -> bool:
        """Whether the daemon still has something in hand, as it says itself."""
        try:
            return _in_hand(_states())
        except (TidegateError, OSError):
            return True


def forked(work: Callable[[], object]) -> int:
    """Do it in a fork, which never returns; what it raises goes to the log."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.close(ANSWERS)
        work()
    except BaseException:
        with LOG.open("a") as log:
            traceback.print_exc(file=log)
    finally:
        os._exit(0)


def wait(ready: Callable[[], bool], what: str) -> None:
    """Raises Stuck when it does not become so."""
    end = time.monotonic() + _PATIENCE_S
    while not ready():
        if time.monotonic() > end:
            raise Stuck(f"not so in {_PATIENCE_S:.0f} s: {what}")
        time.sleep(_LEAST_S)


def _states() -> list[str]:
    answer: Any = client.call(SOCKET, "status")
    return [grant["state"] for grant in answer["grants"]]


def _in_hand(states: list[str]) -> bool:
    """``ended``: its end is written down, and it is about to leave the list."""
    return bool({"opening", "shutting", "ended"} & set(states) or list(_INBOX.iterdir()))


def _config(backend: str) -> Path:
    return Path(f"/etc/tidegate-{backend}/tidegate.yaml")
