"""Ports for servers that a test starts on this machine."""

import contextlib
import random
import socket

from tests.hosts.errors import HostUnavailable

_RANGE = (20_000, 32_000)  # below those that the kernel gives to clients


def free_port(address: str = "127.0.0.1") -> int:
    """A port of that address that no client of anything is given: a server that is started again must get it again.

    Raises:
        HostUnavailable: none was found.
    """
    chance = random.SystemRandom()  # nobody's seed: two runs of the same test must not meet
    for _ in range(100):
        port = chance.randrange(*_RANGE)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port
    raise HostUnavailable(f"no free port on {address}")
