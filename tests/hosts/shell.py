"""A root shell in a host, from outside: no sshd, no login, no session. What a test looks and tampers with."""

import contextlib
import itertools
import shlex
import subprocess
import tarfile
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from tests.hosts import tools
from tests.hosts.errors import HostFailed

T = TypeVar("T")
_ENVIRONMENT = {"PATH": tools.PATH, "HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb"}
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")

# A rename, like any good writer: a watcher on the folder sees one `moved_to`, and never a file half-written.
_WRITE = """
set -eu
temporary=$(mktemp "$(dirname "$1")/.tmp.XXXXXXXX")
trap 'rm -f "$temporary"' EXIT
cat > "$temporary"
chown "$3" "$temporary"
chmod "$2" "$temporary"
mv -T "$temporary" "$1"
trap - EXIT
"""

_ENTER = """
n=$1; shift
while [ "$n" -gt 0 ]; do echo 0 > "$1"; shift; n=$((n-1)); done
echo 4294967295 2>/dev/null > /proc/self/loginuid || :
exec "$@"
"""


class CommandFailed(subprocess.CalledProcessError):
    """A command in a host ended with another status than 0; the message has what it printed."""

    def __str__(self) -> str:
        return f"{super().__str__()}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Shell(ABC):
    """Commands and files in a host, given the process id of its PID 1."""

    _counter = itertools.count(1)

    @property
    @abstractmethod
    def leader(self) -> int:
        """The process id, as this machine sees it, of the host's PID 1."""

    @abstractmethod
    def _leaf(self, number: int) -> tuple[Path | None, list[Path]]:
        """A new cgroup in the host for one command (None where hosts have none), and the files to enter it by."""

    def run(
        self,
        command: str | Sequence[str],
        check: bool = True,
        timeout: float = 30.0,
        input: str | None = None,  # noqa: A002 - named as subprocess.run has it
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run an argv, or a string by bash, as root in the host; the environment is fixed, `env` adds to it.

        The command is in a cgroup of its own in the host's system.slice, in no user's slice and no unit. What it leaves
        running in the background stays, unless it exceeds `timeout` seconds: then all of it is killed.

        Raises:
            CommandFailed: its status is not 0 and `check` is set.
            subprocess.TimeoutExpired: it took longer than `timeout` seconds.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self._entered() as (leaf, entrances):
            process = self._start(entrances, command, env, stdin, subprocess.PIPE, subprocess.PIPE)
            with process:
                try:
                    out, err = process.communicate(input, timeout)
                except BaseException as failure:
                    if leaf is not None:
                        (leaf / "cgroup.kill").write_text("1")
                    process.kill()
                    if isinstance(failure, subprocess.TimeoutExpired):
                        raise subprocess.TimeoutExpired(command, timeout, failure.output, failure.stderr) from None
                    raise
        done = subprocess.CompletedProcess(_argv(command), process.returncode, out, err)
        if check and done.returncode != 0:
            raise CommandFailed(done.returncode, command, out, err)
        return done

    def popen(
        self,
        command: str | Sequence[str],
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.PIPE,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.STDOUT,
    ) -> "subprocess.Popen[str]":
        """Start a command like `run`, and return at once. It ends with the host at the latest."""
        _, entrances = self._leaf(next(self._counter))
        return self._start(entrances, command, env, stdin, stdout, stderr)

    def shell_argv(self, command: str | Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """The argv which, run on this machine, runs `command` in the host."""
        _, entrances = self._leaf(next(self._counter))
        return self._enter(entrances, command, env)

    def read(self, path: str) -> bytes:
        """The bytes of a file in the host. Raises FileNotFoundError if there is none."""
        with self._entered() as (_, entrances):
            argv = self._enter(entrances, ["cat", "--", path], None)
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=30)
        if done.returncode != 0:
            message = done.stderr.decode(errors="replace").strip()
            raise (FileNotFoundError if "No such file" in message else OSError)(message)
        return done.stdout

    def write(self, path: str, data: bytes | str, mode: int = 0o644, owner: str = "0:0") -> None:
        """Put a file in the host, whole or not at all (a temporary name beside it, then a rename)."""
        content = data.encode() if isinstance(data, str) else data
        with self._entered() as (_, entrances):
            argv = self._enter(entrances, ["sh", "-c", _WRITE, "sh", path, f"{mode:o}", owner], None)
            done = subprocess.run(argv, input=content, capture_output=True, check=False, timeout=30)
        if done.returncode != 0:
            raise OSError(f"writing {path}: {done.stderr.decode(errors='replace').strip()}")

    def push(self, source: Path, target: str) -> None:
        """Copy a file or folder of this machine to `target` in the host, owned by root, modes kept."""
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w") as tar:
                tar.add(source, arcname=Path(target).name, filter=_owned_by_root)
            archive.seek(0)
            folder = str(Path(target).parent)
            with self._entered() as (_, entrances):
                unpack = ["sh", "-euc", 'mkdir -p "$1"; tar -x --no-same-owner -p -C "$1"', "sh", folder]
                argv = self._enter(entrances, unpack, None)
                done = subprocess.run(argv, stdin=archive, capture_output=True, check=False, timeout=120)
        if done.returncode != 0:
            raise OSError(f"pushing {source}: {done.stderr.decode(errors='replace').strip()}")

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
        """Call `predicate` until it returns something true, and return that.

        Raises:
            HostFailed: it did not within `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while True:
            if value := predicate():
                return value
            if time.monotonic() > end:
                raise HostFailed(f"not so within {timeout} s: {what or predicate}")
            time.sleep(0.01)

    def journal(self, unit: str | None = None) -> str:
        """The host's journal since it booted, or one unit's, with all that was logged before this call."""
        only = f" --unit {shlex.quote(unit)}" if unit else ""
        return self.run(f"journalctl --sync; journalctl --boot --no-pager --output short-precise{only}").stdout

    @contextlib.contextmanager
    def _entered(self) -> Iterator[tuple[Path | None, list[Path]]]:
        leaf, entrances = self._leaf(next(self._counter))
        try:
            yield leaf, entrances
        finally:
            if leaf is not None:
                with contextlib.suppress(OSError):  # the command left something running there: it goes with the host
                    leaf.rmdir()

    def _start(
        self,
        entrances: list[Path],
        command: str | Sequence[str],
        env: Mapping[str, str] | None,
        stdin: int | IO[Any] | None,
        stdout: int | IO[Any] | None,
        stderr: int | IO[Any] | None,
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self._enter(entrances, command, env),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="backslashreplace",
        )

    def _enter(self, entrances: list[Path], command: str | Sequence[str], env: Mapping[str, str] | None) -> list[str]:
        # sh enters the cgroup first: from inside the host's namespaces the way there has another name. Then it clears
        # the audit login uid, which would otherwise be that of the developer who runs the tests.
        names = [f"{name}={value}" for name, value in {**_ENVIRONMENT, **(env or {})}.items()]
        bounded = ["setpriv", f"--bounding-set={_lacking(self.leader)}", "env", "-i", *names, *_argv(command)]
        nsenter = ["nsenter", f"--target={self.leader}", *_NAMESPACES, "--", *bounded]
        return ["/bin/sh", "-euc", _ENTER, "sh", str(len(entrances)), *map(str, entrances), *nsenter]


def _lacking(leader: int) -> str:
    """The capabilities the host's PID 1 can never have, as setpriv(1) drops them.

    A command from outside must not have them either: by CAP_SYS_TIME, `date -s` there would set the machine's clock.
    """
    status = Path(f"/proc/{leader}/status").read_text()
    bounding = int(status.partition("CapBnd:")[2].split()[0], 16)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    # A capability of a newer kernel than the host's setpriv goes by number too.
    return ",".join(f"-cap_{number}" for number in range(last + 1) if not bounding >> number & 1) or "+cap_0"


def _argv(command: str | Sequence[str]) -> list[str]:
    return ["bash", "--noprofile", "--norc", "-c", command] if isinstance(command, str) else list(command)


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in Path(member.name).parts:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
