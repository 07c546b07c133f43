"""The teardown receipt: what ended, when the doors shut and the last process died, and how late that was. Pure."""

from agent.expiry import recordings
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host.clock import NS, rfc3339
from agent.journal import EndCause
from agent.model import Json
from agent.model.text import one_line

RECEIPT_TYP = "teardown-receipt+jwt"
_RESIDUE_LISTED = 200


def claims(shut: Shut, *, host_id: str, receipt_id: str, by: str = "tidegated") -> dict[str, object]:
    """The receipt's claims; ``by`` is the program that ended it.

    Lateness is against the deadline for an expiry, against the order itself for a revocation.

    Times are RFC 3339 to the microsecond, lateness milliseconds. A grant that never opened has no doors and no processes.
    """
    live = shut.live
    began_ns = live.began_ns or shut.began_ns
    stood = bool(live.steps)
    errors = dict(shut.undone)
    return {
        "iss": host_id,
        "aud": live.record.iss,
        "iat": (shut.ended_ns or began_ns) // NS,
        "jti": receipt_id,
        "grant": {
            "jti": live.record.jti,
            "iss": live.record.iss,
            "sub": live.record.sub,
            "digest": live.record.digest,
            "reason": live.record.reason,
            "ticket": live.record.ticket,
        },
        "cause": live.cause.value if live.cause else "",
        "cause_text": one_line(live.cause_text),
        "opened": rfc3339(live.opened_ns) if live.opened_ns else None,
        "deadline": rfc3339(live.deadline.wall_ns),
        "began": rfc3339(began_ns),
        "doors_closed": _time(live.doors_ns if stood else None),
        "last_process_dead": _time(live.last_process_ns if stood else None),
        "ended": _time(shut.ended_ns),
        "lateness_ms": dict(lateness_ms(live)),
        "clock_moved_ms": _late(live.moved_ns, 0),
        "accounts": [{"login": login, "uid": uid} for login, uid in sorted(live.uids.items())],
        "steps": [
            {"enforcer": step.enforcer, "action": step.action, "what": step.summary, "undone": not errors.get(seq, "not tried")}
            for seq, step in live.steps
        ],
        "processes_killed": {"count": live.killed_count, "named": live.killed},
        "residue": [found.to_json() for found in shut.residue[:_RESIDUE_LISTED]],
        "residue_count": len(shut.residue),
        "ended_by": by,
        "backstops": _backstops(live, "backstops", "stood"),
        "backstops_absent": _backstops(live, "backstops_absent", "absent"),
        "not_containable": list(live.record.not_containable),
        "proof": _proof(live),
        "suspensions": live.notes.get("suspensions", []),
        "superseded_by": live.superseded_by,
        **_watched(live),
        "attempts": live.attempts,
    }


def lateness_ms(live: LiveGrant) -> dict[str, int | None]:
    """How late the doors were shut and the last process died: after the deadline, or after the order that came before it.

    The deadline on the clock by which it is longer past: a wall clock set back hides nothing. One set forward past it counts as
    late by all that it jumped over, since nobody knows whether it was right before or after; ``clock_moved_ms`` says so.
    """
    began_ns = live.began_ns or 0
    due_ns = began_ns - (live.overdue_ns if live.cause is EndCause.EXPIRED else 0)
    moments = (
        {"doors": live.doors_ns, "last_process": live.last_process_ns} if live.steps else {"doors": None, "last_process": None}
    )
    return {name: _late(at_ns, due_ns) for name, at_ns in moments.items()}


def _proof(live: LiveGrant) -> Json:
    """What sshd and sudo said after opening and after closing (agent.expiry.proving); null for what was not asked."""
    noted = live.notes.get("proof")
    found = noted if isinstance(noted, dict) else {}
    return {"opened": found.get("opened"), "closed": found.get("closed"), "alarms": found.get("alarms", [])}


def _watched(live: LiveGrant) -> dict[str, object]:
    """What is known of what its tenants did."""
    return {
        "recordings": recordings.listed(live),
        "executions": live.notes.get("executions", {"absent": "nothing of this grant was opened"}),
        "forwards": _logged(live, "forwards", "count", "told"),
        "sudo": _logged(live, "sudo", "count", "refused", "told"),
    }


def _logged(live: LiveGrant, kind: str, *counts: str) -> Json:
    """What sshd or sudo logged of its tenants (agent.expiry.logged); null where it gave nothing that they would speak of."""
    noted = live.notes.get("logged")
    counted = noted.get(kind) if isinstance(noted, dict) else None
    if not isinstance(noted, dict) or not isinstance(counted, dict):
        return None
    return {"absent": noted.get("absent"), **{name: counted.get(name) for name in counts}, "gaps": noted.get("gaps")}


def _backstops(live: LiveGrant, in_steps: str, in_note: str) -> list[str]:
    """What stood (or did not) behind the grant should the agent be dead at the deadline, as its steps and its timer say."""
    note = live.notes.get("backstops")
    timer = _names(note.get(in_note)) if isinstance(note, dict) else []
    return sorted({str(name) for name in (*timer, *(name for _, step in live.steps for name in _names(step.data.get(in_steps))))})


def _names(value: Json) -> list[Json]:
    """What a step says stands behind it should the agent be dead at the deadline."""
    return value if isinstance(value, list) else []


def _time(wall_ns: int | None) -> str | None:
    return None if wall_ns is None else rfc3339(wall_ns)


def _late(at_ns: int | None, due_ns: int) -> int | None:
    """Whole milliseconds, rounded; the times beside them have the microseconds. No number of ours is a float."""
    return None if at_ns is None else (at_ns - due_ns + 500_000) // 1_000_000
