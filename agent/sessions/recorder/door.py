"""The recorder's own socket: whoever may connect, few at a time for each user, has a few seconds to ask one question."""

import contextlib
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agent.sessions.recorder.loop import IN, Loop, Timer
from agent.sessions.recorder.opening import Opening
from agent.sessions.recorder.wire import Peer, WireError, answer, ask, peer_of

log = logging.getLogger("tidegate")
BACKLOG = 1024
_PER_UID = 600  # that have connected and have no answer
_OVERALL = 2000
_QUESTION_S = 5.0
_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_REST_S = 0.1


def listener(path: Path) -> socket.socket:
    """The socket where tidegate-shell asks; anybody may connect. Raises OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    made.bind(os.fspath(path))
    path.chmod(0o666)
    made.listen(BACKLOG)
    return made


class _Visitor:
    __slots__ = ("connection", "peer", "timer")

    def __init__(self, connection: socket.socket, peer: Peer, timer: Timer) -> None:
        self.connection, self.peer, self.timer = connection, peer, timer


class Door:
    """Accepts, asks for the question, and sends the answer that :class:`Opening` gives."""

    def __init__(self, loop: Loop, served: socket.socket, opening: Opening, *, question_s: float = _QUESTION_S) -> None:
        self._loop, self._served, self._opening, self._question_s = loop, served, opening, question_s
        self._visitors: dict[int, _Visitor] = {}
        self._of: Counter[int] = Counter()
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def open(self) -> None:
        """Let them in."""
        self._loop.watch(self._served.fileno(), IN, self._accept)

    def close(self) -> None:
        """No more; who waits is hung up on."""
        self._loop.forget(self._served.fileno())
        for visitor in list(self._visitors.values()):
            self._leave(visitor)

    def _accept(self, _events: int) -> None:
        for _ in range(64):
            try:
                connection, _address = self._served.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    self._turn_away()
                return
            self._greet(connection)

    def _greet(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except OSError:
            connection.close()
            return
        if self._of[peer.uid] >= _PER_UID or len(self._visitors) >= _OVERALL:
            answer(connection, "NO", "too many ask for a session at once")
            connection.close()
            return
        visitor = _Visitor(connection, peer, self._loop.after(self._question_s, lambda: self._late(connection.fileno())))
        self._visitors[connection.fileno()] = visitor
        self._of[peer.uid] += 1
        self._loop.watch(connection.fileno(), IN, lambda _events: self._question(visitor))

    def _turn_away(self) -> None:
        """No descriptor is left: with the one kept for it, take one call and hang up, so that the caller knows at once."""
        log.error("the recorder has no descriptor left: a session is refused")
        os.close(self._spare)
        with contextlib.suppress(OSError):
            connection, _address = self._served.accept()
            answer(connection, "NO", "the recorder has no descriptor left")
            connection.close()
        try:
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._loop.forget(self._served.fileno())
            self._loop.after(_REST_S, self._again)

    def _again(self) -> None:
        try:
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._loop.after(_REST_S, self._again)
            return
        self.open()

    def _question(self, visitor: _Visitor) -> None:
        try:
            question = ask(visitor.connection)
        except BlockingIOError:
            return
        except WireError as error:
            answer(visitor.connection, "NO", str(error))
            question = None
        except OSError:
            question = None
        if question is None:
            self._leave(visitor)
            return
        self._loop.forget(visitor.connection.fileno())
        visitor.timer.cancel()

        def reply(
            word: str, *texts: str, fds: list[int] | tuple[int, ...] = (), stays: Callable[[int], None] | None = None
        ) -> bool:
            told = visitor.connection.fileno() >= 0 and answer(visitor.connection, word, *texts, fds=fds)
            if told and stays is not None:
                with contextlib.suppress(OSError):  # no descriptor left
                    stays(os.dup(visitor.connection.fileno()))
            self._leave(visitor)
            return told

        try:
            self._opening.open(visitor.peer, question, reply)
        except Exception:
            log.exception("a session could not be opened")
            reply("NO", "the recorder failed")

    def _late(self, fd: int) -> None:
        if visitor := self._visitors.get(fd):
            self._leave(visitor)

    def _leave(self, visitor: _Visitor) -> None:
        fd = visitor.connection.fileno()
        if fd < 0:
            return
        self._loop.forget(fd)
        visitor.timer.cancel()
        del self._visitors[fd]
        self._of[visitor.peer.uid] -= 1
        if not self._of[visitor.peer.uid]:
            del self._of[visitor.peer.uid]
        visitor.connection.close()
