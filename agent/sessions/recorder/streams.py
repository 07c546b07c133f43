"""A session without a terminal: each stream passes through a pair of the same kind as it was given, half-closes and all."""

import importlib
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.model.plan import Json
from agent.sessions.recorder.ends import Bytes, End, PipeEnd, SocketEnd
from agent.sessions.recorder.flow import Flow
from agent.sessions.recorder.keeping import Note
from agent.sessions.recorder.session import About, Parts, Session
from agent.sessions.recorder.tape import Tape
from agent.sessions.recorder.wire import What
from agent.sessions.recording import Kind

log = logging.getLogger("tidegate")
_KINDS = (Kind.STDIN, Kind.OUT, Kind.ERR)
_NAMES = ("stdin", "stdout", "stderr")
_PASSED = ("socket", "pipe")


class SftpWatch(Protocol):
    """What reads the SFTP protocol: both directions go in, an event for each file comes out."""

    def client(self, data: bytes) -> None: ...
    def server(self, data: bytes) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wire:
    """A stream of the old ones and its new counterpart. ``streams``: which of 0, 1, 2 it serves; ``kind``: socket or pipe."""

    kind: str
    streams: tuple[int, ...]
    old: int
    new: int


def wires_for(fds: Sequence[int], whats: Sequence[What]) -> tuple[list[Wire], list[int]]:
    """New pairs for what can be passed through, and what the tenant gets for 0, 1 and 2; the rest it keeps as it is.

    Descriptors of one socket or pipe stay descriptors of one. Raises OSError.
    """
    groups: dict[tuple[str, tuple[int, int], bool], list[int]] = {}
    for stream, what in enumerate(whats):
        reads = what.kind == "pipe" and stream == 0
        groups.setdefault((what.kind, what.key if what.kind in _PASSED else (-1, stream), reads), []).append(stream)
    wires, given = [], list(fds)
    made: list[int] = []
    try:
        for (kind, _, reads), streams in groups.items():
            if kind not in _PASSED:
                continue
            if kind == "socket":
                ours, theirs = (end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
            elif reads:
                theirs, ours = os.pipe2(os.O_CLOEXEC)
            else:
                ours, theirs = os.pipe2(os.O_CLOEXEC)
            made += (ours, theirs)
            wires.append(Wire(kind, tuple(streams), fds[streams[0]], ours))
            for stream in streams:
                given[stream] = theirs
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    return wires, given


class StreamSession(Session):
    """``left``: how many bytes of each stream are still recorded."""

    def __init__(
        self,
        parts: Parts,
        about: About,
        tape: Tape,
        wires: Sequence[Wire],
        left: Sequence[int] = (),
        note: Note | None = None,
        *,
        parsed: bool = True,
    ) -> None:
        super().__init__(parts, about, tape, note)
        self._wires = wires
        self._left = list(left) or [about.limit] * 3
        self._outgoing: list[Flow] = []
        self._files = _sftp_watch(self._file) if about.kind == "sftp" and parsed else None
        for number, wire in enumerate(wires):
            made: type[End] = SocketEnd if wire.kind == "socket" else PipeEnd
            old, new = self.side("abc"[number], made(wire.old, theirs=True)), self.side("def"[number], made(wire.new))
            if 0 in wire.streams:
                self.flow(old, new, self._tap(0))
            if outgoing := [stream for stream in wire.streams if stream]:
                self._outgoing.append(self.flow(new, old, self._tap(outgoing[0])))

    def begin(self) -> None:
        """See :meth:`Session.begin`."""
        super().begin()
        if not self.flows:
            self.end("none of its streams passes through the recorder")

    def resume(self) -> None:
        """Go on after a restart."""
        super().begin()
        for flow in self.flows:
            flow.hold(False)

    def state(self) -> dict[str, Json]:
        """See :meth:`Session.state`."""
        wires: list[Json] = [{"kind": wire.kind, "streams": list(wire.streams)} for wire in self._wires]
        return {"wires": wires, "left": list(self._left)}

    def say(self, text: str) -> None:
        """Nowhere: the bytes of a command are its own."""

    def end(self, why: str) -> None:
        """See :meth:`Session.end`."""
        if self._files is not None and not self.ended:
            self._parse(lambda files: files.end())
        super().end(why)

    def _tap(self, stream: int) -> Callable[[Bytes], bool]:
        if self._files is not None and stream < 2:
            return self._to_server if stream == 0 else self._to_client

        def tap(data: Bytes) -> bool:
            return self._record(stream, data)

        return tap

    def _record(self, stream: int, data: Bytes) -> bool:
        left = self._left[stream]
        if not left:
            return not (self.tape.failing and self.about.required)
        noted = bytes(data[:left])
        self._left[stream] = left - len(noted)
        passes = self.tape.frame(_KINDS[stream], noted)
        if not self._left[stream]:
            self.tape.event(type="limit", stream=_NAMES[stream], bytes=self.about.limit)
            self.note()
        return passes

    def _to_server(self, data: Bytes) -> bool:
        if self._files is None:
            return self._record(0, data)
        self._parse(lambda files: files.client(bytes(data)))
        return not (self.tape.failing and self.about.required)

    def _to_client(self, data: Bytes) -> bool:
        if self._files is None:
            return self._record(1, data)
        self._parse(lambda files: files.server(bytes(data)))
        return not (self.tape.failing and self.about.required)

    def _file(self, event: Mapping[str, Json]) -> None:
        self.tape.event(**event)

    def _parse(self, feed: Callable[[SftpWatch], None]) -> None:
        if self._files is None:
            return
        try:
            feed(self._files)
        except Exception as error:
            log.exception("the SFTP protocol of session %s could not be read", self.about.id)
            self._files = None
            self.tape.event(type="warning", why=f"file transfers are no longer told: {type(error).__name__}")

    def _flow_over(self, flow: Flow, why: str) -> None:
        for side in (flow.source, flow.sink):
            self.release(side)
        if all(each.done for each in self.flows):
            gone = any(each.done == "broken" for each in self._outgoing)
            self.end("the client has gone" if gone else "the session ended")


def _sftp_watch(emit: Callable[[Mapping[str, Json]], None]) -> SftpWatch | None:
    try:
        module = importlib.import_module("agent.sessions.recorder.sftp")
    except ModuleNotFoundError:
        return None
    watch: SftpWatch = module.SftpWatch(emit)
    return watch
