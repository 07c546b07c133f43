"""This machine's end of the channel to the agent in a virtual machine (tests.vm.guest)."""

import base64
import contextlib
import itertools
import json
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.hosts.errors import HostFailed
from tests.hosts.shell import CommandFailed
from tests.vm.qmp import connected

PATIENCE_S = 300.0  # bounds what hangs, and tells nothing of how long a thing may take: emulation on a busy machine is slow


class Unreachable(HostFailed):
    """The machine went down, or its agent did not answer in time."""


class Channel:
    """Requests to one machine's agent. Thread-safe: answers find their own caller."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._socket = connected(path, timeout)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[threading.Event, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._down = False
        self.hello = threading.Event()  # the agent has begun, in this boot
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(
        self,
        argv: Sequence[str],
        check: bool = True,
        timeout: float = PATIENCE_S,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A program as root, in no session and no unit but the agent's.

        Raises:
            CommandFailed: its status is not 0 and `check` is set.
            Unreachable: the machine is down, or said nothing for longer than the timeout.
        """
        answer = self._ask(
            timeout + 10.0,
            op="run", argv=list(argv), input=base64.b64encode(stdin).decode(), timeout=timeout, env=dict(env or {}),
        )  # fmt: skip
        out, err = (base64.b64decode(answer[name]).decode(errors="backslashreplace") for name in ("out", "err"))
        if check and answer["status"] != 0:
            raise CommandFailed(answer["status"], list(argv), out, err)
        return subprocess.CompletedProcess(list(argv), answer["status"], out, err)

    def python(self, source: str, *arguments: Any, timeout: float = PATIENCE_S) -> Any:
        """Run source in a forked child of the agent, with ``arguments``; what it leaves in ``result``."""
        return self._ask(timeout, op="python", source=source, arguments=list(arguments))["result"]

    def close(self) -> None:
        """Give the socket back; whoever waits is told."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5.0)
        self._socket.close()

    def _ask(self, patience: float, **request: Any) -> dict[str, Any]:
        number, came = next(self._numbers), threading.Event()
        answer: dict[str, Any] = {}
        self._waiting[number] = came, answer
        try:
            with self._lock:
                self._socket.sendall(json.dumps({"id": number, **request}).encode() + b"\n")
            if self._down or not came.wait(patience) or self._down:
                raise Unreachable(f"the machine {'is down' if self._down else f'said nothing for {patience:.0f} s'}")
        except OSError as error:
            raise Unreachable("the machine is down") from error
        finally:
            del self._waiting[number]
        if "error" in answer:
            raise HostFailed(f"the agent in the machine: {answer['error']}")
        return answer

    def _read(self) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := self._socket.recv(1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
        self._down = True
        for came, _ in list(self._waiting.values()):
            came.set()

    def _take(self, line: bytes) -> None:
        try:
            answer = json.loads(line)
        except ValueError:  # the rest of a line that a reboot cut
            return
        if "hello" in answer:
            self.hello.set()
        elif answer["id"] in self._waiting:
            came, place = self._waiting[answer["id"]]
            place.update(answer)
            came.set()
