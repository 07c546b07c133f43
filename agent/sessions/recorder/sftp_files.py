"""What is known of one open file of an SFTP session, and the events that tell of files."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from agent.model.plan import Json
from agent.model.text import one_line

PATH_MAX = 4096  # bytes; the kernel refuses a longer one
OK: Final = "ok"
# Status codes of a server, draft-ietf-secsh-filexfer-02 section 7.
_STATUS = (
    OK,
    "end of file",
    "no such file",
    "permission denied",
    "failure",
    "bad message",
    "no connection",
    "connection lost",
    "operation unsupported",
)
EOF: Final = _STATUS[1]
UNANSWERED: Final = "unanswered"
READ, WRITE, APPEND = 1, 2, 4  # open's pflags, section 6.3

Event = dict[str, Json]
Emit = Callable[[Event], object]


def status_name(code: int) -> str:
    """A status code in words."""
    return _STATUS[code] if code < len(_STATUS) else f"status {code}"


def path(raw: bytes) -> str:
    """A path as it may be shown: controls, bytes that are no UTF-8 and backslashes escaped, bounded."""
    return one_line(raw[:PATH_MAX].decode(errors="surrogateescape"), PATH_MAX)


def file_event(op: str, raw: bytes, status: str, **more: Json) -> Event:
    """An event of one operation."""
    return {"type": "file", "op": op, "path": path(raw), **more, "status": status}


class Flow:
    """The bytes of one file in one direction. ``digest`` is None once they were not all in order from the file's start."""

    __slots__ = ("_next", "bytes", "digest", "ranges", "status")

    def __init__(self) -> None:
        self._next = 0
        self.bytes = 0
        self.ranges = 0
        self.status = OK
        self.digest: hashlib._Hash | None = hashlib.sha256()

    def begin(self, offset: int, size: int) -> None:
        """``size`` bytes at ``offset`` follow."""
        if offset != self._next:
            self.digest = None
        if offset != self._next or not self.ranges:
            self.ranges += 1
        self._next = offset + size
        self.bytes += size

    def update(self, piece: memoryview) -> None:
        """Some of them."""
        if self.digest is not None:
            self.digest.update(piece)

    def cut(self, missing: int) -> None:
        """The last ones never came whole, so the other side has made nothing of them."""
        self.digest = None
        self.bytes -= missing

    def failed(self, status: str) -> None:
        """One of its requests failed; the first such counts."""
        if self.status == OK:
            self.status = status


class OpenFile:
    """One handle of the server's."""

    __slots__ = ("flags", "raw", "reads", "writes")

    def __init__(self, raw: bytes, flags: int) -> None:
        self.raw = raw
        self.flags = flags
        self.reads = Flow()
        self.writes = Flow()

    def events(self, status: str, complete: bool) -> list[Event]:
        """What happened with it: an event for each direction that was used, or the one that it was opened for."""
        used: Mapping[str, Flow] = {
            op: flow for op, flow in (("read", self.reads), ("write", self.writes)) if flow.ranges or flow.status != OK
        }
        flows = used or {"write" if self.flags & WRITE else "read": self.writes if self.flags & WRITE else self.reads}
        return [self._event(op, flow, status, complete) for op, flow in flows.items()]

    def _event(self, op: str, flow: Flow, status: str, complete: bool) -> Event:
        event = file_event(op, self.raw, status if flow.status == OK else flow.status, bytes=flow.bytes)
        event["sha256"] = None if flow.digest is None else flow.digest.hexdigest()
        if flow.digest is None:
            event["ranges"] = flow.ranges
        if self.flags & APPEND:
            event["append"] = True
        event["complete"] = complete
        return event
