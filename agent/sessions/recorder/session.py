"""What every recorded session has: its ends and flows, its tape, and what becomes of it when the tape can't be written."""

import contextlib
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from agent.model.plan import Json
from agent.sessions.recorder.ends import Bytes, End
from agent.sessions.recorder.flow import Flow, Side
from agent.sessions.recorder.keeping import NOTE, Note, Notify
from agent.sessions.recorder.loop import Loop, Timer
from agent.sessions.recorder.port import Port
from agent.sessions.recorder.sealing import Job, Sealing
from agent.sessions.recorder.store import Store
from agent.sessions.recorder.tape import Tape
from agent.sessions.recorder.windows import Windows
from agent.sessions.recording import Kind

log = logging.getLogger("tidegate")
TAPE = "t"
KEEP_S = 0.25  # a session shorter than this costs systemd nothing, and is lost with a recorder that is killed within it
_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class About:
    """What a session is, as its note has it. ``inside``: what its standard descriptors are, to know it again."""

    id: str
    kind: str
    login: str
    uid: int
    pid: int
    jti: str
    required: bool
    input: bool
    limit: int
    pause_s: float
    inside: tuple[tuple[int, int], ...] = ()

    @property
    def short(self) -> str:
        """Under which its descriptors are kept."""
        return self.id[-8:]


@dataclass(slots=True)
class Parts:
    """What sessions share."""

    loop: Loop
    port: Port
    store: Store
    sealing: Sealing
    windows: Windows
    notify: Notify
    live: dict[str, "Session"] = field(default_factory=dict)
    begun: Callable[[], None] = lambda: None  # called when there is one more in ``live``


