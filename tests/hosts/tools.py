"""Running programs on the machine that carries the hosts, and installing the few that are missing there."""

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.errors import BuildFailed, HostUnavailable

# A fixed PATH: sbin is missing from the PATH of many login shells, and everything needed here lives there.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Before an argv: the kernel kills that process when its parent ends, so that no orphan outlives a killed run.
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
_HEARTBEAT_S = 5.0

# program -> the Debian package that brings it
PACKAGES = {
    "cc": "build-essential",
    "cvtsudoers": "sudo",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "git": "git",
    "nsenter": "util-linux",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "sudo": "sudo",
    "systemd-nspawn": "systemd-container",
}


def environment() -> dict[str, str]:
    """The environment for the test bed's programs: nothing of the caller's but what names a proxy for downloads."""
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **kept}


def apt_proxy() -> dict[str, str]:
    """The proxy this machine's apt is told to use, in the form debootstrap understands."""
    told = run(["apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy"], check=False).strip()
    return {"http_proxy": told} if told and told != "DIRECT" else {}


def which(program: str) -> str | None:
    """The absolute path of `program`, or None."""
    return shutil.which(program, path=PATH)


def run(argv: Sequence[str], timeout: float = 30.0, stdin: str | None = None, check: bool = True) -> str:
    """Run `argv` to its end and return its stdout.

    Raises:
        subprocess.CalledProcessError: it failed (its stderr is in the exception's notes).
        subprocess.TimeoutExpired: it took longer than `timeout` seconds.
    """
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False, env=environment())
    if check and done.returncode != 0:
        failure = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
        failure.add_note(done.stderr.strip())
        raise failure
    return done.stdout


class Progress:
    """Lines on stderr that say what is being done and since how many seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started = time.monotonic()

    def say(self, what: str) -> None:
        """Print one line: elapsed seconds, title, `what`."""
        elapsed = time.monotonic() - self._started
        print(f"[{elapsed:5.1f} s] {self._title}: {what}", file=sys.stderr, flush=True)

    def run(self, step: str, argv: Sequence[str], stdin: str | None = None, orphan: bool = False) -> None:
        """Run `argv`, saying every few seconds how far it is by its own last line of output.

        It is killed when this process ends, unless `orphan` is set: dpkg on the machine itself must not be cut short.

        Raises:
            BuildFailed: it failed; the last lines it printed are in the message.
        """
        self.say(step)
        tail: deque[str] = deque(maxlen=15)
        with subprocess.Popen(
            argv if orphan else [*DIE_WITH_PARENT, *argv],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**apt_proxy(), **environment()},
        ) as process:
            if stdin is not None and process.stdin is not None:
                process.stdin.write(stdin)
                process.stdin.close()
            spoke = time.monotonic()
            for line in process.stdout or ():
                tail.append(line.rstrip())
                if time.monotonic() - spoke > _HEARTBEAT_S and line.strip():
                    spoke = time.monotonic()
                    self.say(f"{step}: {line.strip()[:100]}")
        if process.returncode != 0:
            last = tail[-1].strip() if tail else "it printed nothing"
            raise BuildFailed(f"{step} failed with status {process.returncode}: {last}\n" + "\n".join(tail))


def need(*programs: str) -> None:
    """Install what is missing of `programs` with apt-get, saying so on stderr.

    Raises:
        HostUnavailable: one is missing and cannot be installed here.
    """
    missing = sorted({PACKAGES[program] for program in programs if which(program) is None})
    if not missing:
        return
    if os.geteuid() != 0 or which("apt-get") is None:
        raise HostUnavailable(f"missing here, and not installable (needs root and apt-get): {', '.join(missing)}")
    progress = Progress("test hosts")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    title = f"installing {' '.join(missing)} on this machine"
    try:
        with _no_daemons():
            try:
                progress.run(title, install, orphan=True)
            except BuildFailed:
                progress.run("refreshing this machine's package lists", ["apt-get", "update"], orphan=True)
                progress.run(title, install, orphan=True)
    except BuildFailed as failure:
        reason = str(failure).splitlines()[0]
        raise HostUnavailable(reason) from failure


@contextmanager
def _no_daemons() -> Iterator[None]:
    """Keep apt-get from starting daemons (an sshd, say) on a machine where only the program is wanted."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    # Should this process be killed, what it leaves there forbids nothing any more.
    policy.write_text(f"#!/bin/sh\nif kill -0 {os.getpid()} 2>/dev/null; then exit 101; fi\nexit 0\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def wait_until(ready: Callable[[], bool], timeout: float, step: float = 0.005) -> bool:
    """Call `ready` every `step` seconds until it is true (True) or `timeout` seconds have gone (False)."""
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(step)
    return True
