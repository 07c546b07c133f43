"""QEMU's own control socket (QMP): one command at a time, and the events that come beside the answers."""

import json
import socket
import time
from pathlib import Path
from typing import Any

from tests.hosts import tools
from tests.hosts.errors import HostFailed

_ANSWER_S = 60.0


class Qmp:
    """A connection to one QEMU. Not thread-safe."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._socket = connected(path, timeout)
        self._socket.settimeout(_ANSWER_S)
        self._lines = self._socket.makefile("r")
        self.events: list[str] = []
        self._read()
        self.call("qmp_capabilities")

    def call(self, command: str, **arguments: Any) -> Any:
        """Run one command; its return value. Raises HostFailed when QEMU refuses it or is gone."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._read()
            if "error" in answer:
                raise HostFailed(f"QEMU: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def monitor(self, line: str) -> str:
        """One command of the human monitor; what it prints."""
        printed: str = self.call("human-monitor-command", **{"command-line": line})
        return printed

    def wait_for(self, event: str, timeout: float) -> None:
        """Until that event has come since it was last waited for. Raises HostFailed."""
        end = time.monotonic() + timeout
        while event not in self.events:
            self.call("query-status")  # events come with its answer
            if time.monotonic() > end:
                raise HostFailed(f"QEMU said no {event} within {timeout} s")
            time.sleep(0.02)
        self.events.remove(event)

    def close(self) -> None:
        """Give the socket back."""
        self._lines.close()
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise HostFailed("QEMU has ended")
        answer: dict[str, Any] = json.loads(line)
        if "event" in answer:
            self.events.append(answer["event"])
        return answer


def connected(path: Path, timeout: float) -> socket.socket:
    """A connection to a Unix socket that is about to be there. Raises HostFailed."""
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def tried() -> bool:
        try:
            found.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    if not tools.wait_until(tried, timeout, step=0.01):
        found.close()
        raise HostFailed(f"nobody listens at {path}")
    return found
