"""What sudo logs of a command, read: its JSON event format, which a tenant's Defaults ask for (sudoers(5), ``log_format``). Pure.

The plain format can't be read back for sure: a folder's name may look like the rest of the line.
"""

import json
from dataclasses import dataclass

NAME = "sudo"
_COOKIE = "@cee:"


@dataclass(frozen=True, slots=True)
class Command:
    """``login`` asked to run ``argv`` (``path`` is the file) as ``run_as``, from ``cwd``; ``reason``: why it was refused."""

    login: str
    allowed: bool
    path: str = ""
    argv: tuple[str, ...] = ()
    run_as: str = ""
    cwd: str = ""
    tty: str = ""
    reason: str = ""


def read(message: str) -> Command | None:
    """One line of sudo's; None where it is about no command."""
    if not message.startswith(_COOKIE):
        return None
    try:
        value = json.loads(message.removeprefix(_COOKIE))
    except ValueError:
        return None
    said = value.get("sudo") if isinstance(value, dict) else None
    for verdict in ("accept", "reject"):
        found = said.get(verdict) if isinstance(said, dict) else None
        if isinstance(found, dict):
            argv = found.get("runargv")
            return Command(
                _text(found, "submituser"),
                verdict == "accept",
                _text(found, "command"),
                tuple(str(word) for word in argv) if isinstance(argv, list) else (),
                _text(found, "runuser"),
                _text(found, "submitcwd"),
                _text(found, "ttyname"),
                _text(found, "reason"),
            )
    return None


def _text(found: dict[str, object], name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""
