"""A recorder, a tidegated's port and an sshd for it, each a real process or thread with real terminals and sockets."""

import array
import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.sessions import shell
from agent.sessions.recording import Frame, Kind, read

ROOT = Path(__file__).resolve().parents[2]
JWS = "e30.{}.c2ln"


class PortServer:
    """Answers as tidegated does: takes terminals, seals (unsigned here), notes cuts."""

    def __init__(self, path: Path) -> None:
        self.cuts: list[dict[str, object]] = []
        self.seals: list[dict[str, object]] = []
        self.owned = 0
        self.takes = True
        self._path = path
        self._served = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._served.bind(str(path))
        self._served.listen(8)
        self._open: list[socket.socket] = []
        self._stopped = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._served.shutdown(socket.SHUT_RDWR)
        self._served.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._served.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while True:
                try:
                    data, fds, _flags, _ = socket.recv_fds(connection, 65536, 3)
                except OSError:
                    return
                if not data:
                    return
                request = json.loads(data)
                answer, given = getattr(self, "_" + request["op"])(request, fds)
                with contextlib.suppress(OSError):
                    socket.send_fds(connection, [json.dumps(answer).encode()], given)
                for fd in {*fds, *given}:
                    os.close(fd)

    def _take(self, _request: dict[str, object], fds: list[int]) -> tuple[object, list[int]]:
        old, _slave = fds
        if not self.takes:
            return {"ok": True, "taken": False}, []
        fcntl.ioctl(old, 0x5437)  # TIOCVHANGUP
        return {"ok": True}, [os.open(f"/proc/self/fd/{old}", os.O_RDWR | os.O_NOCTTY)]

    def _seal(self, request: dict[str, object], _fds: list[int]) -> tuple[object, list[int]]:
        import base64

        self.seals.append(request)
        claims = json.dumps({"seq": request["seq"], "head": request["head"]}).encode()
        return {"ok": True, "jws": JWS.format(base64.urlsafe_b64encode(claims).decode().rstrip("="))}, []

    def _own(self, request: dict[str, object], fds: list[int]) -> tuple[object, list[int]]:
        self.owned += len(fds)
        return {"ok": True}, []

    def _cut(self, request: dict[str, object], _fds: list[int]) -> tuple[object, list[int]]:
        self.cuts.append(request)
        return {"ok": True}, []


class FdStore:
    """systemd's part: keeps descriptors under names, and hands them to the next process (sd_notify(3), sd_listen_fds(3))."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: list[tuple[str, int]] = []
        self.ready = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                data, fds, _flags, _ = socket.recv_fds(self._socket, 65536, 16)
            except OSError:
                return
            said = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            if said.get("FDSTORE") == "1":
                assert said.get("FDPOLL") == "0"
                self.kept += [(said["FDNAME"], fd) for fd in fds]
            if said.get("FDSTOREREMOVE") == "1":
                for name, fd in [each for each in self.kept if each[0] == said["FDNAME"]]:
                    self.kept.remove((name, fd))
                    os.close(fd)
            if "READY" in said:
                self.ready.set()

    def start(self, argv: list[str], env: dict[str, str]) -> int:
        """Fork and exec with everything that is kept, from 3 on, in systemd's order (the newest first)."""
        kept = list(reversed(self.kept))
        self.ready.clear()
        pid = os.fork()
        if pid == 0:
            try:
                high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 2000) for _, fd in kept]
                for number, fd in enumerate(high):
                    os.dup2(fd, 3 + number)
                os.closerange(3 + len(kept), 4096)
                env |= {"NOTIFY_SOCKET": str(self.path)}
                if kept:
                    env |= {
                        "LISTEN_PID": str(os.getpid()),
                        "LISTEN_FDS": str(len(kept)),
                        "LISTEN_FDNAMES": ":".join(name for name, _ in kept),
                    }
                os.execve(argv[0], argv, env)
            finally:
                os._exit(127)
        return pid

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for _, fd in self.kept:
            os.close(fd)


