"""The sessions of the recorder before: taken up from what systemd kept, or, where nothing was kept, brought to an end on paper."""

import contextlib
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.sessions.recorder.keeping import LISTENER, NOTE, Note
from agent.sessions.recorder.sealing import Job
from agent.sessions.recorder.session import TAPE, About, Parts, Session
from agent.sessions.recorder.streams import StreamSession, Wire
from agent.sessions.recorder.tape import Tape
from agent.sessions.recorder.terminal import MASTER, OLD, WAITER, WINDOW, TerminalSession
from agent.sessions.recording import Frame, Kind, read, recover

log = logging.getLogger("tidegate")


def resume(parts: Parts, handed: Mapping[str, int], cap: int) -> None:
    """Go on with every session whose descriptors were handed over; what can't be is closed."""
    sessions: dict[str, dict[str, int]] = defaultdict(dict)
    for name, fd in handed.items():
        if name != LISTENER:
            sessions[name[:-1]][name[-1:]] = fd
    for short, fds in sessions.items():
        try:
            _resume(parts, fds, cap)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.error("session %s can't be gone on with: %s", short, error)
            for letter, fd in fds.items():
                parts.notify.drop(short + letter)
                with contextlib.suppress(OSError):
                    os.close(fd)


def _resume(parts: Parts, fds: dict[str, int], cap: int) -> None:
    note = Note(fds[NOTE])
    value = note.read()
    told = value["about"]
    if not isinstance(told, dict):
        raise TypeError("the note has no session")
    inside = tuple((int(one), int(other)) for one, other in told["inside"])
    about = About(**(told | {"inside": inside}))
    tape = reopened(parts, about.id, fds[TAPE], cap)
    session: Session
    if about.kind == "pty":
        codes = [bytes((code,)) if isinstance(code, int) else code for code in value["modes"][6]]
        modes = [*value["modes"][:6], codes]
        own, taken = bool(value["own"]), bool(value["taken"])
        session = TerminalSession(parts, about, tape, fds[OLD], fds[MASTER], taken, modes, note, own=own)
        session.restore(set(fds), int(value["at"]))
        session.resume(fds.get(WINDOW, -1), fds.get(WAITER, -1))
        return
    wires = []
    for number, wire in enumerate(value["wires"]):
        old, new = fds.get("abc"[number], -1), fds.get("def"[number], -1)
        if old >= 0 and new >= 0:
            wires.append(Wire(wire["kind"], tuple(wire["streams"]), old, new))
        else:
            for fd in (old, new):
                if fd >= 0:
                    os.close(fd)
    session = StreamSession(parts, about, tape, wires, value["left"], note, parsed=False)
    session.restore(set(fds), int(value["at"]))
    session.resume()


def reopened(parts: Parts, ident: str, fd: int, cap: int) -> Tape:
    """A tape that goes on after its last whole block. Raises OSError, ValueError."""
    writer, size = recover(Path(f"/proc/self/fd/{fd}"), time.monotonic_ns())
    os.ftruncate(fd, size)
    return Tape(parts.loop, parts.store.path(ident), fd, writer, size=size, cap=cap, charge=parts.store.charge)


def finish_left_over(parts: Parts, cap: int) -> None:
    """Recordings whose session is over and nobody said so: END, and the last seal."""
    for ident in parts.store.unfinished():
        path = parts.store.path(ident)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            parts.store.ended(ident)
            continue
        try:
            tape = reopened(parts, ident, fd, cap)
            meta = _meta(path)
        except (OSError, ValueError) as error:
            log.error("recording %s can't be read, and is left as it is: %s", ident, error)
            os.close(fd)
            parts.store.ended(ident)
            continue
        tape.required = True
        if not tape.writer.ended:
            tape.frame(Kind.END, json.dumps({"why": "the recorder or the host stopped"}).encode())
        parts.sealing.finish(Job(ident, str(meta.get("jti", "")), int(meta.get("uid", 0)), 0, tape))


def _meta(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        first = next(iter(read(file)), None)
    value = json.loads(first.data) if isinstance(first, Frame) else None
    if not isinstance(value, dict):
        raise ValueError("it does not begin with what it is")  # noqa: TRY004  (what is read is wrong, not who asks)
    return value
