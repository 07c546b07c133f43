"""Runs a command on a terminal of its own and types into it: ``python3 typist.py SECONDS TYPED ENVIRONMENT COMMAND...`` (JSON)."""

import contextlib
import json
import os
import pty
import select
import signal
import sys
import time


def main() -> None:
    """Type one line after the other, each when the command has been silent for a moment; kill it when its time is up."""
    seconds, typed, environment, argv = float(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]
    lines = typed.encode().splitlines(keepends=True)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(argv[0], argv, {"TERM": "xterm", "PATH": "/usr/bin:/bin", **environment})
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends:
            if select.select([terminal], [], [], 0.3)[0]:
                sys.stdout.buffer.write(os.read(terminal, 65536))
            elif lines:
                os.write(terminal, lines.pop(0))
            elif os.waitpid(pid, os.WNOHANG)[0]:
                return
    except OSError:
        pass  # the command has closed its terminal
    finally:
        sys.stdout.flush()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGHUP)


if __name__ == "__main__":
    main()
