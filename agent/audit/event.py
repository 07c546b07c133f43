"""What can happen, as a frozen value. Pure: nothing here knows OCSF, journald or a disk."""

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
    GRANT_ENDED = "grant.ended"  # code: expired, revoked, failed, policy
    GRANT_SUSPENDED = "grant.suspended"
    GRANT_RESUMED = "grant.resumed"
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
    POLICY_LOADED = "policy.loaded"
    POLICY_REJECTED = "policy.rejected"
    RESIDUE_FOUND = "residue.found"
    TEARDOWN_LATE = "teardown.late"
    TEARDOWN_RETRY = "teardown.retry"
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

    A login is the step's data ``login`` or ``user``, else its target; groups are data ``group`` or ``groups``, else its target.
    One step that joins several groups is as many events.
    """
    events: list[AuditEvent] = []
    for step in steps:
        kinds = _STEP_KINDS.get((step.enforcer, step.action))
        if kinds is None:
            continue
        kind = kinds[1] if undone else kinds[0]
        login = _first_text(step, "login", "user") or step.target
        detail: dict[str, object] = {"enforcer": step.enforcer, "action": step.action, "summary": step.summary}
        event = replace(about, kind=kind, login=login, uid=(uids or {}).get(login, about.uid), detail=detail)
        if kind in {EventKind.GROUP_JOINED, EventKind.GROUP_LEFT}:
            events.extend(replace(event, detail={**detail, "group": group}) for group in _groups(step))
        elif kind in {EventKind.PRIVILEGE_GRANTED, EventKind.PRIVILEGE_REVOKED}:
            events.append(replace(event, detail={**detail, "privileges": _texts(step, "commands") or [step.summary]}))
        else:
            events.append(event)
    return tuple(events)


def _first_text(step: Step, *keys: str) -> str:
    found = (step.data.get(key) for key in keys)
    return next((value for value in found if isinstance(value, str) and value), "")


def _groups(step: Step) -> list[str]:
    one = _first_text(step, "group")
    return [one] if one else _texts(step, "groups") or [step.target]


def _texts(step: Step, key: str) -> list[str]:
    value = step.data.get(key)
    if not isinstance(value, list):
        return []
    return [" ".join(str(word) for word in item) if isinstance(item, list) else str(item) for item in value]
