"""What one line of sshd's or sudo's says, and of whose tenant. Pure."""

import shlex
from collections.abc import Sequence

from agent.audit import AuditEvent, EventKind
from agent.expiry import story
from agent.expiry.kept_steps import may_say
from agent.expiry.live import LiveGrant
from agent.host import journald, sshd_log, sudo_log
from agent.host.journald import Entry

FORWARDS, SUDO = "forwards", "sudo"  # what is counted, each by itself
US = 1000  # nanoseconds
_RULE = "rule"  # in a step of sudo


def kinds_of(live: LiveGrant) -> dict[str, str]:
    """What of its tenants is logged, as its steps say; of ``forwards`` whether they must be seen (``required``)."""
    found: dict[str, str] = {}
    if not any(may_say(live.steps, name) for name in (FORWARDS, _RULE)):
        return found
    for _, step in live.steps:
        rule = step.data.get(_RULE)
        if step.enforcer == "ssh" and isinstance(asked := step.data.get(FORWARDS), str):
            found[FORWARDS] = asked
        if step.enforcer == "sudo" and isinstance(rule, dict) and rule.get("own") is True:
            found[SUDO] = "told"
    return found


def read(entry: Entry, followed: Sequence[LiveGrant]) -> tuple[LiveGrant, AuditEvent] | None:
    """The grant whose tenant did something, and what; None where it is nobody's of these, or no news."""
    return _sudo(entry, followed) if entry.get("SYSLOG_IDENTIFIER") == sudo_log.NAME else _forward(entry, followed)


def _whose(entry: Entry, followed: Sequence[LiveGrant], kind: str, programs: Sequence[str]) -> LiveGrant | None:
    """The grant of the tenant that these programs speak of: both log with the uid of whom they work for."""
    uid = journald.number(entry, "_UID")
    live = next((live for live in followed if uid in live.tenants and kind in kinds_of(live)), None)
    return live if live is not None and journald.is_by(entry, programs) else None


def _forward(entry: Entry, followed: Sequence[LiveGrant]) -> tuple[LiveGrant, AuditEvent] | None:
    """A connection that a tenant's sshd speaks of, and whose it is."""
    live = _whose(entry, followed, FORWARDS, sshd_log.NAMES)
    found = sshd_log.read(journald.message(entry)) if live is not None else None
    if live is None or found is None:
        return None
    detail: dict[str, object] = {"kind": found.kind, "host": found.host, "port": found.port, "origin": found.origin}
    detail |= {"words": found.words} if found.words else {}
    return live, _event(EventKind.CONNECTION_FORWARDED, live, entry, detail)


def _sudo(entry: Entry, followed: Sequence[LiveGrant]) -> tuple[LiveGrant, AuditEvent] | None:
    """A command that a tenant asked sudo for, and whose it is."""
    live = _whose(entry, followed, SUDO, (sudo_log.NAME,))
    found = sudo_log.read(journald.message(entry)) if live is not None else None
    if live is None or found is None or found.login != live.tenants[journald.number(entry, "_UID")]:
        return None
    detail: dict[str, object] = {"command": shlex.join(found.argv), "path": found.path, "run_as": found.run_as, "cwd": found.cwd}
    detail |= {"tty": found.tty, "why": found.reason}
    return live, _event(EventKind.PRIVILEGE_USED, live, entry, detail, ok=found.allowed)


def _event(kind: EventKind, live: LiveGrant, entry: Entry, detail: dict[str, object], *, ok: bool = True) -> AuditEvent:
    at_ns, session = journald.number(entry, "__REALTIME_TIMESTAMP") * US, str(entry.get("_SYSTEMD_SESSION", ""))
    return story.by_tenant(live, kind, at_ns, journald.number(entry, "_UID"), {**detail, "session": session}, ok=ok)