class Rig:
    """All of it in one folder."""

    def __init__(self, folder: Path, *, args: tuple[str, ...] = (), store: bool = False, sessions: Path | None = None) -> None:
        self.folder = folder
        self.sessions = sessions or folder / "sessions"
        self.sessions.mkdir(exist_ok=True)
        (folder / "tenants").mkdir()
        self.port = PortServer(folder / "port.sock")
        self.fdstore = FdStore(folder / "notify") if store else None
        self.args = args
        self.tenant()
        self.shell = folder / "tidegate-shell"
        text = Path(shell.__file__).read_text()
        text = text.replace('"/run/tidegate/tenants"', repr(str(folder / "tenants")))
        text = text.replace('"/usr/lib/tidegate/agent/sessions"', repr(str(ROOT / "agent/sessions")))
        self.shell.write_text(text.replace('"/run/tidegate/recorder/sock"', repr(str(folder / "sock"))))
        self.pid = 0
        self.start()

    def tenant(self, **recording: object) -> None:
        value = {
            "login": "root",
            "shell": "/bin/bash",
            "actions": ["login", "exec", "sftp"],
            "uid": 0,
            "grant": {"jti": "g-1", "sub": "alice", "exp": int(time.time()) + 3600, "reason": "restart web", "ticket": "INC-1"},
            "recording": {
                "required": True,
                "input": False,
                "limit": 1 << 20,
                "on_failure": "close",
                "pause_s": 0,
                "recorder_uid": 0,
            }
            | recording,
        }
        path = self.folder / "tenants" / "root.json"
        path.write_text(json.dumps(value))
        path.chmod(0o644)

    def start(self) -> None:
        argv = [sys.executable, "-m", "agent.sessions.recorder"]
        for name, place in (("socket", "sock"), ("port", "port.sock"), ("tenants", "tenants")):
            argv += [f"--{name}", str(self.folder / place)]
        argv += ["--sessions", str(self.sessions), *self.args]
        env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
        if self.fdstore:
            self.pid = self.fdstore.start(argv, env)
            assert self.fdstore.ready.wait(20)
            return
        self.pid = os.posix_spawn(argv[0], argv, env)
        wait_for(lambda: (self.folder / "sock").exists() and self._answers())

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
            try:
                asked.connect(str(self.folder / "sock"))
            except OSError:
                return False
            return True

    def alive(self) -> bool:
        return os.waitpid(self.pid, os.WNOHANG)[0] == 0

    def stop(self, number: int = signal.SIGTERM) -> int:
        os.kill(self.pid, number)
        status = os.waitpid(self.pid, 0)[1]
        self.pid = 0
        return status

    def close(self) -> None:
        if self.pid:
            self.stop(signal.SIGKILL)
        if self.fdstore:
            self.fdstore.close()
        self.port.close()

    def recordings(self) -> list[Path]:
        return sorted(self.sessions.glob("*.tgr"))

    def frames(self, path: Path | None = None) -> list[Frame]:
        """Of the only recording, or this one; whole to its last byte."""
        (only,) = [path] if path else self.recordings()
        with only.open("rb") as file:
            found = list(read(file))
        return [item for item in found if isinstance(item, Frame)]

    def bytes_of(self, kind: Kind, path: Path | None = None) -> bytes:
        return b"".join(frame.data for frame in self.frames(path) if frame.kind is kind)

    def events(self, path: Path | None = None) -> list[dict[str, object]]:
        return [json.loads(frame.data) for frame in self.frames(path) if frame.kind is Kind.EVENT]

    def ended(self, path: Path | None = None) -> str:
        found = [frame for frame in self.frames(path) if frame.kind is Kind.END]
        return json.loads(found[0].data)["why"] if found else ""

    def argv(self, command: str | None) -> list[str]:
        base = [sys.executable, "-I", "-S", "-E", str(self.shell)]
        return base if command is None else [*base, "-c", command]


