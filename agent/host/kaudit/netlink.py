"""Requests to the kernel's audit over AF_NETLINK, and a socket on the group of its readers (linux/audit.h, netlink(7)).

It is never told of a process id (AUDIT_STATUS_PID): that place is auditd's, and readers of the group stand beside it.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import HostError

NETLINK_AUDIT = 9
GET, SET, ADD_RULE, DEL_RULE, LIST_RULES = 1000, 1001, 1011, 1012, 1013
_STATUS_ENABLED = 1
_GROUP_READLOG = 1
_SO_RCVBUFFORCE = 33
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_ACK = 0x1 | 0x4
_HEADER = struct.Struct("=IHHII")
_STATUS = struct.Struct("=8I")
_ANSWER_S = 5.0
_READ_MAX = 1 << 16

BUFFER = 64 << 20  # bytes; what a reader that stalls for seconds needs under a storm of execs


@dataclass(frozen=True, slots=True)
class Status:
    """``enabled``: 0 off, 1 on, 2 on and locked until the next boot. ``pid``: auditd's, or 0. ``lost``: records, since boot."""

    enabled: int
    pid: int
    lost: int


class Audit:
    """One socket for requests. A context manager.

    Raises:
        HostError: ``audit_absent`` when this kernel, container or privilege gives no access to it.
    """

    def __init__(self) -> None:
        self._number = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_AUDIT)
        except OSError as error:
            raise _absent(error) from error
        self._socket.settimeout(_ANSWER_S)

    def status(self) -> Status:
        """How it stands. Raises HostError."""
        for kind, body in self._ask(GET):
            if kind == GET and len(body) >= _STATUS.size:
                _, enabled, _, pid, _, _, lost, _ = _STATUS.unpack_from(body)
                return Status(enabled, pid, lost)
        raise HostError("audit_absent", "the kernel's audit gives no status")

    def enable(self, on: bool) -> None:
        """Turn it on or off. Raises HostError."""
        self._ask(SET, _STATUS.pack(_STATUS_ENABLED, int(on), 0, 0, 0, 0, 0, 0))

    def rules(self) -> list[bytes]:
        """All rules in force, as ``struct audit_rule_data``, in their lists' order. Raises HostError."""
        return [body for kind, body in self._ask(LIST_RULES) if kind == LIST_RULES]

    def add(self, rule: bytes) -> None:
        """Append a rule; one that is there already is left. Raises HostError."""
        with contextlib.suppress(FileExistsError):
            self._ask(ADD_RULE, rule)

    def remove(self, rule: bytes) -> None:
        """Remove that very rule; absent is done. Raises HostError."""
        with contextlib.suppress(FileNotFoundError):
            self._ask(DEL_RULE, rule)

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def __enter__(self) -> "Audit":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, kind: int, body: bytes = b"") -> list[tuple[int, bytes]]:
        """What the kernel answers, once it has said how it went; a refusal that means 'done already' keeps its class."""
        self._number += 1
        request = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST_ACK, self._number, 0) + body
        try:
            self._socket.sendto(request, (0, 0))
            return self._answers(kind)
        except (FileExistsError, FileNotFoundError):
            raise
        except OSError as error:
            raise _absent(error) from error

    def _answers(self, asked: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        ends = time.monotonic() + _ANSWER_S
        acknowledged = False
        while time.monotonic() < ends:
            for kind, number, body in messages(self._socket.recv(_READ_MAX)):
                if number != self._number:
                    continue  # late, of a question that was given up
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", body)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    acknowledged = True
                elif kind == _NLMSG_DONE:
                    return found
                else:
                    found.append((kind, body))
            # A list comes from a thread of the kernel's own, before or after the acknowledgement, and ends by DONE.
            if acknowledged and asked != LIST_RULES and (asked != GET or found):
                return found
        raise TimeoutError(0, "no answer")


def reader(buffer: int = BUFFER) -> socket.socket:
    """A non-blocking socket on the group of audit's readers, beside any auditd. Raises HostError ``audit_absent``."""
    try:
        found = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_AUDIT)
    except OSError as error:
        raise _absent(error) from error
    try:
        widen(found, buffer)
        found.bind((0, 1 << (_GROUP_READLOG - 1)))
    except OSError as error:
        found.close()
        raise _absent(error) from error
    return found


def widen(found: socket.socket, buffer: int) -> None:
    """Let a socket hold so many bytes, whatever rmem_max says (needs CAP_NET_ADMIN); less than wanted is no error."""
    try:
        found.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    except OSError:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, number and body of each message; what is cut short is left out."""
    while len(data) >= _HEADER.size:
        length, kind, _, number, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, number, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def record(data: bytes) -> tuple[int, bytes]:
    """Type and text of one datagram of the group; its length field is not what netlink(7) says, so it is not read."""
    if len(data) < _HEADER.size:
        return 0, b""
    return _HEADER.unpack_from(data)[1], data[_HEADER.size :]


def _absent(error: OSError) -> HostError:
    return HostError("audit_absent", f"the kernel's audit is not to be had here: {error.strerror or error}")
