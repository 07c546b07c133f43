"""The one way a process is started: argv, absolute path, fixed environment, no stdin, a timeout always.

A tool never sees the daemon's own environment, its terminal or its file descriptors, and can't outlive its time: it is
started as the leader of a new session, and what is left of its process group is killed when it ends or is late.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import CommandResult

ROOT_PATH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")
ENVIRONMENT: Mapping[str, str] = {"LC_ALL": "C", "PATH": ":".join(ROOT_PATH)}
OUTPUT_MAX = 1 << 20  # bytes kept of each stream; the rest is read and dropped, so that the tool never blocks on us
_CHUNK = 1 << 16
_DRAIN_S = 0.2  # how long a pipe may stay open after the tool itself has ended (a daemon it left behind holds it)


def find_tool(name: str) -> Path | None:
    """Absolute path of an executable: ``name`` itself if absolute, else the first hit in root's fixed search path."""
    if name.startswith("/"):
        candidates = [Path(name)]
    elif "/" in name or not name:
        return None
    else:
        candidates = [Path(folder) / name for folder in ROOT_PATH]
    return next((path for path in candidates if path.is_file() and os.access(path, os.X_OK)), None)


def run(
    argv: Sequence[str],
    *,
    stdin: bytes | None = None,
    timeout_s: float = 30.0,
    hear: Callable[[bytes], None] | None = None,
) -> CommandResult:
    """Run a tool to its end. A non-zero exit is the caller's to judge (see :func:`require`).

    Args:
        argv: the tool's name or absolute path, then its arguments. Never a shell.
        stdin: bytes for its standard input; None is /dev/null.
        timeout_s: seconds until its whole process group is killed.
        hear: is given what it writes to stderr, as it does; what this raises ends the tool, and goes on.

    Raises:
        HostError: ``tool_missing`` (no such tool), ``tool_failed`` (it could not be started), ``tool_late``.
    """
    path = find_tool(argv[0])
    if path is None:
        raise HostError("tool_missing", f"{argv[0]} is not on this host")
    full = (str(path), *argv[1:])
    try:
        process = subprocess.Popen(
            full,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(ENVIRONMENT),
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
    except (OSError, ValueError) as error:
        raise HostError("tool_failed", f"{path} could not be started: {error}") from error
    try:
        stdout, stderr, late = _exchange(process, stdin or b"", time.monotonic() + timeout_s, hear)
    finally:
        _kill_group(process.pid)  # before the leader is reaped: until then nothing else can have its group's number
        with process:
            returncode = process.wait()
    if late:
        raise HostError("tool_late", f"{path} was killed after {timeout_s:g} s")
    return CommandResult(full, returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def require(result: CommandResult, what: str) -> CommandResult:
    """The result, if the tool exited with 0. Raises HostError ``tool_failed`` with its last line of output otherwise."""
    if result.ok:
        return result
    said = (result.stderr.strip() or result.stdout.strip()).splitlines() or ["no output"]
    raise HostError("tool_failed", f"{what}: {result.argv[0]} exited with {result.returncode}: {said[-1][:300]}")


def _exchange(
    process: subprocess.Popen[bytes], stdin: bytes, deadline: float, hear: Callable[[bytes], None] | None
) -> tuple[bytes, bytes, bool]:
    """Feed stdin and read both streams until the process has ended and they closed, or the deadline (monotonic) passed."""
    assert process.stdout is not None and process.stderr is not None  # noqa: S101  (both were asked for as pipes)
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    todo = memoryview(stdin)
    pidfd = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector, os.fdopen(pidfd) as end:
        selector.register(end, selectors.EVENT_READ)
        for fd in kept:
            selector.register(fd, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        running = True
        while selector.get_map() and (now := time.monotonic()) < deadline:
            for key, _ in selector.select(deadline - now):
                if key.fileobj is end:
                    running = False
                    deadline = min(deadline, time.monotonic() + _DRAIN_S)
                    selector.unregister(end)
                elif key.fileobj is process.stdin:
                    todo = _feed(process, selector, todo)
                elif not (chunk := _take(key.fd, kept[key.fd])):
                    selector.unregister(key.fileobj)
                elif hear is not None and key.fd == process.stderr.fileno():
                    hear(chunk)
    return bytes(kept[process.stdout.fileno()]), bytes(kept[process.stderr.fileno()]), running


def _feed(process: subprocess.Popen[bytes], selector: selectors.BaseSelector, todo: memoryview) -> memoryview:
    """Write some of stdin; close it when all is written or the tool no longer reads."""
    assert process.stdin is not None  # noqa: S101  (registered only then)
    try:
        todo = todo[os.write(process.stdin.fileno(), todo[:_CHUNK]) :] if todo else todo
    except BlockingIOError:
        return todo
    except BrokenPipeError:
        todo = todo[:0]
    if not todo:
        selector.unregister(process.stdin)
        process.stdin.close()
    return todo


def _take(fd: int, kept: bytearray) -> bytes:
    """Read once; keep what fits under the cap. Empty at the end of the stream."""
    chunk = os.read(fd, _CHUNK)
    kept += chunk[: OUTPUT_MAX - len(kept)]
    return chunk


def _kill_group(pid: int) -> None:
    """Kill what is left of the tool's process group, which has the number of its leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
