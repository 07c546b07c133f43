"""Method calls to systemd over its own private socket: no bus daemon, no process, about a millisecond.

Only what arming a timer needs of the D-Bus specification: marshalling by a signature, one call, its answer. Through systemd-run
or busctl the same takes 7 to 20 ms, each time a process, and a bus daemon that may not run yet when the agent starts.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias, cast

from agent.errors import HostError

PRIVATE_SOCKET = Path("/run/systemd/private")
DESTINATION = "org.freedesktop.systemd1"
MANAGER_PATH, MANAGER = "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"

Value: TypeAlias = "str | int | bool | list[Value] | tuple[Value, ...]"

_MESSAGE_MAX = 1 << 20  # bytes of one answer; those that are asked for here have some hundred
_LINE_MAX = 1024
_CHUNK = 1 << 16
_CALL, _ERROR = 1, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIXED = {"y": "<B", "b": "<I", "u": "<I", "i": "<i", "t": "<Q", "x": "<q"}
_ALIGN = {"y": 1, "g": 1, "v": 1, "b": 4, "u": 4, "i": 4, "s": 4, "o": 4, "a": 4, "t": 8, "x": 8, "(": 8}


class BusError(HostError):
    """systemd's own refusal; ``name`` is its D-Bus error name."""

    def __init__(self, code: str, name: str, text: str) -> None:
        super().__init__(code, f"systemd says: {text or name}")
        self.name = name


class SystemdBus:
    """One connection, used by one thread. Every wait is bounded by ``timeout_s`` from the start of the connection."""

    def __init__(self, path: Path = PRIVATE_SOCKET, timeout_s: float = 5.0) -> None:
        """Connect and authenticate as this process's user. Raises HostError ``systemd_unreachable``."""
        self._until = time.monotonic() + timeout_s
        self._serial = 0
        self._read = bytearray()  # and not yet made sense of
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._in_time()
            self._socket.connect(str(path))
            # BEGIN goes with it, as sd-bus does: one answer of PID 1 less to wait for. What is not taken up is not answered OK.
            self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
            said = self._line()
            if not said.startswith(b"OK "):
                raise HostError("systemd_unreachable", f"{path} does not take this user: {said[:80]!r}")
        except OSError as error:
            self.close()
            raise HostError("systemd_unreachable", f"{path}: {error.strerror or error}") from error
        except HostError:
            self.close()
            raise

    def __enter__(self) -> "SystemdBus":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def call(
        self, member: str, signature: str, *values: Value, path: str = MANAGER_PATH, interface: str = MANAGER
    ) -> tuple[str, bytes]:
        """One method call; returns the answer's signature and its body (little endian).

        Raises:
            BusError: systemd refused.
            HostError: ``systemd_unreachable``: it does not answer, or no sense can be made of it.
        """
        self._serial += 1
        try:
            self._in_time()
            self._socket.sendall(message(self._serial, member, signature, values, path=path, interface=interface))
            while True:  # what else comes is a signal to everybody who listens
                kind, fields, body = self._message()
                if fields.get(_REPLY_SERIAL) == self._serial:
                    break
        except (OSError, struct.error, UnicodeDecodeError, LookupError) as error:
            raise HostError("systemd_unreachable", f"systemd does not answer {member}: {error}") from error
        given = str(fields.get(_SIGNATURE, ""))
        if kind == _ERROR:
            raise BusError("systemd_refused", str(fields.get(_ERROR_NAME, "")), _first_string(given, body))
        return given, body

    def state(self, unit: str) -> str:
        """A unit's ActiveState (systemd.unit(5)); empty when it isn't loaded. Raises as :meth:`call`."""
        get = ("org.freedesktop.systemd1.Unit", "ActiveState")
        try:
            _, body = self.call("Get", "ss", *get, path=unit_path(unit), interface="org.freedesktop.DBus.Properties")
        except BusError:
            return ""
        return _string_at(body, 4)  # a variant: its signature (length 1, "s", NUL) fills the first four bytes

    def _in_time(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def _line(self) -> bytes:
        while (end := self._read.find(b"\r\n")) < 0:
            if len(self._read) > _LINE_MAX:
                raise ConnectionError("too long a line")
            self._more()
        return self._taken(end + 2)[:-2]

    def _message(self) -> tuple[int, dict[int, Value], bytes]:
        head = self._exactly(16)
        if head[:1] != b"l" or head[3:4] != b"\1":  # systemd answers in its own order, which is ours; all we support is little
            raise ConnectionError("no message of this byte order and version")
        body_size, _, fields_size = struct.unpack_from("<III", head, 4)
        padded = -(-fields_size // 8) * 8
        if body_size + padded > _MESSAGE_MAX:
            raise ConnectionError("too long a message")
        fields = self._exactly(padded)[:fields_size]
        return head[1], dict(_fields(fields)), self._exactly(body_size)

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            self._more()
        return self._taken(size)

    def _more(self) -> None:
        """Whatever has come, at once: byte by byte a short answer would cost as much as what it answers."""
        self._in_time()
        chunk = self._socket.recv(_CHUNK)
        if not chunk:
            raise ConnectionError("the connection was closed")
        self._read += chunk

    def _taken(self, size: int) -> bytes:
        found = bytes(self._read[:size])
        del self._read[:size]
        return found


def unit_path(unit: str) -> str:
    """The object path of a unit: every byte but letters and digits escaped (sd_bus_path_encode(3))."""
    escaped = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):02x}" for c in unit)
    return f"/org/freedesktop/systemd1/unit/{escaped}"