class Session(ABC):
    """One session, from the answer to tidegate-shell on."""

    def __init__(self, parts: Parts, about: About, tape: Tape, note: Note | None = None) -> None:
        self.about, self.tape = about, tape
        self.job = Job(about.id, about.jti, about.uid, about.pid, tape)
        self.ended = ""
        self._parts = parts
        self._note = note
        self._kept: set[str] = set()
        self.sides: dict[str, Side] = {}
        self.flows: list[Flow] = []
        self._held = False
        self._retrying: Timer | None = None
        self._since = 0.0  # of the trouble (monotonic)
        self._handle: dict[str, int] = {}  # descriptors that are no ends, by their letter
        tape.required = about.required
        tape.failed = self._in_trouble
        parts.live[about.id] = self
        parts.begun()

    # -- set up by the kinds of session

    def side(self, letter: str, end: End) -> Side:
        """An end of this session's, kept under a letter."""
        self.sides[letter] = made = Side(self._parts.loop, end)
        return made

    def flow(self, source: Side, sink: Side, tap: Callable[[Bytes], bool]) -> Flow:
        """Connect two sides."""
        made = Flow(source, sink, tap, self._flow_over, self._hold_in_between)
        self.flows.append(made)
        return made

    def begin(self) -> None:
        """Let it flow, and let it be kept."""
        for flow in self.flows:
            flow.start()
        if self._parts.notify and not self._kept:
            self._parts.loop.after(KEEP_S, self.keep)
        self._parts.loop.after(KEEP_S, self._first_seal)

    def _first_seal(self) -> None:
        """Soon: by it tidegated knows of the recording, and whose session it is."""
        if not self.ended:
            self._parts.sealing.seal([self.job])

    def keep(self) -> None:
        """Hand every descriptor to systemd, with a note; before that a restart would end the session. Twice does nothing new."""
        if self.ended or not self._parts.notify:
            return
        if self._note is None:
            self._note = Note()
            for flow in self.flows:
                self._hold_in_between(flow)
            self.note()
        fds = {letter: side.end.fd for letter, side in self.sides.items()} | self._handle
        for letter, fd in (fds | {TAPE: self.tape.fd, NOTE: self._note.fd}).items():
            if fd >= 0 and letter not in self._kept and self._parts.notify.keep(self.about.short + letter, fd):
                self._kept.add(letter)

    def note(self) -> None:
        """Write down what the next recorder has to know."""
        if self._note is not None:
            self._note.write({"about": asdict(self.about), "at": time.monotonic_ns(), **self.state()})

    def restore(self, kept: set[str], at_ns: int) -> None:
        """After a restart: ``kept`` are the letters systemd holds; what was held in between is passed on first."""
        self._kept = set(kept)
        self.tape.event(type="gap", why="the recorder was restarted", away_ms=max(0, time.monotonic_ns() - at_ns) // 1_000_000)
        if self._note is not None:
            for index, flow in enumerate(self.flows):
                flow.pending = self._note.held(index)
        self.note()

    def state(self) -> dict[str, Json]:
        """What the kind of session has to remember."""
        return {}

    @abstractmethod
    def say(self, text: str) -> None:
        """Tell the tenant, if that can be done at once and does not belong to a command's output."""

    @abstractmethod
    def _flow_over(self, flow: Flow, why: str) -> None:
        """One flow is done."""

    # -- when writing fails

    def _in_trouble(self) -> None:
        if self._retrying is None and not self.ended:
            self._since = time.monotonic()
            self._retrying = self._parts.loop.after(0, self._troubled)

    def _troubled(self) -> None:
        about, why = self.about, self.tape.failing
        log.error("recording %s can't be written (%s): %s", about.id, "required" if about.required else "not required", why)
        if about.required:
            self._hold(True)
            if about.pause_s:
                self.say(f"this session waits, since its recording can't be written: {why}")
        self._retry()

    def _retry(self) -> None:
        self._retrying = None
        if self.ended:
            return
        if not self.tape.failing or self.tape.retry():
            log.warning("recording %s is written again", self.about.id)
            if self._held:
                self.tape.event(type="pause", ms=int((time.monotonic() - self._since) * 1000))
                self.tape.event(type="resume")
                self.say("the recording is written again: go on")
                self._hold(False)
        elif self.about.required and time.monotonic() - self._since >= self.about.pause_s:
            self.cut(f"its recording can't be written: {self.tape.failing}")
        else:
            self._retrying = self._parts.loop.after(_RETRY_S, self._retry)

    def _hold(self, held: bool) -> None:
        self._held = held
        for flow in self.flows:
            flow.hold(held)

    # -- the end

    def cut(self, why: str) -> None:
        """End it from here, and have tidegated end what runs in it."""
        log.error("session %s of %s is cut: %s", self.about.id, self.about.login, why)
        self.say(f"this session is over: {why}")
        request: dict[str, Json] = {"op": "cut", "uid": self.about.uid, "pid": self.about.pid, "reason": why}
        self._parts.port.ask(request, (), lambda answer, _fds: _cut(self.about.id, answer.get("ok")))
        self.end(why)

    def end(self, why: str) -> None:
        """Close everything; the recording gets its END and its last seal. Twice is the same as once."""
        if self.ended:
            return
        self.ended = why
        if self._retrying is not None:
            self._retrying.cancel()
        for side in self.sides.values():
            side.end.no_more()  # descriptors may be kept elsewhere: say it before closing
            side.end.deaf()
            side.close()
        for letter in list(self._handle):
            self.close_handle(letter)
        for letter in sorted(self._kept):
            self._keep_no_longer(letter)
        if self._note is not None:
            with contextlib.suppress(OSError):
                os.close(self._note.fd)
        self._parts.live.pop(self.about.id, None)
        self.tape.failed = lambda: None
        self.tape.required = True  # what is still noted is not to be dropped
        self.tape.frame(Kind.END, json.dumps({"why": why}).encode())
        self._parts.sealing.finish(self.job)

    def close_handle(self, letter: str) -> None:
        """Close a descriptor that is no end, here and where it is kept."""
        fd = self._handle.pop(letter, -1)
        if fd >= 0:
            self._parts.loop.forget(fd)
            os.close(fd)
        self._keep_no_longer(letter)

    def release(self, side: Side) -> None:
        """A side was closed by its flow: systemd must not hold it open."""
        for letter, known in self.sides.items():
            if known is side and side.end.fd < 0:
                self._keep_no_longer(letter)

    def _keep_no_longer(self, letter: str) -> None:
        if letter in self._kept:
            self._kept.discard(letter)
            self._parts.notify.drop(self.about.short + letter)

    def _hold_in_between(self, flow: Flow) -> None:
        if self._note is not None:
            self._note.hold(self.flows.index(flow), flow.pending)


def _cut(ident: str, done: object) -> None:
    if done is not True:
        log.error("tidegated did not end what runs in session %s", ident)
