"""Starts couriers quickly, and kills each at its Nth step: real processes, forked from one that has imported everything.

Run as a user that is not root. Lines in: ``run CONFIG N`` (N 0: never) → the pid; ``reap PID`` → how it ended, negative for a
signal. A step is whatever changes a file or moves bytes over the network; the process dies before it.
"""

import os
import signal
import ssl
import sys
from collections.abc import Callable
from typing import Any

from agent.courier import https, main  # noqa: F401  # imported before the fork

_FILES = ("open", "write", "fsync", "rename", "replace", "unlink")
_NETWORK = ("send", "recv_into")


def arm(last: int) -> None:
    """Count steps, over all threads; SIGKILL before the last."""
    done = 0

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)

        return call

    for name in _FILES:
        setattr(os, name, counted(getattr(os, name)))
    for name in _NETWORK:
        setattr(ssl.SSLSocket, name, counted(getattr(ssl.SSLSocket, name)))


def serve() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        words = line.split()
        if words[0] == "run":
            pid = os.fork()
            if pid == 0:
                if int(words[2]):
                    arm(int(words[2]))
                main.main(["--config", words[1]])
            print(pid, flush=True)
        else:
            _, status = os.waitpid(int(words[1]), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
