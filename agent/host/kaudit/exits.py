"""How processes end, as the process connector tells it (linux/cn_proc.h): of all processes of the host, so filtered in the kernel.

Audit itself would tell an exit status by a rule on exit_group: a second event for each process, and none for one that a signal
ended. The connector has both, in one message of 76 bytes. A kernel without it, or one that filters nothing, costs the status only.
"""

import socket
import struct
from dataclasses import dataclass

from agent.errors import HostError
from agent.host.kaudit.netlink import widen

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC, _CN_VAL_PROC = 1, 1
_LISTEN, _IGNORE = 1, 2
_EXIT = 0x80000000
_SO_ATTACH_FILTER = 26
_BUFFER = 8 << 20
_HEADER, _CONNECTOR = struct.Struct("=IHHII"), struct.Struct("=IIIIHH")
_EVENT = struct.Struct("=IIQIIII")  # what, cpu, timestamp_ns, pid, tgid, exit_code, exit_signal
_AT = _HEADER.size + _CONNECTOR.size
_LOAD, _COPY_X, _SAME, _RETURN = 0x20, 0x07, 0x1D, 0x06  # BPF_LD|W|ABS, BPF_MISC|TAX, BPF_JMP|JEQ|X, BPF_RET|K
_EQUAL = 0x15  # BPF_JMP|JEQ|K


@dataclass(frozen=True, slots=True)
class Exit:
    """One process's end. ``at_ns``: CLOCK_MONOTONIC. ``code`` as wait(2) has it."""

    at_ns: int
    pid: int
    code: int

    @property
    def status(self) -> int | None:
        """What it returned; None when a signal ended it."""
        return None if self.code & 0x7F else (self.code >> 8) & 0xFF

    @property
    def signal(self) -> int | None:
        """The signal that ended it, else None."""
        return self.code & 0x7F or None


def listener() -> socket.socket:
    """A non-blocking socket that hears of every process's end. Raises HostError ``exits_absent``."""
    found = None
    try:
        found = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR)
        widen(found, _BUFFER)
        _only_exits(found)
        found.bind((0, _CN_IDX_PROC))
        _say(found, _LISTEN)
    except OSError as error:
        if found is not None:
            found.close()
        raise HostError("exits_absent", f"the process connector is not to be had here: {error.strerror or error}") from error
    return found


def stop(found: socket.socket) -> None:
    """Tell the kernel that one listener less is there (before 6.6 it does not notice), and close."""
    try:
        _say(found, _IGNORE)
    except OSError:
        pass
    finally:
        found.close()


def read(data: bytes) -> Exit | None:
    """One datagram; None for anything but the end of a whole process."""
    if len(data) < _AT + _EVENT.size:
        return None
    what, _, at_ns, pid, tgid, code, _ = _EVENT.unpack_from(data, _AT)
    return Exit(at_ns, pid, code) if what == _EXIT and pid == tgid else None


def _say(found: socket.socket, word: int) -> None:
    body = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, 4, 0) + struct.pack("=I", word)
    found.sendto(_HEADER.pack(_HEADER.size + len(body), 3, 0, 0, 0) + body, (0, 0))


def _only_exits(found: socket.socket) -> None:
    """A filter of socket(7), so that nothing else wakes the reader. It loads in the network's byte order."""
    exit_word = struct.unpack("!I", struct.pack("=I", _EXIT))[0]
    program = [
        (_LOAD, 0, 0, _AT),
        (_EQUAL, 0, 5, exit_word),
        (_LOAD, 0, 0, _AT + 16),
        (_COPY_X, 0, 0, 0),
        (_LOAD, 0, 0, _AT + 20),
        (_SAME, 0, 1, 0),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    ]
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    with _Pinned(code) as address:
        found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), address))


class _Pinned:
    """Bytes at an address that stays while the kernel reads them."""

    def __init__(self, data: bytes) -> None:
        import ctypes  # noqa: PLC0415  # only who listens needs it

        self._buffer = ctypes.create_string_buffer(data, len(data))
        self._address = ctypes.addressof(self._buffer)

    def __enter__(self) -> int:
        return self._address

    def __exit__(self, *_: object) -> None:
        self._address = 0
