"""Sockets of the host's own network namespace. The daemon's unit gives it another, with nothing in it.

The kernel tells audit's readers, and listeners of the process connector, only where PID 1 lives (kernel/audit.c,
drivers/connector/connector.c). Requests to audit are answered anywhere.
"""

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

_HOSTS = Path("/proc/1/ns/net")
_CLONE_NEWNET = 0x40000000


def in_the_hosts(make: Callable[[], socket.socket]) -> socket.socket:
    """What ``make`` returns, called in the host's namespace; raises what it raises. Where that can't be joined, called as we are.

    setns(2) is for the calling thread alone, so it has one to itself, which then ends: nothing else of this process moves.
    """
    made: list[socket.socket] = []
    failed: list[Exception] = []

    def run() -> None:
        _join()
        try:
            made.append(make())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="hosts-network")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def _join() -> None:
    with contextlib.suppress(OSError):
        fd = os.open(_HOSTS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET)  # os.setns comes with Python 3.12
        finally:
            os.close(fd)
