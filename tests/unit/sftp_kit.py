"""A real sftp-server with a listener between it and its client: ``python sftp_kit.py TRANSCRIPT`` speaks SFTP on stdin and stdout.

The transcript has what passed, in an order in which no answer comes before its request.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SERVER = "/usr/lib/openssh/sftp-server"
Transcript = list[tuple[bool, bytes]]  # from the client?, and the bytes


def listen(path: str) -> None:
    """Run the server, pass everything on, and write the transcript when both have ended."""
    heard: list[tuple[bool, str]] = []
    with subprocess.Popen([SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as server:
        assert server.stdin is not None and server.stdout is not None
        ends = {0: server.stdin.fileno(), server.stdout.fileno(): 1}
        while server.stdout.fileno() in ends:
            for source in select.select(list(ends), [], [])[0]:
                data = os.read(source, 65536)
                if not data:
                    del ends[source]
                    if source == 0:
                        server.stdin.close()
                    continue
                heard.append((source == 0, data.hex()))
                while data:
                    data = data[os.write(ends[source], data) :]
    Path(path).write_text(json.dumps(heard))


def argv(path: Path) -> list[str]:
    """The command line of a listener."""
    return [sys.executable, __file__, str(path)]


def load(path: Path) -> Transcript:
    """What a listener wrote, with what went one way in a row in one piece."""
    found: Transcript = []
    for client, data in json.loads(path.read_text()):
        if found and found[-1][0] == client:
            found[-1] = (client, found[-1][1] + bytes.fromhex(data))
        else:
            found.append((client, bytes.fromhex(data)))
    return found


def packet(kind: int, *fields: bytes | int) -> bytes:
    """One packet; integers are uint32, bytes go as they are."""
    body = bytes([kind]) + b"".join(f if isinstance(f, bytes) else f.to_bytes(4) for f in fields)
    return len(body).to_bytes(4) + body


def string(data: bytes) -> bytes:
    """A string field."""
    return len(data).to_bytes(4) + data


def number(value: int) -> bytes:
    """A uint64 field."""
    return value.to_bytes(8)


def cut(transcript: Transcript, sizes: Iterable[int]) -> Transcript:
    """The same in other pieces, of these sizes in turn; what is left when they run out comes whole."""
    given = iter(sizes)
    found: Transcript = []
    for client, data in transcript:
        at = 0
        while at < len(data):
            size = next(given, len(data))
            found.append((client, data[at : at + size]))
            at += size
    return found


if __name__ == "__main__":
    listen(sys.argv[1])
