"""Following this host's journal with journalctl(1), and knowing that nothing which was logged by now is still to come."""

import contextlib
import itertools
import json
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from agent.errors import HostError
from agent.host.command import ENVIRONMENT, find_tool
from agent.host.contract import Reader

log = logging.getLogger("tidegate")
SYSLOG = Path("/run/systemd/journal/dev-log")  # where /dev/log leads; sshd's lines come this way, and so do our marks
SUPPRESSED = "a596d6fe7bfa4994828e72309e95d61e"  # MESSAGE_ID: journald dropped lines of a unit that logged too much
_MARK = "tidegate-mark"
_DEBUG = 15  # facility user, priority debug (syslog(3)): what journald does not keep at that level must not pass for quiet
_CHUNK = 1 << 16
_LINE_MAX = 1 << 20
_END_S = 5.0
_US = 1_000_000
_AGAIN_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.25)  # then as the last

Entry = Mapping[str, object]


def why_not(reader: Reader) -> str:
    """Why there is no journal to follow here; empty when there is one."""
    if not reader.exists(SYSLOG):
        return "systemd-journald does not run"
    return "" if reader.tool("journalctl") is not None else "there is no journalctl"


class Tail:
    """One journalctl at work. ``hear`` is given entries (systemd.journal-fields(7)) in the one thread of ``threads``; ``gone`` is
    called there when it ended without being told to.

    ``identifiers``: whose syslog lines (and journald's own words of lines it dropped). ``after``: the cursor of the last entry
    that was heard; ``@`` and microseconds since the epoch: from then on, whenever journalctl has begun; empty: from when it has.
    """

    def __init__(
        self,
        identifiers: Sequence[str],
        hear: Callable[[Sequence[Entry]], None],
        gone: Callable[[], None],
        threads: Executor,
        *,
        after: str = "",
    ) -> None:
        """Raises HostError ``tool_missing``, ``tool_failed``."""
        path = find_tool("journalctl")
        if path is None:
            raise HostError("tool_missing", "journalctl is not on this host")
        start = start_of(after)
        lines = ["_TRANSPORT=syslog", *(f"SYSLOG_IDENTIFIER={name}" for name in identifiers)]
        ours = ["_UID=0", f"SYSLOG_IDENTIFIER={_MARK}"]
        fields = "--output-fields=MESSAGE,MESSAGE_ID,SYSLOG_IDENTIFIER,_UID,_EXE,_SYSTEMD_SESSION"
        argv = [str(path), "--follow", "--quiet", "--output=json", "--all", fields, *start]
        argv += [*lines, "+", *ours, "+", f"MESSAGE_ID={SUPPRESSED}"]
        self._hear, self._gone, self._stopping = hear, gone, False
        self._marks: dict[str, tuple[threading.Event, list[str]]] = {}
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(ENVIRONMENT),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise HostError("tool_failed", f"journalctl could not be started: {error}") from error
        self._listening = threads.submit(self._listen)

    def mark(self, timeout_s: float) -> str | None:
        """Wait until all that was logged before this call has been heard; the cursor of that moment, None if it did not come.

        The mark goes the way that sshd's lines go, so it overtakes none of them. It is set again until it is heard: one that
        was set before journalctl had found the end of the journal is behind that.
        """
        nonce, heard, cursor = secrets.token_hex(8), threading.Event(), list[str]()
        self._marks[nonce] = heard, cursor
        until = time.monotonic() + timeout_s
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(timeout_s)
                for number in itertools.count():
                    out.sendto(f"<{_DEBUG}>{_MARK}: {nonce}".encode(), str(SYSLOG))
                    pause = _AGAIN_S[min(number, len(_AGAIN_S) - 1)]
                    if heard.wait(pause) or time.monotonic() > until or self._process.returncode is not None:
                        break
        except OSError as error:
            log.warning("%s: %s", SYSLOG, error.strerror or error)
        finally:
            self._marks.pop(nonce, None)
        return cursor[0] if cursor else None

    def stop(self) -> None:
        """End it; what was not heard yet is not heard. Not to be called where it hears."""
        self._stopping = True
        self._process.terminate()
        with contextlib.suppress(TimeoutError):
            self._listening.result(_END_S)

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  (asked for above)
        rest = b""
        try:
            with self._process.stdout as out:
                while data := os.read(out.fileno(), _CHUNK):
                    *lines, rest = (rest + data).split(b"\n")
                    rest = rest if len(rest) < _LINE_MAX else b""
                    self._heard([entry for line in lines if (entry := _entry(line)) is not None])
        except Exception:
            log.exception("what journalctl says can't be read")
        self._process.kill()
        self._process.wait()
        for heard, _ in list(self._marks.values()):
            heard.set()
        if not self._stopping:
            self._gone()

    def _heard(self, entries: Sequence[Entry]) -> None:
        if found := [entry for entry in entries if entry.get("SYSLOG_IDENTIFIER") != _MARK]:
            self._hear(found)
        for entry in entries:
            waiting = self._marks.get(str(entry.get("MESSAGE"))) if entry.get("SYSLOG_IDENTIFIER") == _MARK else None
            if waiting is not None:
                waiting[1].append(str(entry.get("__CURSOR", "")))
                waiting[0].set()


def start_of(after: str) -> list[str]:
    """A place of :class:`Tail` as options of journalctl(1)."""
    if after.startswith("@"):
        at_us = int(after[1:])
        return [f"--since=@{at_us // _US}.{at_us % _US:06d}", "--no-tail"]  # systemd.time(7)
    return [f"--after-cursor={after}", "--no-tail"] if after else ["--lines=0"]


def is_by(entry: Entry, names: Sequence[str]) -> bool:
    """Not another program's words under its name. One that was gone before journald looked counts: better one too many."""
    program = entry.get("_EXE")
    return not isinstance(program, str) or (program.startswith("/usr/") and program.rpartition("/")[2] in names)


def message(entry: Entry) -> str:
    """Its text; journalctl shows what is no UTF-8 as a list of bytes."""
    value = entry.get("MESSAGE")
    if isinstance(value, list):
        return bytes(each for each in value if isinstance(each, int) and 0 <= each < 256).decode(errors="replace")
    return value if isinstance(value, str) else ""


def number(entry: Entry, name: str) -> int:
    """A field that is a whole number; -1 where it is none."""
    value = str(entry.get(name, ""))
    return int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1


def _entry(line: bytes) -> Entry | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
