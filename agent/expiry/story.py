"""What happened to a live grant, as audit events. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.audit import AuditEvent, EventKind, events_of_steps
from agent.expiry import receipt, recordings
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.model import Step
from agent.model.text import one_line

RESIDUE_TOLD = 50  # of what is left, in one event; the receipt has more
LATE_MS = 1000  # past this an end is told as late, beside the receipt that says it to the millisecond


def event(live: LiveGrant, kind: EventKind, at_ns: int, *, ok: bool = True, **more: object) -> AuditEvent:
    """One event about a grant; ``more`` goes into its detail."""
    record = live.record
    login = record.logins[0] if record.logins else ""
    return AuditEvent(
        kind,
        at_ns,
        jti=record.jti,
        iss=record.iss,
        sub=record.sub,
        login=login,
        uid=live.uids.get(login),
        code=live.cause.value if live.cause else "",
        reason=one_line(live.cause_text) or record.reason,
        ticket=record.ticket,
        ok=ok,
        detail={"access": record.summary, "rule": record.rule, **more},
    )


def by_tenant(
    live: LiveGrant, kind: EventKind, at_ns: int, uid: int | None, detail: Mapping[str, object], *, ok: bool
) -> AuditEvent:
    """One thing that an account of the grant did itself."""
    record = live.record
    return AuditEvent(
        kind,
        at_ns,
        jti=record.jti,
        iss=record.iss,
        sub=record.sub,
        login=live.tenants.get(uid, "") if uid is not None else "",
        uid=uid,
        ticket=record.ticket,
        detail=detail,
        ok=ok,
    )


def mend(live: LiveGrant) -> str:
    """What a person can do about a grant that is not over."""
    return f"it is tried again by itself; once what is in its way is mended, `tidegate revoke {live.record.jti}` tries at once"


def opened(live: LiveGrant, at_ns: int, steps: Sequence[Step] | None = None, *, took_ns: int | None = None) -> list[AuditEvent]:
    """Access stands: the grant, and each account, membership and privilege it made, or of these ``steps`` alone.

    ``took_ns``: from its first backstop to its last step.
    """
    took: dict[str, Any] = {} if took_ns is None else {"opening_ms": round(took_ns / 1_000_000)}
    about = event(live, EventKind.GRANT_OPENED, at_ns, **took)
    made = [step for _, step in live.steps] if steps is None else steps
    return [about, *events_of_steps(made, False, about=about, uids=live.uids)]


def ended(shut: Shut, at_ns: int) -> list[AuditEvent]:
    """Access is over: what was undone, who was cut off, what was left behind."""
    live = shut.live
    late_ms, recorded = receipt.lateness_ms(live)["last_process"], recordings.listed(live)
    cut = sum(1 for found in recorded if isinstance(found, dict) and not found.get("whole"))
    about = event(live, EventKind.GRANT_ENDED, at_ns, late_ms=late_ms, recordings=len(recorded), recordings_cut=cut)
    events = list(events_of_steps([step for _, step in reversed(live.steps)], True, about=about, uids=live.uids))
    if live.killed_count:
        events.append(event(live, EventKind.SESSION_SEVERED, at_ns, killed=live.killed_count, named=list(live.killed)))
    if late_ms is not None and late_ms > LATE_MS:
        events.append(event(live, EventKind.TEARDOWN_LATE, at_ns, ok=False, late_ms=late_ms))
    left = [found.to_json() for found in shut.residue if not found.removed]
    if left:
        events.append(event(live, EventKind.RESIDUE_FOUND, at_ns, ok=False, residue=left[:RESIDUE_TOLD], count=len(left)))
    return [*events, about]
