"""From a question of tidegate-shell's to a session: whose it is, a tape, new ends, and for a terminal tidegated's hand."""

import contextlib
import os
import pwd
import secrets
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.model.plan import Json
from agent.model.text import one_line
from agent.sessions.recorder import tape as tapes
from agent.sessions.recorder.closing import close_elsewhere
from agent.sessions.recorder.ends import set_size, size_of
from agent.sessions.recorder.port import Answer
from agent.sessions.recorder.session import About, Parts
from agent.sessions.recorder.streams import StreamSession, wires_for
from agent.sessions.recorder.tape import Tape
from agent.sessions.recorder.tenant import NotRecorded, Tenant, find
from agent.sessions.recorder.terminal import TerminalSession
from agent.sessions.recorder.wire import Peer, Question, What, what_is

PER_UID = 600
OVERALL = 1500  # their names must fit into one environment variable at the next start, see keeping.py


class Refused(Exception):  # noqa: N818  (an answer)
    """Why there is no session."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Where tenants are found and how much they may have. ``login_of``: uid → login; ``owner``: whose the tenant files must be."""

    tenants: Path = Path("/run/tidegate/tenants")
    host: str = ""
    cap: int = 1 << 30  # bytes of one recording
    login_of: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name
    owner: int = 0
    per_uid: int = PER_UID
    overall: int = OVERALL


Reply = Callable[..., bool]  # (word, *texts, fds=..., stays=who gets the connection) → whether the other took it


