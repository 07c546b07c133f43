"""The recorder's door to root: four things it may ask, on a socket that only its own account can use.

The recorder has no privilege. Taking a terminal away from its user, giving it pipes, signing with this host's key and ending
a session are tidegated's, which looks for itself whether the uid is a tenant's now. One JSON object and its answer are one
packet each (unix(7), SOCK_SEQPACKET); descriptors come along (SCM_RIGHTS).
"""

import array
import contextlib
import json
import logging
import os
import pwd
import re
import socket
import stat
from collections.abc import Callable
from functools import partial

from agent.control.server import Peer
from agent.errors import HostError, TidegateError
from agent.expiry.recordings import Seal
from agent.host import recorder, terminal, utmp
from agent.host.threads import pool_of, submit
from agent.pipeline import Pipeline

log = logging.getLogger("tidegate")
NAME = "port.sock"
_MESSAGE_MAX = 4096
_FDS_MAX = 3
_CALLERS = 2  # the recorder, and the one that takes its place in an upgrade
_IDENT = re.compile(r"r-[0-9]{8}T[0-9]{6}-[0-9a-f]{8}")
_HEAD = re.compile(r"[0-9a-f]{64}")
Request = dict[str, object]
Answer = tuple[dict[str, object], list[int]]


class Port:
    """Serves until closed. Its threads are its own: what the recorder asks waits for nobody's question."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._path = pipeline.config.paths.run_dir / NAME
        self._listener: socket.socket | None = None
        self._threads = pool_of(_CALLERS + 1, "port")
        self._open: set[socket.socket] = set()

    def start(self) -> str:
        """Bind and serve; returns why not, empty when it does, or when this host has no recorder."""
        try:
            gid = pwd.getpwnam(recorder.ACCOUNT).pw_gid
        except KeyError:
            return ""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            os.chown(self._path, 0, gid)
            self._path.chmod(0o660)
            listener.listen(_CALLERS)
        except OSError as error:
            listener.close()
            return f"the recorder can't ask, so no session is recorded: {self._path}: {error.strerror}"
        self._listener = listener
        submit(self._threads, self._accept, listener)
        return ""

    def close(self) -> None:
        """Hang up on everybody."""
        for connection in (self._listener, *self._open):
            if connection is not None:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._threads.shutdown()
        if self._listener is not None:
            self._listener.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            if len(self._open) >= _CALLERS or not _may_ask(connection):
                connection.close()
                continue
            self._open.add(connection)
            submit(self._threads, self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            giver = Peer(connection).uid
            while True:
                try:
                    data, fds = _received(connection)
                except OSError:
                    break
                if not data:
                    break
                answer, give = self._answer(data, fds, giver)
                try:
                    socket.send_fds(connection, [json.dumps(answer).encode()], give)
                except OSError:
                    break
                finally:
                    _close(give)
        self._open.discard(connection)

    def _answer(self, data: bytes, fds: list[int], giver: int) -> Answer:
        """Whatever comes, an answer; the descriptors that came are closed."""
        try:
            request = json.loads(data)
            acts: dict[object, Callable[[Request, list[int]], Answer]] = {
                "take": partial(self._take, giver),
                "own": self._own,
                "seal": self._seal,
                "cut": self._cut,
            }
            act = acts[request["op"]]
            return act(request, fds)
        except TidegateError as error:
            return {"ok": False, "code": error.code, "reason": error.reason}, []
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            return {"ok": False, "code": "bad_request", "reason": f"{type(error).__name__}: {error}"[:200]}, []
        finally:
            _close(fds)

    def _take(self, giver: int, request: Request, fds: list[int]) -> Answer:
        uid, _ = self._tenant(request)
        old, new = fds
        taken = terminal.take(old, new, uid, giver)
        if taken.theirs:
            with contextlib.suppress(OSError):
                utmp.move(taken.anew, new)
        return {"ok": True, "taken": taken.theirs, "typed_ahead": taken.typed_ahead}, [taken.anew]

    def _own(self, request: Request, fds: list[int]) -> Answer:
        """Give the tenant the pipes that the recorder made for it: opening /dev/stderr anew asks whose it is."""
        uid, _ = self._tenant(request)
        for fd in fds:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):
                raise ValueError("that is no pipe")
            os.fchown(fd, uid, -1)
        return {"ok": True}, []

    def _seal(self, request: Request, _fds: list[int]) -> Answer:
        seal = Seal(
            recording=_text(request, "recording", _IDENT.fullmatch),
            seq=_number(request, "seq"),
            head=_text(request, "head", _HEAD.fullmatch),
            size=_number(request, "bytes"),
            final=request["final"] is True,
        )
        jti = _text(request, "jti", lambda text: len(text) <= 128)
        uid, pid = _number(request, "uid"), _number(request, "pid")
        return {"ok": True, "jws": self._pipeline.recordings.seal(uid, pid, jti, seal)}, []

    def _cut(self, request: Request, _fds: list[int]) -> Answer:
        uid, login = self._tenant(request)
        pid = _number(request, "pid")
        for session in self._pipeline.sessions.of({uid: login}):
            if pid in session.pids:
                log.warning("session %s of %s is cut: %.200s", session.id, login, request.get("reason", ""))
                left = self._pipeline.sessions.end(session)
                return {"ok": not left, "left": left}, []
        return {"ok": True, "left": []}, []

    def _tenant(self, request: Request) -> tuple[int, str]:
        """UID and login."""
        uid = _number(request, "uid")
        live = self._pipeline.ledger.by_uid().get(uid)
        if live is None:
            raise HostError("no_grant", f"uid {uid} is no tenant's now")
        return uid, live.tenants[uid]


def _may_ask(connection: socket.socket) -> bool:
    try:
        return Peer(connection).uid in {0, pwd.getpwnam(recorder.ACCOUNT).pw_uid}
    except KeyError:
        return False


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Not socket.recv_fds: it drops its flags, and a program started meanwhile would inherit a terminal."""
    room = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)
    data, ancillary, _, _ = connection.recvmsg(_MESSAGE_MAX, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, part in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(part[: len(part) - len(part) % fds.itemsize])
    return data, list(fds)


def _close(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _number(request: Request, name: str) -> int:
    value = request[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{name} is no number")
    return value


def _text(request: Request, name: str, right: Callable[[str], object]) -> str:
    value = request[name]
    if not isinstance(value, str) or not right(value):
        raise ValueError(f"{name} is malformed")
    return value
