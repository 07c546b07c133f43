"""What this host's own sshd and sudo say when asked: would this credential do, what may this login run. Changes nothing."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from agent.errors import HostError
from agent.host.contract import Reader

ACCEPTED, REFUSED, NOT_ASKED = "accepted", "refused", "not asked"
_ASKER = Path(__file__).with_name("asker.py")  # run, never imported: paramiko would stay in the daemon's memory
_ANSWERS = frozenset({ACCEPTED, REFUSED, NOT_ASKED})
_START_S = 2.0  # the asker's own start and one sshd, on a busy host
_EACH_S = 0.1
_MOST_S = 3.0
_SUDO_S = 2.0


@dataclass(frozen=True, slots=True)
class Question:
    """Whether sshd takes this ``credential`` for ``login``: a ``key`` (``type base64``) or a certificate's ``principal``."""

    kind: str
    login: str
    credential: str


@dataclass(frozen=True, slots=True)
class Answer:
    """``answer``: ``accepted``, ``refused`` or ``not asked``; ``why`` is sshd's word or ours, one line, may be empty."""

    answer: str
    why: str = ""
    ms: int = 0


@dataclass(frozen=True, slots=True)
class Right:
    """One command that sudo allows. ``command`` is as sudoers has it, without its backslashes; ``not_after`` its UTC stamp."""

    run_as: tuple[str, ...]
    command: str
    not_after: str = ""
    timeout_s: int | None = None

    def __str__(self) -> str:
        """For a person: ``(root) /usr/bin/id``."""
        return f"({', '.join(self.run_as)}) {self.command}"


class Asker(Protocol):
    """Asks the host. Never raises: what can't be asked is said in the answer."""

    def sshd(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order."""

    def sudo(self, login: str) -> "tuple[Right, ...] | Answer":
        """All that sudo lets the login run on this host, or why it can't be asked."""


class HostAsker:
    """Asks the real one: :mod:`agent.host.asker` for sshd, ``sudo -ll -U`` for sudo."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def sshd(self, questions: Sequence[Question]) -> list[Answer]:
        """See Asker. At most 2 s and 0.1 s for each question, 3 s in all; 25 ms each where the host is idle."""
        if not questions:
            return []
        try:
            return self._sshd(questions)
        except (HostError, OSError, ValueError, LookupError, TypeError) as error:
            return [Answer(NOT_ASKED, f"sshd could not be asked: {error}"[:200])] * len(questions)

    def _sshd(self, questions: Sequence[Question]) -> list[Answer]:
        sshd, paths = self._reader.tool("sshd"), self._reader.config.paths
        if sshd is None:
            return [Answer(NOT_ASKED, "no sshd")] * len(questions)
        most_s = min(_MOST_S, _START_S + _EACH_S * len(questions))
        asked = {
            "sshd": str(sshd),
            "config": str(paths.sshd_config),
            "folder": str(paths.run_dir),
            "most_s": most_s,
            "questions": [{"kind": each.kind, "login": each.login, "credential": each.credential} for each in questions],
        }
        argv = [sys.executable, "-I", str(_ASKER)]
        result = self._reader.check(argv, stdin=json.dumps(asked).encode(), timeout_s=most_s + _START_S)
        if not result.ok:
            said = (result.stderr.strip().splitlines() or ["no output"])[-1]
            return [Answer(NOT_ASKED, f"the asker failed: {said[:160]}")] * len(questions)
        found = [Answer(str(each["answer"]), str(each["why"]), int(each["ms"])) for each in json.loads(result.stdout)]
        if len(found) != len(questions) or not {each.answer for each in found} <= _ANSWERS:
            raise ValueError("its answers are no answers to these questions")
        return found

    def sudo(self, login: str) -> tuple[Right, ...] | Answer:
        """See Asker. ``sudo -n -ll -U`` as root, which neither asks for a password nor runs anything; at most 2 s."""
        if self._reader.tool("sudo") is None:
            return Answer(NOT_ASKED, "no sudo")
        begun = time.monotonic()
        try:
            result = self._reader.check(["sudo", "-n", "-ll", "-U", login], timeout_s=_SUDO_S)
        except HostError as error:
            return Answer(NOT_ASKED, error.reason[:200], round((time.monotonic() - begun) * 1000))
        rights = parse_rights(result.stdout)
        if rights is None:
            said = (result.stderr.strip().splitlines() or ["it does not list rights one by one"])[-1]
            return Answer(NOT_ASKED, said[:200], round((time.monotonic() - begun) * 1000))
        return rights


def parse_rights(listing: str) -> tuple[Right, ...] | None:
    """``sudo -ll`` → rights, in its order; None when this is no such list. Pure.

    An entry is headed ``Sudoers entry:`` and has ``Name: value`` lines; its commands stand one a line behind a tab. sudo wraps
    at 80 columns, with eight blanks before what goes on.
    """
    lines = list(_unwrapped(listing))
    at = next((i for i, line in enumerate(lines) if line.startswith("User ")), None)
    if at is None:
        return None
    if " is not allowed to run sudo " in f"{lines[at]} ":
        return ()
    if "may run the following" not in lines[at]:
        return None
    found: list[Right] = []
    entry = Right(("root",), "")
    in_entry = False
    for line in lines[at + 1 :]:
        name, _, value = line.strip().partition(":")
        if line.startswith("\t"):
            found.append(replace(entry, command=line.strip().replace("\\", "")))
        elif line.startswith(("Sudoers entry", "LDAP Role", "SSSD Role")):
            entry, in_entry = Right(("root",), ""), True
        elif not in_entry and line.strip():
            return None  # the short form, which a sudo without the long one prints
        elif name == "RunAsUsers":
            entry = replace(entry, run_as=tuple(part.strip() for part in value.split(",")))
        elif name == "NotAfter":
            entry = replace(entry, not_after=value.strip())
        elif name == "Timeout" and value.strip().isdigit():
            entry = replace(entry, timeout_s=int(value))
    return tuple(found)


def _unwrapped(listing: str) -> Iterator[str]:
    whole: str | None = None
    for line in listing.splitlines():
        if line.startswith("        ") and whole is not None:
            whole = f"{whole} {line.strip()}"
            continue
        if whole is not None:
            yield whole
        whole = line
    if whole is not None:
        yield whole
