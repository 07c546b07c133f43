"""Looking at the host from outside while the deadline passes: logins, doors and processes, each by its own thread."""

import os
import socket
import threading
import time
from pathlib import Path

import paramiko


class LoginProbe:
    """Tries to log in over and over, as many clients at once would.

    By the key, or its certificate where that lies beside it. Notes (wall ns) when each was offered that sshd then accepted, and
    when each refusal came: sshd decides between the two moments, so neither figure flatters it.
    """

    def __init__(self, address: str, user: str, key: Path, clients: int = 3) -> None:
        self.accepted: list[int] = []
        self.welcomed: list[int] = []  # when the acceptances were heard
        self.refused: list[int] = []
        self._stop = threading.Event()
        self._key = paramiko.Ed25519Key.from_private_key_file(str(key))
        if (certificate := key.with_name(f"{key.name}-cert.pub")).exists():
            self._key.load_certificate(str(certificate))
        self._address, self._user = address, user
        self._threads = [threading.Thread(target=self._try_on, daemon=True) for _ in range(clients)]

    def start(self) -> "LoginProbe":
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End, when the tries under way have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def first_welcome(self, timeout_s: float) -> int | None:
        """Wait until the first accepted login is heard of; None when there is none in time."""
        end = time.monotonic() + timeout_s
        while not self.welcomed and time.monotonic() < end:
            time.sleep(0.001)
        return min(self.welcomed, default=None)

    def _try_on(self) -> None:
        while not self._stop.is_set():
            answer, offered_ns = offer_key(self._address, self._user, self._key)
            if answer:
                self.accepted.append(offered_ns)
                self.welcomed.append(time.time_ns())
            elif answer is False:
                self.refused.append(time.time_ns())


def offer_key(address: str, user: str, key: paramiko.PKey) -> tuple[bool | None, int]:
    """What sshd said of the key, and when (wall ns) it was offered. None: nothing was said (the connection was dropped)."""
    offered_ns = 0
    try:
        with socket.create_connection((address, 22), timeout=5) as connection:
            transport = paramiko.Transport(connection)
            try:
                transport.start_client(timeout=5)
                offered_ns = time.time_ns()
                transport.auth_publickey(user, key)
            except paramiko.AuthenticationException:
                return False, offered_ns
            finally:
                transport.close()
            return True, offered_ns
    except (OSError, EOFError, paramiko.SSHException):
        return None, offered_ns


class ProcessWatch:
    """Polls /proc of this machine (the host's processes are in it) for the tenants' uids and for marked root processes.

    ``leader`` is the host's PID 1: only processes of its PID namespace are the host's.
    """

    def __init__(self, leader: int, uids: set[int], root_markers: tuple[bytes, ...], door: Path) -> None:
        self.peak = 0
        self.last_alive_ns = 0
        self.all_dead_ns = 0
        self.doors_ns = 0
        self.last_seen = ""  # the command lines of some of those that lived last
        self._uids, self._door = uids, door
        self._namespace = _pid_namespace(leader)
        self._marked = {pid for pid in _pids() if any(marker in _cmdline(pid) for marker in root_markers) and self._here(pid)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    @property
    def marked(self) -> int:
        """How many marked root processes were found at the start."""
        return len(self._marked)

    def dead_for(self, seconds: float) -> bool:
        """Whether none has been seen for so long: a look at /proc may miss one that the next finds."""
        return bool(self.all_dead_ns) and time.time_ns() - self.all_dead_ns >= seconds * 1e9

    def start(self) -> "ProcessWatch":
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _here(self, pid: int) -> bool:
        return _pid_namespace(pid) == self._namespace

    def _poll(self) -> None:
        while not self._stop.is_set():
            suspects = [pid for pid in _pids() if pid in self._marked or _owner(pid) in self._uids]
            alive = [pid for pid in suspects if self._here(pid) and not _zombie(pid)]
            now = time.time_ns()
            self.peak = max(self.peak, len(alive))
            if alive:
                self.last_alive_ns, self.all_dead_ns = now, 0
                self.last_seen = ", ".join(_cmdline(pid).replace(b"\0", b" ").decode(errors="replace") for pid in alive[:3])
            elif not self.all_dead_ns:
                self.all_dead_ns = now
            if not self.doors_ns and not os.path.lexists(self._door):
                self.doors_ns = now
            time.sleep(0.0005)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _pid_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def _owner(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return -1


def _cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in {b"Z", b"X"}
    except OSError:
        return True
