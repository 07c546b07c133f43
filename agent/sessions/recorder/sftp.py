"""What an SFTP session does with files, read from the bytes of both directions as they pass (draft-ietf-secsh-filexfer-02).

OpenSSH's server, the only one that is run, answers each request once and in the order they came: so the n-th answer belongs to
the n-th request, whatever request ids a client makes up. A stream that can't be followed is told as one gap, and is then
looked at no more. What is held is bounded: 16 KiB of a packet, some thousand requests and open files, never a file's data.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from agent.model.plan import Json
from agent.sessions.recorder.sftp_files import EOF, OK, UNANSWERED, Emit, Event, Flow, OpenFile, file_event, path, status_name
from agent.sessions.recorder.sftp_wire import Fields, Malformed, Packets, Sink

RUNS_MAX = 1024  # requests without an answer; a run of alike ones (a large file read ahead) counts once
FILES_MAX = 1024  # open at a time
HANDLE_MAX = 256  # bytes of a handle, section 6.2

# Packet types, section 3.
INIT, VERSION, OPEN, CLOSE, READ, WRITE, SETSTAT, FSETSTAT = 1, 2, 3, 4, 5, 6, 9, 10
REMOVE, MKDIR, RMDIR, RENAME, SYMLINK = 13, 14, 15, 18, 20
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 101, 102, 103, 104, 105, 200, 201
_REQUESTS = range(OPEN, SYMLINK + 1)
_ONE_PATH = {REMOVE: "remove", MKDIR: "mkdir", RMDIR: "rmdir"}
_ATTRIBUTES = ((1, 8, ("size",)), (2, 4, ("uid", "gid")), (4, 4, ("mode",)), (8, 4, ("atime", "mtime")))  # section 5


class _Kind(Enum):
    INIT = auto()
    OPEN = auto()
    CLOSE = auto()
    READ = auto()
    WRITE = auto()
    EVENT = auto()  # told with the answer's status
    OTHER = auto()  # of no interest, but it is answered like all


@dataclass(slots=True)
class _Run:
    """Requests that wait for their answers: ``count`` alike ones with ids in a row, reads each ``size`` bytes further on."""

    kind: _Kind
    ident: int = 0
    count: int = 1
    file: OpenFile | None = None
    offset: int = 0
    size: int = 0
    raw: bytes = b""  # open: the path; close: the handle
    flags: int = 0
    op: str = ""
    more: dict[str, Json] = field(default_factory=dict)
    by_handle: bool = False  # it means nothing unless its file is known

    def goes_on_with(self, other: "_Run") -> bool:
        """Whether ``other`` may be counted into this run."""
        return (
            self.kind is other.kind
            and self.kind in (_Kind.READ, _Kind.WRITE, _Kind.OTHER)
            and other.ident == (self.ident + self.count) & 0xFFFFFFFF
            and self.file is other.file
            and (self.kind is not _Kind.READ or (self.size == other.size and other.offset == self.offset + self.count * self.size))
        )


class SftpWatch:
    """Emits an event for each file closed, and for each rename, remove, mkdir, rmdir, symlink, link, copy and setstat.

    Give it the bytes of a direction before they are passed on. Nothing here raises, whatever comes.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._events: list[Event] = []
        self._runs: deque[_Run] = deque()
        self._files: dict[bytes, OpenFile] = {}
        self._asked: _Run | None = None  # the request that is coming in
        self._writing: tuple[Flow, int] | None = None  # where its data goes to, and how many bytes of it
        self._reading: Flow | None = None
        self._began = self._over = False
        self._up = Packets(WRITE, self._request, self._requested)
        self._down = Packets(DATA, self._answer, self._answered)

    def client(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes on their way from the client to the server."""
        self._feed(self._up, data)

    def server(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes on their way from the server to the client."""
        self._feed(self._down, data)

    def end(self) -> None:
        """There will be no more: what is open or unanswered is told as such."""
        if not self._over:
            self._conclude()
            self._tell()

    def _feed(self, packets: Packets, data: bytes | bytearray | memoryview) -> None:
        if self._over:
            return
        why = ""
        try:
            packets.feed(memoryview(data))
        except Malformed as malformed:
            why = str(malformed)
        except Exception as error:  # one tenant's bytes must never end the recorder of all
            why = f"{type(error).__name__} while reading it"
        if why:
            self._conclude(f"the sftp session is not followed from here on: {why}")
        if self._events:
            self._tell()

    def _tell(self) -> None:
        events, self._events = self._events, []
        for event in events:
            self._emit(event)

    # From the client

    def _request(self, kind: int, head: bytes, size: int) -> tuple[Sink, int, int] | None:
        fields = Fields(head)
        ident = fields.number()
        if not self._began and kind != INIT:
            raise Malformed("it does not begin like SFTP")
        if kind == INIT:
            self._began = True
            self._asked = _Run(_Kind.INIT)
        elif kind == WRITE:
            return self._write(ident, fields, size)
        elif kind == EXTENDED:
            self._asked = self._extended(ident, fields)
        elif kind in _REQUESTS:
            self._asked = self._plain(kind, ident, fields)
        else:
            self._asked = None  # OpenSSH's server does not answer these
        return None

    def _plain(self, kind: int, ident: int, fields: Fields) -> _Run:
        if kind == OPEN:
            return _Run(_Kind.OPEN, ident, raw=fields.string(), flags=fields.number())
        if kind == CLOSE:
            return _Run(_Kind.CLOSE, ident, raw=fields.string())
        if kind == READ:
            file = self._files.get(fields.string())
            return _Run(_Kind.READ, ident, file=file, offset=fields.number(8), size=fields.number(), by_handle=True)
        if kind == FSETSTAT:
            file = self._files.get(fields.string())
            raw = file.raw if file else b""
            return _Run(_Kind.EVENT, ident, file=file, raw=raw, op="setstat", more=_attributes(fields), by_handle=True)
        if kind == SETSTAT:
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op="setstat", more=_attributes(fields))
        if kind in _ONE_PATH:
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op=_ONE_PATH[kind])
        if kind == RENAME:
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op="rename", more={"to": path(fields.string())})
        if kind == SYMLINK:  # OpenSSH takes the target first, against the draft
            target = path(fields.string())
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op="symlink", more={"target": target})
        return _Run(_Kind.OTHER, ident)

    def _extended(self, ident: int, fields: Fields) -> _Run:
        """OpenSSH's own requests (its file PROTOCOL, section 4)."""
        name = fields.string()
        if name == b"posix-rename@openssh.com":
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op="rename", more={"to": path(fields.string())})
        if name == b"hardlink@openssh.com":
            target = path(fields.string())
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op="link", more={"target": target})
        if name == b"lsetstat@openssh.com":
            return _Run(_Kind.EVENT, ident, raw=fields.string(), op="setstat", more=_attributes(fields))
        if name == b"copy-data":
            source, _, size = self._files.get(fields.string()), fields.number(8), fields.number(8)
            target_file = self._files.get(fields.string())
            known = source is not None and target_file is not None
            more: dict[str, Json] = {"to": path(target_file.raw if target_file else b""), "bytes": size or None}
            raw, file = source.raw if source else b"", target_file if known else None
            return _Run(_Kind.EVENT, ident, file=file, raw=raw, op="copy", more=more, by_handle=True)
        return _Run(_Kind.OTHER, ident)

    def _write(self, ident: int, fields: Fields, size: int) -> tuple[Sink, int, int]:
        file = self._files.get(fields.string())
        offset, length = fields.number(8), fields.number()
        if length > size - fields.at:
            raise Malformed("data longer than its packet")
        self._asked = _Run(_Kind.WRITE, ident, file=file, by_handle=True)
        if file is None:
            return len, fields.at, length  # goes nowhere, unless the server says that it was written
        file.writes.begin(offset, length)
        self._writing = file.writes, length
        return file.writes.update, fields.at, length

    def _requested(self) -> None:
        run, self._asked, self._writing = self._asked, None, None
        if run is None:
            return
        if run.kind is _Kind.CLOSE:  # the server may give the same handle again at once
            run.file = self._files.pop(run.raw, None)
        if self._runs and self._runs[-1].goes_on_with(run):
            self._runs[-1].count += 1
            return
        if len(self._runs) >= RUNS_MAX:
            raise Malformed("too many requests at a time")
        self._runs.append(run)

    # From the server

    def _answer(self, kind: int, head: bytes, size: int) -> tuple[Sink, int, int] | None:
        run = self._runs[0] if self._runs else None
        if run is None or (kind == VERSION) != (run.kind is _Kind.INIT):
            raise Malformed("an answer to no request")
        fields = Fields(head)
        ident = fields.number()
        if kind == VERSION:
            return None
        if ident != run.ident:
            raise Malformed("answers out of order")
        if kind == STATUS:
            self._status(run, status_name(fields.number()))
        elif kind == DATA and run.kind is _Kind.READ:
            return self._data(run, fields, size)
        elif kind == HANDLE and run.kind is _Kind.OPEN:
            self._opened(run, fields.string())
        elif run.kind is not _Kind.OTHER or kind not in (HANDLE, NAME, ATTRS, EXTENDED_REPLY):
            raise Malformed(f"an answer of type {kind} to another request")
        return None

    def _data(self, run: _Run, fields: Fields, size: int) -> tuple[Sink, int, int]:
        length = fields.number()
        if run.file is None:
            raise Malformed("a handle was used before it was given")
        if length > size - fields.at:
            raise Malformed("data longer than its packet")
        self._reading = run.file.reads
        self._reading.begin(run.offset, length)
        return self._reading.update, fields.at, length

    def _opened(self, run: _Run, handle: bytes) -> None:
        if len(handle) > HANDLE_MAX or handle in self._files or len(self._files) >= FILES_MAX:
            raise Malformed("too many open files, or a handle given twice")
        self._files[handle] = OpenFile(run.raw, run.flags)

    def _status(self, run: _Run, status: str) -> None:
        if run.by_handle and run.file is None and status == OK:
            raise Malformed("a handle was used before it was given")
        if run.kind is _Kind.EVENT:
            self._events.append(file_event(run.op, run.raw, status, **run.more))
            if run.op == "copy" and run.file is not None and status == OK:  # bytes that never pass here
                run.file.writes.digest = None
                run.file.writes.ranges += 1
        elif run.kind is _Kind.OPEN:
            self._events += OpenFile(run.raw, run.flags).events(status, complete=False)
        elif run.kind is _Kind.CLOSE and run.file is not None:
            self._events += run.file.events(status, complete=status != UNANSWERED)
        elif run.file is not None and run.kind in (_Kind.READ, _Kind.WRITE) and status not in (OK, EOF):
            (run.file.reads if run.kind is _Kind.READ else run.file.writes).failed(status)

    def _answered(self) -> None:
        self._reading = None
        run = self._runs[0]
        run.count -= 1
        run.ident = (run.ident + 1) & 0xFFFFFFFF
        run.offset += run.size
        if not run.count:
            self._runs.popleft()

    # The end

    def _conclude(self, why: str = "") -> None:
        """Tell of all that is open or unanswered, and of at most one gap, and let go of everything."""
        self._over = True
        if self._writing is not None:
            flow, size = self._writing  # the server acts on whole packets only
            flow.cut(size)
        if self._reading is not None:
            self._reading.cut(self._down.data_missing)
        for run in self._runs:
            if run.by_handle and run.file is None:
                why = why or "the server's answers about an unknown handle never came"
            self._status(run, UNANSWERED)
        for file in self._files.values():
            self._events += file.events(OK, complete=False)
        self._runs.clear()
        self._files.clear()
        self._asked = self._writing = self._reading = None
        if why:
            self._events.append({"type": "gap", "why": why})


def _attributes(fields: Fields) -> dict[str, Json]:
    """What a setstat sets, by name; the mode in octal digits."""
    flags = fields.number()
    found: dict[str, Json] = {}
    for flag, size, names in _ATTRIBUTES:
        if flags & flag:
            found |= {name: fields.number(size) for name in names}
    if isinstance(mode := found.get("mode"), int):
        found["mode"] = f"{mode & 0o7777:04o}"
    return found
