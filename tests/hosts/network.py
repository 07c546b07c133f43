"""A host's network: a namespace of its own, and a veth pair with its own /30 to reach it by. No route leads elsewhere.

The addresses are those set aside for benchmarks (RFC 2544, 198.18.0.0/15), which no network carries. The interface's
name is the claim on a /30: the kernel lets it be made only once, so two test runs never share one.
"""

import contextlib
import ipaddress
import os
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import linux, tools
from tests.hosts.errors import HostUnavailable

BLOCK = ipaddress.IPv4Network("198.18.0.0/15")
_SLOTS = 1 << (30 - BLOCK.prefixlen)
_ATTEMPTS = 64


@dataclass(frozen=True)
class Link:
    """One veth pair: the interface on the machine, the addresses of both ends."""

    interface: str
    machine_address: str
    host_address: str


def new_namespace() -> int:
    """A descriptor of a new, empty network namespace, which lives as long as a process or a descriptor is in it.

    Only for a process with one thread: it goes there and comes back.

    Raises:
        HostUnavailable: this is not permitted here.
    """
    here = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.unshare(linux.CLONE_NEWNET)
        there = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(here, linux.CLONE_NEWNET)
    except OSError as failure:
        raise HostUnavailable(f"no network namespace can be made here: {failure.strerror}") from failure
    finally:
        os.close(here)
    return there


def connect(namespace: int) -> Link:
    """Join the network namespace `namespace` to the machine's by a veth pair on a /30 that nobody uses.

    Raises:
        HostUnavailable: no veth pair can be made here.
    """
    problem = "every address is taken"
    for slot in random.SystemRandom().sample(range(_SLOTS), _ATTEMPTS):
        first = BLOCK.network_address + 4 * slot
        link = Link(f"tidegate-{slot:04x}", str(first + 1), str(first + 2))
        if _routed(first):
            continue
        inside = (
            f"link add host0 type veth peer name {link.interface} netns {os.getpid()}\n"
            f"addr add {link.host_address}/30 dev host0\nlink set host0 up\nlink set lo up\n"
        )
        try:
            _ip(inside, namespace)
        except subprocess.CalledProcessError as failure:
            problem = failure.stderr.strip().splitlines()[0] if failure.stderr.strip() else str(failure)
            if "exists" in problem:
                continue
            break
        _close_in(link)
        _ip(f"addr add {link.machine_address}/30 dev {link.interface}\nlink set {link.interface} up\n")
        return link
    raise HostUnavailable(f"no veth pair can be made here: {problem}")


def disconnect(link: Link) -> None:
    """Remove the pair. (It also goes by itself, a little later, with the last process of the host.)"""
    tools.run(["ip", "link", "delete", link.interface], check=False)


def _ip(commands: str, namespace: int | None = None) -> None:
    enter = [] if namespace is None else ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}"]
    tools.run([*enter, "ip", "-batch", "-"], stdin=commands)


def _close_in(link: Link) -> None:
    # Settings of this one interface, which goes with the host: nothing of the machine is changed. Without forwarding
    # the host's root can add what routes it likes, and still gets no farther than the machine.
    settings = {
        f"ipv4/conf/{link.interface}/forwarding": "0",
        f"ipv6/conf/{link.interface}/disable_ipv6": "1",
    }
    for setting, value in settings.items():
        with contextlib.suppress(OSError):  # there is no IPv6 here, or /proc/sys is read-only in this container
            Path("/proc/sys/net", setting).write_text(value)


def _routed(first: ipaddress.IPv4Address) -> bool:
    """Whether the machine already has a way to that /30 other than its default route (a VPN may use the block)."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        target, mask = (int.from_bytes(bytes.fromhex(fields[index]), "little") for index in (1, 7))
        if mask and int(first) & mask == target:
            return True
    return False
