"""A session with a terminal: the tenant's shell has the new one, the old one (to sshd) is passed through raw."""

import contextlib
import os
import sys
import termios
from typing import Any

from agent.model.plan import Json
from agent.sessions.recorder.ends import Bytes, TerminalEnd, raw, set_size, size_of, waits_for_a_secret
from agent.sessions.recorder.flow import Flow
from agent.sessions.recorder.keeping import Note
from agent.sessions.recorder.loop import IN, Timer
from agent.sessions.recorder.session import About, Parts, Session
from agent.sessions.recorder.tape import Tape
from agent.sessions.recording import Kind

OLD, MASTER, WINDOW, WAITER = "o", "m", "w", "x"
_OUT = Kind.OUT  # an enumeration's member is looked up by a function: not for each piece
_AGAIN_S = 1.0
_SETTLED_S = 0.2  # who tells may miss a change right after another
Modes = list[Any]  # as termios.tcgetattr returns them


class TerminalSession(Session):
    """``taken``: nobody but the recorder has the old terminal any more; ``modes`` to put back where somebody has.

    ``own``: its open file description is the recorder's alone, reopened for it.
    """

    def __init__(
        self,
        parts: Parts,
        about: About,
        tape: Tape,
        old: int,
        master: int,
        taken: bool,
        modes: Modes,
        note: Note | None = None,
        *,
        own: bool,
    ) -> None:
        super().__init__(parts, about, tape, note)
        self._taken, self._modes, self._own = taken, modes, own
        self._secret = False
        self._size = b""
        self._settling: Timer | None = None
        client, tenant = self.side(OLD, TerminalEnd(old, theirs=not own)), self.side(MASTER, TerminalEnd(master))
        self._typed = self.flow(client, tenant, self._type)
        self._shown = self.flow(tenant, client, self._show)

    def begin(self) -> None:
        """See :meth:`Session.begin`."""
        old = self.sides[OLD].end.fd
        raw(old)
        self._size = size_of(old)  # as its beginning has it
        if self._taken:
            self._watch_window()
        self.keep()  # before its shell runs: nobody's terminal is lost with a recorder that is killed
        super().begin()

    def resume(self, window: int, waiter: int) -> None:
        """Go on after a restart; ``window`` tells of its size, ``waiter`` of its shell's end, -1 where that is lost."""
        if waiter >= 0:
            self.wait_for_its_end(waiter)
        if window >= 0:
            self._handle[WINDOW] = window
            self._parts.loop.watch(window, IN, self._window)
            self._resize()
        super().begin()
        for flow in self.flows:
            flow.hold(False)

    def wait_for_its_end(self, waiter: int) -> None:
        """``waiter``: a connection that says when the shell has ended, and waits until the last of its output is passed on."""
        self._handle[WAITER] = waiter
        os.set_blocking(waiter, False)
        self._parts.loop.watch(waiter, IN, self._shell_ended)
        self.keep()

    def _shell_ended(self, _events: int) -> None:
        self._parts.loop.forget(self._handle[WAITER])
        self._shown.dry = self._let_go
        self._shown.fill()

    def _let_go(self) -> None:
        """sshd, which shows no more than what is there when its child has ended, may know of the end."""
        self._shown.dry = None
        waiter = self._handle.get(WAITER, -1)
        if waiter >= 0:
            with contextlib.suppress(OSError):
                os.write(waiter, b"\n")
            self.close_handle(WAITER)

    def state(self) -> dict[str, Json]:
        """See :meth:`Session.state`."""
        codes = [code if isinstance(code, int) else code[0] for code in self._modes[6]]
        return {"taken": self._taken, "own": self._own, "modes": [*self._modes[:6], codes]}

    def say(self, text: str) -> None:
        """On the old terminal, between whatever else stands there."""
        if self.sides[OLD].end.fd >= 0:
            self.sides[OLD].end.write(f"\r\n*** tidegate: {text} ***\r\n".encode())

    def end(self, why: str) -> None:
        """See :meth:`Session.end`."""
        old = self.sides[OLD].end.fd
        if not self._taken and old >= 0:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(old, termios.TCSANOW, self._modes)
        super().end(why)

    def _show(self, data: Bytes) -> bool:
        return self.tape.frame(_OUT, bytes(data))

    def _type(self, data: Bytes) -> bool:
        if not self.about.input:
            return not (self.tape.failing and self.about.required)
        secret = waits_for_a_secret(self.sides[MASTER].end.fd)
        if not secret:
            self._secret = False
            return self.tape.frame(Kind.INPUT, bytes(data))
        if self._secret:
            return not (self.tape.failing and self.about.required)
        self._secret = True
        return self.tape.event(type="masked")  # not even how long it is

    def _flow_over(self, flow: Flow, why: str) -> None:
        if flow is self._shown:
            self.end("the session ended" if why == "end" else "the client has gone")
        elif why == "end":
            self.end("the client has gone")
        # else nobody has the tenant's side open any more: what was last written there is still to be read and shown

    # -- the window

    def _watch_window(self) -> None:
        if self.ended:
            return
        try:
            self._handle[WINDOW] = window = self._parts.windows.watch(self.sides[OLD].end.fd)
        except OSError as error:
            self.tape.event(type="warning", why=f"changes of the window are not followed: {error.strerror}")
            return
        self._parts.loop.watch(window, IN, self._window)

    def _window(self, _events: int) -> None:
        try:
            told = os.read(self._handle[WINDOW], 4096)
        except BlockingIOError:
            return
        self._resize()
        if self._settling is None:
            self._settling = self._parts.loop.after(_SETTLED_S, self._settled)
        if not told and not self.ended:  # who told has died; if the terminal has not, another one tells
            self.close_handle(WINDOW)
            self._parts.loop.after(_AGAIN_S, self._watch_window)

    def _settled(self) -> None:
        self._settling = None
        if not self.ended:
            self._resize()

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            size = size_of(self.sides[OLD].end.fd)
            if size != self._size:
                self._size = size
                set_size(self.sides[MASTER].end.fd, size)
                rows, columns = (int.from_bytes(size[at : at + 2], sys.byteorder) for at in (0, 2))
                self.tape.frame(Kind.RESIZE, columns.to_bytes(2, "big") + rows.to_bytes(2, "big"))