class Terminal:
    """What sshd does for a terminal: opens one, forks a session leader on it, reads the master."""

    def __init__(self, argv: list[str], env: dict[str, str] | None = None, size: tuple[int, int] = (24, 80)) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.old = os.ttyname(slave)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.master)
                os.setsid()
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                for fd in range(3):
                    os.dup2(slave, fd)
                os.closerange(3, 256)
                signal.signal(signal.SIGPIPE, signal.SIG_DFL)
                base = {"TERM": "xterm", "SSH_TTY": self.old, "PS1": "$ ", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
                os.execve(argv[0], argv, base | (env or {}))
            finally:
                os._exit(126)
        os.close(slave)
        self.shown = b""

    def send(self, text: str | bytes) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def until(self, text: str | bytes, timeout: float = 10.0) -> bytes:
        """Read until this is shown after what was found before; returns all up to its end."""
        wanted = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + timeout
        while wanted not in self.shown:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{wanted!r} was not shown, but {self.shown[-2000:]!r}")
        at = self.shown.index(wanted) + len(wanted)
        found, self.shown = self.shown[:at], self.shown[at:]
        return found

    def rest(self, timeout: float = 10.0) -> bytes:
        """Until the terminal is closed on the other side."""
        end = time.monotonic() + timeout
        while self._read(end - time.monotonic()):
            pass
        found, self.shown = self.shown, b""
        return found

    def pieces(self) -> Iterator[bytes]:
        """What is shown, as it comes, until the terminal is closed on the other side; none of it is kept."""
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                yield data

    def _read(self, seconds: float) -> bool:
        if seconds <= 0 or not select.select([self.master], [], [], seconds)[0]:
            raise AssertionError(f"nothing more is shown: {self.shown[-2000:]!r}")
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.shown += data
        return bool(data)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def hang_up(self) -> None:
        os.close(self.master)


def wait_for(done: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


@contextlib.contextmanager
def rig(folder: Path, **kwargs: object) -> Iterator[Rig]:
    made = Rig(folder, **kwargs)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def rights(fds: list[int]) -> list[tuple[int, int, bytes]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())]


class Command:
    """What sshd does without a terminal: one socket for standard input and output, another for errors."""

    def __init__(self, argv: list[str], *, pipes: bool = False) -> None:
        if pipes:
            theirs_in, self.to = os.pipe()
            self.out, theirs_out = os.pipe()
            self.err, theirs_err = os.pipe()
        else:
            ours, theirs = (end.detach() for end in socket.socketpair())
            self.to = self.out = ours
            theirs_in = theirs_out = theirs
            self.err, theirs_err = (end.detach() for end in socket.socketpair())
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "SSH_CONNECTION": "192.0.2.7 5000 192.0.2.1 22"}
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((theirs_in, theirs_out, theirs_err))]
        self.pid = os.posix_spawn(argv[0], argv, env, file_actions=actions, setsid=True, setsigdef=[signal.SIGPIPE])
        for fd in {theirs_in, theirs_out, theirs_err}:
            os.close(fd)

    def no_more_input(self) -> None:
        if self.to == self.out:
            with socket.socket(fileno=os.dup(self.to)) as ours:
                ours.shutdown(socket.SHUT_WR)
        else:
            os.close(self.to)

    def talk(self, data: bytes = b"", seconds: float = 60.0) -> tuple[bytes, bytes]:
        """Write all of it, close, and read both outputs to their ends."""
        found = {self.out: bytearray(), self.err: bytearray()}
        left, reading, view = True, set(found), memoryview(data)
        os.set_blocking(self.to, False)
        end = time.monotonic() + seconds
        while reading:
            assert time.monotonic() < end, "no end"
            ready, writable, _ = select.select(reading, [self.to] if left else [], [], 1.0)
            if writable:
                with contextlib.suppress(BlockingIOError):
                    view = view[os.write(self.to, view[:65536]) :] if view else view
                if not view:
                    left = False
                    self.no_more_input()
            for fd in ready:
                piece = os.read(fd, 1 << 18)
                found[fd] += piece
                if not piece:
                    reading.discard(fd)
        return bytes(found[self.out]), bytes(found[self.err])

    def status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def hang_up(self) -> None:
        for fd in {self.to, self.out, self.err}:
            os.close(fd)
