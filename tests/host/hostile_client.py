"""Everything a local user can do to the control socket, for so many seconds; runs in the host by its own Python, alone.

Prints one JSON object: how many connections were made, refused by the kernel, hung up on, and answered.
"""

import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter

SOCKET = "/run/tidegate/control.sock"
LINES = (
    b'{"op":"status"}\n',
    b'{"op":"grants","ended":true}\n',
    b'{"op":"receipts"}\n',
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b'{"op":"revoke"}\n',
    b'{"op":"plan","token":"' + b"a" * 60_000 + b'"}\n',
)


def connect(seen: Counter[str]) -> socket.socket | None:
    """One connection that never waits."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(0.2)
    try:
        connection.connect(SOCKET)
    except OSError as error:
        seen[type(error).__name__] += 1
        connection.close()
        return None
    seen["connected"] += 1
    return connection


def hold(until: float, seen: Counter[str]) -> None:
    """A thousand connections held open; some write a byte now and then, some only half-close, some never read."""
    held = [connection for number in range(1000) if (connection := connect(seen)) is not None]
    for number, connection in enumerate(held):
        with contextlib.suppress(OSError):
            match number % 5:
                case 1:
                    connection.shutdown(socket.SHUT_WR)
                case 2:
                    connection.sendall(LINES[2])
                case 3:
                    connection.sendall(b"x" * 200_000)
                case 4:
                    reader, writer = os.pipe()
                    socket.send_fds(connection, [b"x"], [reader, writer])
                    os.close(reader)
                    os.close(writer)
    while time.monotonic() < until:
        for connection in held:
            with contextlib.suppress(OSError):
                connection.send(b"x")
        time.sleep(0.5)


def flood(until: float, seen: Counter[str]) -> None:
    """Requests as fast as they go."""
    number = 0
    while time.monotonic() < until:
        number += 1
        connection = connect(seen)
        if connection is None:
            continue
        with connection, contextlib.suppress(OSError):
            connection.sendall(LINES[number % len(LINES)])
            seen["answered" if connection.recv(100) else "hung up on"] += 1


def main() -> None:
    """Four processes of it; the last one tells."""
    until = time.monotonic() + float(sys.argv[1])
    children = []
    for act in (hold, flood, flood):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                act(until, Counter())
            os._exit(0)
        children.append(pid)
    seen: Counter[str] = Counter()
    flood(until, seen)
    for pid in children:
        os.waitpid(pid, 0)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