def message(serial: int, member: str, signature: str, values: tuple[Value, ...], *, path: str, interface: str) -> bytes:
    """A method call in bytes (D-Bus specification, "Message Protocol"). Raises ValueError on a value of another type."""
    body = bytearray()
    for kind, value in zip(split(signature), values, strict=True):
        marshal(body, kind, value)
    texts = {_DESTINATION: DESTINATION, _INTERFACE: interface, _MEMBER: member}
    fields: list[Value] = [
        (_PATH, ("o", path)),
        *((code, ("s", text)) for code, text in texts.items()),
        (_SIGNATURE, ("g", signature)),
    ]
    found = bytearray(struct.pack("<cBBBII", b"l", _CALL, 0, 1, len(body), serial))
    marshal(found, "a(yv)", fields)
    found += bytes(-len(found) % 8)
    return bytes(found + body)


def split(signature: str) -> Iterator[str]:
    """The complete types of a signature, one by one. Raises ValueError on one that is none."""
    at = 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        yield signature[at:end]
        at = end


def _end_of_type(signature: str, at: int) -> int:
    if at >= len(signature):
        raise ValueError(f"{signature!r} ends within a type")
    if signature[at] == "a":
        return _end_of_type(signature, at + 1)
    if signature[at] == "(":
        at += 1
        while signature[at : at + 1] != ")":
            at = _end_of_type(signature, at)
        return at + 1
    if signature[at] not in _ALIGN:
        raise ValueError(f"{signature!r} holds what is not supported")
    return at + 1


def marshal(out: bytearray, kind: str, value: Value) -> None:
    """Append one value of one complete type, aligned from the start of ``out``. A variant is ``(signature, value)``."""
    out += bytes(-len(out) % _ALIGN[kind[0]])
    if kind in _FIXED:
        out += struct.pack(_FIXED[kind], value)
    elif kind in {"s", "o", "g"}:
        text = str(value).encode()
        out += struct.pack("<B" if kind == "g" else "<I", len(text)) + text + b"\0"
    elif kind == "v":
        held, inner = cast(tuple[str, Value], value)
        marshal(out, "g", held)
        marshal(out, held, inner)
    elif kind[0] == "(":
        for part, inner in zip(split(kind[1:-1]), cast(tuple[Value, ...], value), strict=True):
            marshal(out, part, inner)
    else:
        at = len(out)
        out += bytes(4) + bytes(-(len(out) + 4) % _ALIGN[kind[1]])  # this padding does not count as the array's
        begin = len(out)
        for inner in cast(list[Value], value):
            marshal(out, kind[1:], inner)
        struct.pack_into("<I", out, at, len(out) - begin)


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    """Header fields: structs of a byte and a variant; those of a type that no answer has end the walk."""
    at = 0
    while at + 4 < len(data):
        at = -(-at // 8) * 8
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"u":
            yield code, int(struct.unpack_from("<I", data, at)[0])
            at += 4
        elif kind == b"g":
            yield code, data[at + 1 : at + 1 + data[at]].decode()
            at += data[at] + 2
        elif kind in {b"s", b"o"}:
            yield code, _string_at(data, at)
            at += 5 + int(struct.unpack_from("<I", data, at)[0])
            if at > len(data):
                raise ConnectionError("a string longer than its message")
        else:
            return


def _first_string(signature: str, body: bytes) -> str:
    return _string_at(body, 0) if signature.startswith("s") else ""


def _string_at(data: bytes, at: int) -> str:
    (size,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + size].decode(errors="replace")
