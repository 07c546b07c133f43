"""What can happen, as a frozen value. Pure: nothing here knows OCSF, journald or a disk."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from agent.model import Step


class EventKind(StrEnum):
    """Every kind of event. The names are a contract: journald fields, OCSF lines and alerts use them."""

    AGENT_STARTED = "agent.started"
    AGENT_STOPPED = "agent.stopped"
    GRANT_ACCEPTED = "grant.accepted"
    GRANT_REFUSED = "grant.refused"
    GRANT_OPENED = "grant.opened"
    GRANT_FAILED = "grant.failed"
    GRANT_ENDED = "grant.ended"  # code: expired, revoked, failed, policy, superseded
    GRANT_SUSPENDED = "grant.suspended"
    GRANT_RESUMED = "grant.resumed"
    GRANT_DRAINING = "grant.draining"  # revoked with time to leave: no new login
    REVOCATION_TAKEN = "revocation.taken"  # a control plane's; detail: format, value, issuers, revoked
    ACCOUNT_CREATED = "account.created"
    ACCOUNT_DELETED = "account.deleted"
    GROUP_JOINED = "group.joined"
    GROUP_LEFT = "group.left"
    PRIVILEGE_GRANTED = "privilege.granted"
    PRIVILEGE_REVOKED = "privilege.revoked"
    SESSION_OPENED = "session.opened"
    SESSION_CLOSED = "session.closed"
    SESSION_SEVERED = "session.severed"  # processes killed; detail: killed (how many), pids
    PROCESS_LAUNCHED = "process.launched"
    PROCESS_UNSEEN = "process.unseen"  # the kernel told less of what tenants ran than there was; detail: why, count
    CONNECTION_FORWARDED = "connection.forwarded"  # detail: kind (local, listen, remote), host, port, origin, session
    PRIVILEGE_USED = "privilege.used"  # a command by sudo; detail: command, path, run_as, cwd, tty, why (where it was refused)
    LOG_UNSEEN = "log.unseen"  # of sshd's and sudo's words some may have been lost; detail: why
    POLICY_LOADED = "policy.loaded"
    POLICY_REJECTED = "policy.rejected"
    RESIDUE_FOUND = "residue.found"
    TEARDOWN_LATE = "teardown.late"
    TEARDOWN_RETRY = "teardown.retry"
    PROOF_FAILED = "proof.failed"  # sshd or sudo says otherwise than it must; detail: moment, troubles
    AUDIT_LOST = "audit.lost"  # events never reached the disk; detail: count, first_sequence, last_sequence
    AUDIT_DROPPED = "audit.dropped"  # the oldest events were deleted to keep the bound; detail: count, bytes, file
    OUTBOX_DROPPED = "outbox.dropped"  # an answer or a receipt was deleted to keep the bound; detail: kind, file


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that happened. ``at_ns`` is wall clock, nanoseconds since the epoch; empty strings mean: not known.

    ``iss`` and ``sub`` are the grant's, ``login`` and ``uid`` the local account's. ``code`` is stable and machine-readable,
    ``reason`` one line for a person. ``detail`` is JSON (strings, integers, booleans, lists, objects).
    """

    kind: EventKind
    at_ns: int
    jti: str = ""
    iss: str = ""
    sub: str = ""
    login: str = ""
    uid: int | None = None
    code: str = ""
    reason: str = ""
    ticket: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)
    ok: bool = True


# (enforcer, action) of a step → what applying and what undoing it is called. A step that is not here changes how someone
# gets in (keys, principals, locks, homes), which grant.opened and grant.ended already tell.
_STEP_KINDS: Mapping[tuple[str, str], tuple[EventKind, EventKind]] = {
    ("account", "create"): (EventKind.ACCOUNT_CREATED, EventKind.ACCOUNT_DELETED),
    ("account", "membership"): (EventKind.GROUP_JOINED, EventKind.GROUP_LEFT),
    ("group", "membership"): (EventKind.GROUP_JOINED, EventKind.GROUP_LEFT),
    ("sudo", "rule"): (EventKind.PRIVILEGE_GRANTED, EventKind.PRIVILEGE_REVOKED),
}


def events_of_steps(
    steps: Sequence[Step], undone: bool, *, about: AuditEvent, uids: Mapping[str, int] | None = None
) -> tuple[AuditEvent, ...]:
    """Account, group and privilege events of steps that were applied, or undone, in the order given; pure.

    Args:
        about: whose steps these are: time, grant, issuer, subject, ticket and ``ok`` are taken from it.
        uids: UID of each login the grant makes.

    A login is a step's data ``name`` (a sudo rule's ``login``), a group its data ``group``; each falls back on the target.
    """
    events: list[AuditEvent] = []
    for step in steps:
        kinds = _STEP_KINDS.get((step.enforcer, step.action))
        if kinds is None:
            continue
        rule = step.data.get("rule")
        facts: Mapping[str, object] = {**(rule if isinstance(rule, dict) else {}), **step.data}
        login = _text(facts, "name") or _text(facts, "login") or step.target
        detail: dict[str, object] = {"enforcer": step.enforcer, "action": step.action, "summary": step.summary}
        if step.action == "membership":
            detail["group"] = _text(facts, "group") or step.target
        elif step.action == "rule":
            detail["privileges"] = _commands(facts) or [step.summary]
            detail["run_as"] = facts.get("run_as")
        uid = (uids or {}).get(login, about.uid)
        events.append(replace(about, kind=kinds[1] if undone else kinds[0], login=login, uid=uid, detail=detail))
    return tuple(events)


def _text(facts: Mapping[str, object], key: str) -> str:
    value = facts.get(key)
    return value if isinstance(value, str) else ""


def _commands(facts: Mapping[str, object]) -> list[str]:
    """Each command's words as one text, quoted as a shell would need them."""
    value = facts.get("commands")
    listed = value if isinstance(value, list) else []
    return [shlex.join(str(word) for word in words) if isinstance(words, list) else str(words) for words in listed]
