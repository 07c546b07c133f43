"""Who is in when a grant ends: processes of the tenant, one that left its slice, and one of the host's own beside that."""

import contextlib
import os
import signal
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_HOST = _CGROUPS / "system.slice/crash-host.service"


class People:
    """Sleeping processes. The host's own is to outlive every grant, and not to be left frozen."""

    def __init__(self) -> None:
        self._pids: list[int] = []
        self._folders: list[Path] = []
        self._host = 0
        self.files: list[Path] = []  # of the tenant

    def come(self, uid: int) -> None:
        """A session in the user's slice, a root shell as under sudo in a service of the host's, and that service's own process."""
        scope = _CGROUPS / f"user.slice/user-{uid}.slice/crash.scope"
        self._folders = [_HOST, scope, scope.parent]
        self._start(scope, uid, {})
        self._start(_HOST, 0, {"SUDO_UID": str(uid)})
        self._host = self._start(_HOST, 0, {})
        self.files = [
            Path(f"/tmp/crash-{uid}"),
            Path("/var/spool/cron/crontabs/jit-crash"),
            Path("/var/lib/systemd/linger/jit-crash"),
        ]
        for path in self.files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.chown(path, uid, uid)

    def problems(self) -> list[str]:
        """What was done to the host's own process that should not have been."""
        found = []
        if self._host and os.waitpid(self._host, os.WNOHANG)[0]:
            self._pids.remove(self._host)
            found.append("a process of the host's own was killed")
            self._host = 0
        if self._host and (_HOST / "cgroup.freeze").read_text().strip() != "0":
            found.append(f"{_HOST} is left frozen")
        return found

    def go(self) -> None:
        """Away with all of them."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.freeze").write_text("0")
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        self._pids, self._folders, self._host, self.files = [], [], 0, []

    def _start(self, group: Path, uid: int, environment: dict[str, str]) -> int:
        group.mkdir(parents=True, exist_ok=True)
        ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                (group / "cgroup.procs").write_text("0")
                os.setsid()
                if uid:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                os.close(ready[0])
                os.set_inheritable(ready[1], False)
                os.execve("/usr/bin/sleep", ["sleep", "600"], environment)
            finally:
                os._exit(1)
        os.close(ready[1])
        os.read(ready[0], 1)  # ends when it has become sleep
        os.close(ready[0])
        self._pids.append(pid)
        return pid
