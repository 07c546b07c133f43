"""The ways in which a case is played: a plain session, and a dialogue on a real terminal."""

import contextlib
import hashlib
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tests.sessions.bed import Person
from tests.sessions.case import Case, Normal, Outcome, after_go, chain

Typed: TypeAlias = bytes | tuple[int, int] | float  # keys, or a new size (columns, rows), or seconds to wait
Step: TypeAlias = tuple[bytes, Typed]  # a pattern that has to appear first ("" is at once), and what is done then
_STEP_S, _LARGE_S = 20.0, 240.0


def session(
    name: str,
    command: str | None,
    stdin: bytes | None = b"",
    options: Sequence[str] = (),
    normal: Normal = bytes,
    slow: bool = False,
) -> Case:
    """A session without a terminal: status, stdout and stderr must be the same."""

    def play(person: Person) -> Outcome:
        done = person.ssh(command, stdin, options=options)
        return {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    return Case(name, play, normal, slow)


def terminal(
    name: str,
    command: str | None,
    *steps: Step,
    size: tuple[int, int] = (80, 24),
    options: Sequence[str] = ("-t",),
    normal: Normal = bytes,
    large: bool = False,
) -> Case:
    """A session on a terminal of its own here, and a dialogue. A command starts by saying ``GO``: bytes count from there on.

    Of a ``large`` one size and hash are kept, and it is given four minutes.
    """
    whole = None if command is None else f"printf '<''GO>'; {command}"

    def play(person: Person) -> Outcome:
        found = Terminal(person.argv(whole, options), person, size).play(steps, _LARGE_S if large else _STEP_S)
        if large and isinstance(screen := found["screen"], bytes):
            data = after_go(screen)
            found["screen"] = f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()}"
        return found

    return Case(name, play, chain(after_go, normal), large)


class Terminal:
    """A client program on a pseudo-terminal of this machine."""

    def __init__(self, argv: Sequence[str], person: Person, size: tuple[int, int]) -> None:
        self.seen = bytearray()
        self._at = 0
        self._master, slave = pty.openpty()
        self.resize(*size)
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", *argv], stdin=slave, stdout=slave, stderr=slave, env=person.environment(), cwd=person.folder
            )
        finally:
            os.close(slave)

    def resize(self, columns: int, rows: int) -> None:
        """As the user drags a window's corner; ssh is told by SIGWINCH."""
        termios.tcsetwinsize(self._master, (rows, columns))

    def play(self, steps: Sequence[Step], patience: float) -> Outcome:
        """Do every step, wait for the end; what was seen."""
        trouble = b""
        try:
            for pattern, typed in steps:
                if not self._wait_for(pattern):
                    trouble = b"never seen: " + pattern
                    break
                if isinstance(typed, bytes):
                    self._type(typed)
                elif isinstance(typed, float):
                    self._read_until(lambda: False, typed)
                else:
                    self.resize(*typed)
            self._read_until(lambda: self.process.poll() is not None, patience)
            self._read_until(lambda: False, 0.05)
        finally:
            status = self._end()
        if not isinstance(status, int):
            trouble = trouble or b"it never ended"
        screen = bytes(self.seen)
        return {"status": status, "screen": screen, "trouble": trouble, **({"all": screen[-500:]} if trouble else {})}

    def _type(self, keys: bytes) -> None:
        while keys:
            keys = keys[os.write(self._master, keys) :]

    def _wait_for(self, pattern: bytes) -> bool:
        if not pattern:
            return True
        compiled = re.compile(pattern, re.DOTALL)

        def there() -> bool:
            found = compiled.search(self.seen, self._at)
            if found:
                self._at = found.end()
            return found is not None

        return self._read_until(there, _STEP_S)

    def _read_until(self, ready: Callable[[], bool], seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while not ready():
            left = ends - time.monotonic()
            if left <= 0:
                return False
            if select.select([self._master], [], [], min(left, 0.05))[0]:
                try:
                    self.seen += os.read(self._master, 1 << 20)
                except OSError:  # nobody has the other end any more
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(max(left, 0.1))
                    return ready()
        return True

    def _end(self) -> object:
        status: object = self.process.poll()
        if status is None:
            status = "still running, killed"
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._master)
        return status
