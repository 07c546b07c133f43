"""The recorder's end of tidegated's port: one connection, questions answered in order, each within a few seconds or not at all."""

import array
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.model.plan import Json
from agent.sessions.recorder.loop import GONE, IN, OUT, Loop, Timer
from agent.sessions.recorder.wire import WireError, receive

Answer = Mapping[str, Json]
Answered = Callable[[Answer, list[int]], None]
_ANSWER_MAX = 65536
_FDS_MAX = 1
_ANSWER_S = 4.0  # tidegate-shell waits for five in all
_WAITING_MAX = 4096


@dataclass(slots=True)
class _Asked:
    request: bytes
    fds: Sequence[int]
    answered: Answered
    sent: bool = False
    timer: Timer | None = None


class Port:
    """Connects when something is to be asked, and again when that is lost. ``fds`` of a question stay open until it is answered."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self._loop, self._path = loop, path
        self._connection: socket.socket | None = None
        self._asked: deque[_Asked] = deque()

    def ask(self, request: Mapping[str, Json], fds: Sequence[int], answered: Answered) -> None:
        """``answered`` is called once, later; with ``ok`` False and code ``port_away`` where tidegated does not answer."""
        asked = _Asked(json.dumps(request).encode(), fds, answered)
        asked.timer = self._loop.after(_ANSWER_S, lambda: self._lost("tidegated does not answer"))
        self._asked.append(asked)
        if len(self._asked) > _WAITING_MAX or not self._connected():
            self._loop.after(0, lambda: self._lost("tidegated can't be reached"))
            return
        self._send()

    def close(self) -> None:
        """Hang up; whatever waits is answered: lost."""
        self._lost("the recorder stops")

    def _connected(self) -> bool:
        if self._connection is not None:
            return True
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            connection.connect(os.fspath(self._path))
        except OSError:
            connection.close()
            return False
        self._connection = connection
        self._loop.watch(connection.fileno(), IN, self._ready)
        return True

    def _send(self) -> None:
        connection = self._connection
        if connection is None:
            return
        mask = IN
        for asked in self._asked:
            if asked.sent:
                continue
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", asked.fds))] if asked.fds else []
            try:
                connection.sendmsg([asked.request], control, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                mask |= OUT
                break
            except OSError:
                self._loop.after(0, lambda: self._lost("tidegated hung up"))
                break
            asked.sent = True
        self._loop.watch(connection.fileno(), mask, self._ready)

    def _ready(self, events: int) -> None:
        if events & OUT:
            self._send()
        while events & (IN | GONE) and self._connection is not None:
            try:
                data, fds = receive(self._connection, _FDS_MAX, _ANSWER_MAX)
            except BlockingIOError:
                return
            except (OSError, WireError):
                data, fds = b"", []
            if not data or not self._asked or not self._asked[0].sent:
                _close(fds)
                self._lost("tidegated hung up")
                return
            self._answer(self._asked.popleft(), data, fds)

    def _answer(self, asked: _Asked, data: bytes, fds: list[int]) -> None:
        if asked.timer:
            asked.timer.cancel()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            _close(fds)
            answer, fds = {"ok": False, "code": "port_malformed", "reason": "tidegated's answer is no JSON object"}, []
        asked.answered(answer, fds)

    def _lost(self, why: str) -> None:
        if self._connection is not None:
            self._loop.forget(self._connection.fileno())
            self._connection.close()
            self._connection = None
        waiting, self._asked = self._asked, deque()
        for asked in waiting:
            if asked.timer:
                asked.timer.cancel()
            asked.answered({"ok": False, "code": "port_away", "reason": why}, [])


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