class Opening:
    """Answers questions: ``reply`` is called once for each, now or when tidegated has answered."""

    def __init__(self, parts: Parts, rules: Rules) -> None:
        self._parts, self._rules = parts, rules
        self._opening: Counter[int] = Counter()  # uid → terminals that wait for tidegated

    def open(self, peer: Peer, question: Question, reply: Reply) -> None:
        """Takes the question's descriptors over."""
        whats = [what_is(fd) for fd in question.fds]
        try:
            if self._inside(peer, whats):
                reply("GO")
            else:
                tenant = find(peer.uid, self._rules.tenants, self._rules.login_of, self._rules.owner)
                self._room(peer.uid)
                if question.kind == "pty":
                    self._terminal(peer, question, whats, tenant, reply)
                else:
                    self._streams(peer, question, whats, tenant, reply)
                return
        except (Refused, NotRecorded) as refused:
            reply("NO", str(refused))
        except (OSError, termios.error) as error:
            reply("NO", f"the recorder can't record this session: {error}")
        close_elsewhere(question.fds)

    def _inside(self, peer: Peer, whats: Sequence[What]) -> bool:
        """Asked from within a session that is recorded, on its own terminal or pipe."""
        key = whats[0].key
        return whats[0].kind != "other" and any(
            key in session.about.inside for session in self._parts.live.values() if session.about.uid == peer.uid
        )

    def _room(self, uid: int) -> None:
        live = self._parts.live.values()
        if len(live) + self._opening.total() >= self._rules.overall:
            raise Refused("the recorder has as many sessions as it can hold")
        if sum(session.about.uid == uid for session in live) + self._opening[uid] >= self._rules.per_uid:
            raise Refused("this account has as many recorded sessions as it may have")

    def _about(self, peer: Peer, question: Question, tenant: Tenant) -> About:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        taken = {session.about.short for session in self._parts.live.values()}
        short = next(short for _ in range(1000) if (short := secrets.token_hex(4)) not in taken)
        return About(
            id=f"r-{stamp}-{short}",
            kind=question.kind,
            login=tenant.login,
            uid=peer.uid,
            pid=peer.pid,
            jti=tenant.jti,
            required=tenant.required,
            input=tenant.input,
            limit=tenant.limit,
            pause_s=tenant.pause_s,
        )

    def _tape(self, about: About, question: Question, tenant: Tenant, size: bytes) -> Tape:
        rows, columns = (int.from_bytes(size[at : at + 2], sys.byteorder) for at in (0, 2))
        meta: dict[str, Json] = {
            "id": about.id,
            "jti": tenant.jti,
            "sub": tenant.sub,
            "login": tenant.login,
            "uid": about.uid,
            "host": self._rules.host,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "remote": one_line(question.remote.partition(" ")[0], 64),
            "kind": question.kind,
            "command": question.command,
            "term": one_line(question.term, 64),
            "cols": columns,
            "rows": rows,
            "input": tenant.input,
        }
        store = self._parts.store
        try:
            store.begun(about.id)  # first: a recording without this mark is over, and may be carried away whole
            made = tapes.create(self._parts.loop, store.path(about.id), meta, cap=self._rules.cap, charge=store.charge)
        except OSError as error:
            with contextlib.suppress(OSError):
                store.ended(about.id)
            raise Refused(f"the recording can't be written: {error.strerror or error}") from error
        return made

    # -- without a terminal

    def _streams(self, peer: Peer, question: Question, whats: Sequence[What], tenant: Tenant, reply: Reply) -> None:
        about = self._about(peer, question, tenant)
        tape = self._tape(about, question, tenant, bytes(8))
        try:
            wires, given = wires_for(question.fds, whats)
        except OSError:
            self._drop(about, tape)
            raise
        about = replace(about, inside=tuple(what_is(fd).key for wire in wires for fd in {given[wire.streams[0]]}))
        session = StreamSession(self._parts, about, tape, wires)
        for stream, what in enumerate(whats):
            if what.kind not in ("socket", "pipe"):
                tape.event(type="unrecorded", stream=("stdin", "stdout", "stderr")[stream], what=what.kind)
        passed = {wire.old for wire in wires}
        made = sorted({fd for fd in given if fd not in question.fds})
        self._opening[peer.uid] += 1

        def owned(answer_: Answer, _fds: list[int]) -> None:
            self._opening[peer.uid] -= 1
            if answer_.get("ok") is True:
                told = reply("OK", about.id, tenant.banner(time.time()), fds=given)
            else:
                told = False
                reply("NO", f"its pipes can't be given to it: {answer_.get('reason', 'tidegated gave no answer')}")
            for fd in made:
                os.close(fd)
            close_elsewhere(fd for fd in question.fds if fd not in passed)
            if told:
                session.begin()
            else:
                session.end("it did not come about")

        pipes = tuple(fd for fd in made if what_is(fd).kind == "pipe")
        if pipes:  # a program may open /dev/stderr anew, and a pipe is a file of whoever made it
            self._parts.port.ask({"op": "own", "uid": peer.uid}, pipes, owned)
        else:
            owned({"ok": True}, [])

    # -- with one

    def _terminal(self, peer: Peer, question: Question, whats: Sequence[What], tenant: Tenant, reply: Reply) -> None:
        if whats[0].kind != "terminal":
            raise Refused("standard input is no terminal")
        old = question.fds[0]
        modes, size = termios.tcgetattr(old), size_of(old)
        about = self._about(peer, question, tenant)
        tape = self._tape(about, question, tenant, size)
        try:
            master, slave = os.openpty()
        except OSError:
            self._drop(about, tape)
            raise
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        set_size(slave, size)
        about = replace(about, inside=(what_is(slave).key,))
        close_elsewhere(question.fds[1:])
        self._opening[peer.uid] += 1

        def taken(answer: Answer, fds: list[int]) -> None:
            self._opening[peer.uid] -= 1
            was_taken = answer.get("taken") is not False
            ours = fds[0] if fds else old
            if answer.get("ok") is not True or (was_taken and not fds):
                self._drop(about, tape)
                for fd in {master, slave, ours} - {old}:
                    os.close(fd)
                reply("NO", f"the terminal can't be taken over: {answer.get('reason', 'tidegated gave none back')}")
                os.close(old)
                return
            if fds:
                os.close(old)
            if answer.get("typed_ahead"):  # shown before the recording began, and not in it
                tape.event(type="typed_ahead", bytes=answer["typed_ahead"])
            self._hand_over(about, tape, ours, master, slave, was_taken or bool(fds), was_taken, modes, tenant, reply)

        self._parts.port.ask({"op": "take", "uid": peer.uid, "pid": peer.pid}, (old, slave), taken)

    def _hand_over(
        self,
        about: About,
        tape: Tape,
        old: int,
        master: int,
        slave: int,
        own: bool,
        taken: bool,
        modes: list[object],
        tenant: Tenant,
        reply: Reply,
    ) -> None:
        session = TerminalSession(self._parts, about, tape, old, master, taken, modes, own=own)
        try:
            session.begin()
            if not reply("OK", about.id, tenant.banner(time.time()), fds=[slave], stays=session.wait_for_its_end):
                session.end("who asked for it has gone")
        except (OSError, termios.error) as error:
            reply("NO", f"the terminal is gone: {error}")
            session.end("the terminal is gone")
        finally:
            os.close(slave)

    def _drop(self, about: About, tape: Tape) -> None:
        """A recording of a session that never was."""
        tape.close()
        with contextlib.suppress(OSError):
            tape.path.unlink()
        self._parts.store.ended(about.id)
