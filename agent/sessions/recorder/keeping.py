"""Sessions outlive the recorder: their descriptors are kept by systemd (sd_notify(3), FDSTORE), with a note of what they are.

Each is kept under the session's eight hex digits and one letter for its part: systemd hands all names back in one environment
variable, which has room for about ten thousand of them so.
"""

import array
import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

from agent.model.plan import Json

LISTENER = "listen"
NOTE = "s"
_NOTE_MAX = 1 << 17  # bytes of JSON; what is held in between stands behind
_HELD_MAX = 1 << 18
_LENGTH = struct.Struct(">I")


class Notify:
    """The service manager's end; without NOTIFY_SOCKET it does nothing."""

    def __init__(self, address: str | None) -> None:
        self._address = ("\0" + address[1:] if address.startswith("@") else address) if address else ""

    def __bool__(self) -> bool:
        return bool(self._address)

    def tell(self, text: str, fds: tuple[int, ...] = ()) -> bool:
        """Send it; False where nobody takes it."""
        if not self._address:
            return False
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify, contextlib.suppress(OSError):
            notify.settimeout(1.0)
            notify.sendmsg([text.encode()], control, 0, self._address)
            return True
        return False

    def keep(self, name: str, fd: int) -> bool:
        """Keep one descriptor beyond this process; not dropped by systemd when the other side hangs up: that is ours to see."""
        return self.tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", (fd,))

    def drop(self, name: str) -> bool:
        """Keep it no longer."""
        return self.tell(f"FDSTOREREMOVE=1\nFDNAME={name}")


def handed_over(environ: Mapping[str, str], first: int = 3) -> dict[str, int]:
    """Name → descriptor of what systemd kept or listens on (sd_listen_fds_with_names(3)); a second one of a name is closed."""
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    for index in range(count):
        fd = first + index
        os.set_inheritable(fd, False)
        name = names[index] if index < len(names) else ""
        if name in found:
            os.close(fd)
        else:
            found[name] = fd
    return found


class Note:
    """A session's memory of itself (memfd_create(2)): JSON, and the bytes that each flow holds in between."""

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd if fd >= 0 else os.memfd_create("tidegate", os.MFD_CLOEXEC)
        self._held: set[int] = set()

    def write(self, value: Mapping[str, Json]) -> None:
        """Replace the JSON; the first write makes it valid."""
        data = json.dumps(value).encode()
        if len(data) < _NOTE_MAX:
            os.pwrite(self.fd, _LENGTH.pack(len(data)) + data, 0)

    def read(self) -> dict[str, Any]:
        """The JSON. Raises ValueError."""
        (size,) = _LENGTH.unpack(os.pread(self.fd, 4, 0).ljust(4, b"\0"))
        value = json.loads(os.pread(self.fd, size, 4) if size < _NOTE_MAX else b"")
        if not isinstance(value, dict):
            raise ValueError("no object")  # noqa: TRY004  (what is read is wrong, not who asks)
        return value

    def hold(self, index: int, data: bytes) -> None:
        """What flow ``index`` holds in between now."""
        at = _NOTE_MAX + index * (_HELD_MAX + 4)
        if data:
            self._held.add(index)
            os.pwrite(self.fd, _LENGTH.pack(len(data)) + data, at)
        elif index in self._held:
            self._held.discard(index)
            if self._held:
                os.pwrite(self.fd, _LENGTH.pack(0), at)
            else:
                os.ftruncate(self.fd, _NOTE_MAX)  # and its memory

    def held(self, index: int) -> bytes:
        """What it held."""
        at = _NOTE_MAX + index * (_HELD_MAX + 4)
        (size,) = _LENGTH.unpack(os.pread(self.fd, 4, at).ljust(4, b"\0"))
        if size:
            self._held.add(index)
        return os.pread(self.fd, min(size, _HELD_MAX), at + 4)
