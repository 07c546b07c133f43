"""What the rows about recorded sessions stand on: a tenant that is recorded, one that is not, ordinary users, on one host."""

import contextlib
import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence

from benchmarks.frame.row import OURS, Absent, Run
from benchmarks.ground import note_versions
from benchmarks.peers import log_server, recorders
from tests.hosts.errors import HostError
from tests.sessions.bed import Bed, Person, booted, person

PLAIN, TLOG, SSHD, SUDO = "plain", "tlog", "sshd", "sudo"
WAYS = {
    OURS: "Tidegate, recorded",
    PLAIN: "Tidegate, not recorded",
    SSHD: "plain sshd",
    TLOG: "tlog as login shell",
    SUDO: "sudo, to its own log server",
}
BY_SCRIPT = "script -q /dev/null -c \"sh -c 'echo ready; cat >/dev/null'\" #"  # around what :func:`typing` runs
TLOG_SHELL = "/usr/bin/tlog-rec-session"
_READY_S = 20.0


@contextlib.contextmanager
def bed(run: Run) -> Iterator[tuple[Bed, dict[str, Person]]]:
    """The host, and who stands for each way; tlog's user where Debian's package is to be had."""
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(booted(packages=("git", *recorders.PACKAGES)))
        except HostError as error:
            host = stack.enter_context(booted())
            run.leave_out(TLOG, error)
        note_versions(run, host.host, recorders.PACKAGES if TLOG not in run.absent else ())
        people = {OURS: host.recorded, PLAIN: host.plain, SSHD: ordinary(host, "bob", "/bin/bash")}
        if TLOG not in run.absent:
            people[TLOG] = ordinary(host, "tom", TLOG_SHELL)
        yield host, people


def ordinary(host: Bed, login: str, shell: str) -> Person:
    """An account as useradd makes it, with the same key in its own authorized_keys."""
    known = host.plain
    public = known.key.with_suffix(".pub").read_text()
    script = f"useradd -m -s {shell} {login}; install -d -o {login} -m 700 ~{login}/.ssh; cat > ~{login}/.ssh/authorized_keys"
    host.host.run(script, input=public)
    return person(host.host, login, known.key, known.folder.parent)


def by_sudo(host: Bed) -> Person:
    """Whose commands, run by sudo, go to its own log server. Raises Absent."""
    log_server.start(host.host)
    return ordinary(host, log_server.LOGIN, "/bin/bash")


def copy_on(host: Bed) -> str:
    """The bare copy's path on the host. Raises Absent."""
    folder = host.plain.fresh()
    program = recorders.copy_in_c(folder)
    there = f"/usr/local/bin/{program.name}"
    shutil.copy(program, f"/proc/{host.host.leader}/root{there}")
    return there


@contextlib.contextmanager
def typing(someone: Person, around: str = "", options: Sequence[str] = ("-tt",)) -> Iterator[int]:
    """A terminal with an ssh client on it, that stands in ``cat``; ``around`` is a program between the two.

    Raises:
        Absent: it did not get there.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    client = subprocess.Popen(
        someone.argv(f"{around} sh -c 'echo ready; cat > /dev/null'", options),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=someone.environment(),
    )
    os.close(slave)
    try:
        shown = b""
        while b"ready\r" not in shown:
            if not select.select([master], [], [], _READY_S)[0]:
                raise Absent(f"no session: {shown[-200:]!r}")
            shown += os.read(master, 4096)
        settle(master)
        yield master
    finally:
        client.terminate()
        client.wait()
        os.close(master)


def settle(master: int) -> None:
    """Read on until it is quiet."""
    while select.select([master], [], [], 0.3)[0]:
        os.read(master, 4096)
