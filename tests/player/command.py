"""asciinema's own command on the test host, on a terminal of its own."""

import re
import subprocess
from dataclasses import dataclass

from tests.hosts.machine import Host
from tests.player.browser import AS_NOBODY
from tests.player.stage import FORMATS

# Run by the host's Python: the command on a new terminal, all that reached it, and the command's status.
_ON_A_TERMINAL = """
import os, pty, sys
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
try:
    while data := os.read(terminal, 65536):
        sys.stdout.buffer.write(data)
except OSError:  # nobody has the other end any more
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
_RAW = ("sh", "-c", 'stty raw; exec "$0" "$@"')  # for a program that writes bytes, terminal or not
# What a new one says itself: a line before and a line behind, and the first size in front of raw output.
_OWN = re.compile(r"\A::: Replaying session[^\n]*\r\n|\A\x1b\[8;[0-9]+;[0-9]+t|::: Playback ended\r\n\Z")
_QUICKLY = ("--speed", "1000", "--idle-time-limit", "0.01")


@dataclass(frozen=True)
class Asciinema:
    """One of its programs on the host. From 3.0 on it plays v3 too, and its ``cat`` is something else."""

    program: str
    version: str

    @property
    def formats(self) -> tuple[str, ...]:
        """The exports that it plays."""
        return FORMATS if self._new else FORMATS[:1]

    @property
    def _new(self) -> bool:
        return int(self.version.split()[-1].split(".")[0]) >= 3

    def played(self, host: Host, cast: str) -> dict[str, tuple[int, str]]:
        """Exit status and what reached the terminal: of ``play``, and of what prints all at once."""
        at_once = (
            [*_RAW, self.program, "convert", "--output-format", "raw", cast, "-"] if self._new else [self.program, "cat", cast]
        )
        found = {
            "play": _run(host, [self.program, "play", *_QUICKLY, cast]),
            "convert" if self._new else "cat": _run(host, at_once),
        }
        return {what: (status, _OWN.sub("", text) if self._new else text) for what, (status, text) in found.items()}


def asciinema(host: Host, program: str) -> Asciinema:
    """That program, asked what it is."""
    return Asciinema(program, host.run([program, "--version"]).stdout.strip())


def _run(host: Host, argv: list[str]) -> tuple[int, str]:
    environment = ["env", "HOME=/tmp", "TERM=xterm-256color", "LANG=C.UTF-8"]
    inside = host.shell_argv([*AS_NOBODY, *environment, "python3", "-c", _ON_A_TERMINAL, *argv])
    done = subprocess.run(inside, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)
    return done.returncode, done.stdout.decode(errors="replace")
