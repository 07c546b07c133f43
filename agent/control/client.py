"""Asking the daemon."""

import json
import socket
from pathlib import Path

from agent.control.protocol import ANSWER_MAX, ANSWER_TIMEOUT_S, encode, raise_failure
from agent.errors import HostError


def call(path: Path, op: str, **arguments: object) -> object:
    """One request to the daemon; returns its result.

    Raises:
        HostError: as :func:`call_within`.
        RefusedError: what was asked is refused.
    """
    return call_within(ANSWER_TIMEOUT_S, path, op, **arguments)


def call_within(timeout_s: float, path: Path, op: str, **arguments: object) -> object:
    """The same, with so many seconds for each wait.

    Raises:
        HostError: ``agent_unreachable`` when nobody listens, or whatever the daemon answered.
        RefusedError: what was asked is refused.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(encode({"op": op, **arguments}))
            line = _read_line(connection)
    except PermissionError as error:
        raise HostError("agent_forbidden", f"{path}: only root and members of the group tidegate may ask") from error
    except OSError as error:
        why = error.strerror or str(error)
        mend = "start it with `systemctl start tidegated.service`; `journalctl -u tidegated` says why it stopped"
        raise HostError("agent_unreachable", f"tidegated does not answer at {path} ({why}): {mend}") from error
    answer = json.loads(line)
    if not answer.get("ok"):
        raise_failure(answer)
    return answer["result"]


def _read_line(connection: socket.socket) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while chunk := connection.recv(65536):
        chunks.append(chunk)
        size += len(chunk)
        if chunk.endswith(b"\n"):
            return b"".join(chunks)
        if size > ANSWER_MAX:
            break
    raise OSError("the answer ended early or is too long")
