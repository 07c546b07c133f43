"""asciinema's own command on the test host, on a terminal of its own."""

import subprocess

from tests.hosts.machine import Host
from tests.player.browser import AS_NOBODY

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
_QUICKLY = ("--speed", "1000", "--idle-time-limit", "0.01")


def version(host: Host, program: str) -> str:
    """What it says it is."""
    return host.run([program, "--version"]).stdout.strip()


def played(host: Host, cast: str, program: str) -> dict[str, tuple[int, str]]:
    """Exit status and what reached the terminal, of ``play`` and of ``cat``."""
    return {name: _run(host, [program, name, *options, cast]) for name, options in (("play", _QUICKLY), ("cat", ()))}


def _run(host: Host, argv: list[str]) -> tuple[int, str]:
    environment = ["env", "HOME=/tmp", "TERM=xterm-256color", "LANG=C.UTF-8"]
    inside = host.shell_argv([*AS_NOBODY, *environment, "python3", "-c", _ON_A_TERMINAL, *argv])
    done = subprocess.run(inside, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120)
    return done.returncode, done.stdout.decode(errors="replace")
