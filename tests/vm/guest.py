"""The root agent in a virtual machine: takes commands from a virtio-serial port, needing no network and no login.

Copied into the image and started there as early as systemd can; the machine's own Python runs it, so it imports nothing of
the tests. A request is one JSON line ``{"id", "op", ...}``, its answer one line of the same id, in any order. ``run`` starts a
program; ``python`` runs source in a forked child, which costs milliseconds where a new interpreter costs half a second.
"""

import base64
import contextlib
import json
import os
import subprocess
import threading
import time
import traceback
from pathlib import Path
from typing import Any

PORT = "/dev/vport0p1"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
_writing = threading.Lock()


def main() -> None:
    """Serve until the machine is gone."""
    while not Path(PORT).exists():
        time.sleep(0.02)
    port = os.open(PORT, os.O_RDWR | os.O_CLOEXEC)
    answer(port, {"id": 0, "hello": os.getpid()})
    rest = b""
    while True:
        data = os.read(port, 1 << 16)
        if not data:  # nobody at the other end: read(2) does not wait for somebody to come
            time.sleep(0.02)
            continue
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            threading.Thread(target=serve, args=(port, line), daemon=True).start()


def serve(port: int, line: bytes) -> None:
    """One request."""
    try:
        request = json.loads(line)
    except ValueError:  # what was on its way when the machine went down
        return
    try:
        value = {"run": run, "python": python}[request["op"]](request)
    except BaseException:
        value = {"error": traceback.format_exc()}
    answer(port, {"id": request["id"], **value})


def answer(port: int, value: dict[str, Any]) -> None:
    """One line, whole, whoever else answers."""
    data = json.dumps(value).encode() + b"\n"
    with _writing:
        while data:
            data = data[os.write(port, data) :]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """``argv``, ``input`` and ``timeout``; the child has a cgroup of no session's, and this agent's environment only."""
    done = subprocess.run(
        request["argv"],
        input=base64.b64decode(request["input"]),
        capture_output=True,
        timeout=request["timeout"],
        env={**ENVIRONMENT, **request["env"]},
        start_new_session=True,
        check=False,
    )
    return {"status": done.returncode, "out": encoded(done.stdout), "err": encoded(done.stderr)}


def python(request: dict[str, Any]) -> Any:
    """``source`` with ``arguments`` in a forked child; what it leaves in ``result`` comes back."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                out.write(json.dumps(evaluate(request["source"], request["arguments"])))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as came:
        text = came.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "the child died"}


def evaluate(source: str, arguments: list[Any]) -> dict[str, Any]:
    """The value, or what went wrong."""
    names: dict[str, Any] = {"arguments": arguments, "result": None, "__name__": "guest"}
    try:
        exec(source, names)
    except BaseException:
        return {"error": traceback.format_exc()}
    return {"result": names["result"]}


def encoded(data: bytes) -> str:
    """Bytes for JSON."""
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    main()
