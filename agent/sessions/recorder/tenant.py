"""Whose session it is: the tenant file that tidegated keeps for each login of a live grant."""

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.model.text import one_line

_FILE_MAX = 65536
_REASON_MAX = 200


class NotRecorded(Exception):  # noqa: N818  (an answer, no error of the program's)
    """Why this user's session is not recorded here, for the user to read."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """``limit``: bytes recorded of each stream without a terminal. ``expires``: seconds since the epoch, 0 if not said."""

    login: str
    uid: int
    jti: str
    sub: str
    expires: int
    reason: str
    ticket: str
    required: bool
    input: bool
    limit: int
    pause_s: float

    def banner(self, now: float) -> str:
        """What the tenant is told: until when, that it is recorded, and why it is open. Printable; lines end with a line feed."""
        until = ""
        if self.expires:
            left = max(0, int(self.expires - now))
            span = (
                f"{left // 3600} h {left % 3600 // 60} min" if left >= 3600 else f"{left // 60} min" if left >= 120 else f"{left} s"
            )
            until = f"access until {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(self.expires))} UTC ({span} left); "
        why = ", ".join(one_line(text, _REASON_MAX) for text in (self.reason, self.ticket) if text)
        return f"tidegate: {until}this session is recorded\n" + (f"tidegate: reason: {why}\n" if why else "")


def find(uid: int, folder: Path, login_of: Callable[[int], str], owner: int = 0) -> Tenant:
    """The tenant file of a uid, read as tidegate-shell reads it. Raises NotRecorded."""
    try:
        login = login_of(uid)
    except KeyError:
        raise NotRecorded("this account is being removed") from None
    return parse(_read(folder / f"{login}.json", owner), login, uid)


def parse(data: bytes, login: str, uid: int) -> Tenant:
    """Raises NotRecorded where it is another's, asks for no recording, or is malformed."""
    try:
        value = json.loads(data.decode("ascii"))
        recording = value["recording"]
        grant = _members(value.get("grant"))
        if value["login"] != login or value["uid"] != uid:
            raise NotRecorded("the tenant file is not this account's")
        pause = _number(recording.get("pause_s", 0)) if recording.get("on_failure") == "pause" else 0
        return Tenant(
            login=login,
            uid=uid,
            jti=_text(grant.get("jti")),
            sub=_text(grant.get("sub")),
            expires=int(_number(grant.get("exp", 0))),
            reason=_text(grant.get("reason")),
            ticket=_text(grant.get("ticket")),
            required=recording.get("required") is not False,
            input=recording.get("input") is True,
            limit=int(_number(recording.get("limit", 0))),
            pause_s=pause,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NotRecorded("no recording is asked for this account, or its tenant file is malformed") from None


def _members(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise ValueError("not a number in range")
    return value


def _read(path: Path, owner: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise NotRecorded("no grant is open for this account") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != owner or found.st_mode & 0o022:
            raise NotRecorded("the tenant file is not root's alone")
        return os.read(fd, _FILE_MAX)
    finally:
        os.close(fd)
