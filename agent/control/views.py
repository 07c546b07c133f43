"""What the daemon tells of itself, as JSON objects; the command line prints them as they are, or as text (docs/CLI.md)."""

from agent.admitted import Admitted
from agent.expiry.live import LiveGrant
from agent.host.clock import NS, Clock, rfc3339
from agent.host.found import Progress
from agent.journal import GrantRecord, GrantState, Tombstone
from agent.journal.records import HeldBulletin, JournaledStep, Refusal
from agent.model.summary import summarise
from agent.sessions.who import Session
from agent.suspending import why


def grant(record: GrantRecord, live: LiveGrant | None, clock: Clock) -> dict[str, object]:
    """One grant: who, as what, until when, why, and how it stands."""
    state = live.state if live else record.state
    left_ns = (live.drain or live.deadline).remaining_ns(clock) if live else 0
    return {
        "jti": record.jti,
        "issuer": record.iss,
        "subject": record.sub,
        "state": live.shown_state if live else state.value,
        "suspended": why(live) if live and _waits(live, clock) else "",
        "fresh_within_s": live.fresh_within_s if live else record.fresh_within_s,
        "drained_by": rfc3339(live.drain.wall_ns) if live and live.drain else None,
        "supersedes": record.supersedes,
        "logins": list(record.logins),
        "access": record.summary,
        "reason": record.reason,
        "ticket": record.ticket,
        "rule": record.rule,
        "not_containable": list(record.not_containable),
        "begins": rfc3339(record.nbf * NS),
        "ends": rfc3339(record.exp * NS),
        "seconds_left": max(0, left_ns // NS) if state is not GrantState.ENDED else 0,
        "received": rfc3339(record.received_ns),
        "opened": _time(live.opened_ns if live else record.opened_ns),
        "doors_closed": _time(live.doors_ns) if live else None,
        "last_process_dead": _time(live.last_process_ns) if live and not live.alive else None,
        "ended": _time(record.ended_ns),
        "cause": (live.cause if live else record.cause) or "",
        "cause_text": live.cause_text if live else record.cause_text,
        "uids": live.uids if live else record.uids,
        "error": live.error if live else record.last_error,
    }


def session(found: Session, live: LiveGrant, recording: str | None) -> dict[str, object]:
    """One login: whose, by which grant, from where, since when, until when, on what terminal, doing what, in which recording."""
    return {
        "id": found.id,
        "login": found.login,
        "uid": found.uid,
        "jti": live.record.jti,
        "subject": live.record.sub,
        "from": found.remote,
        "since": rfc3339(found.since_ns),
        "until": rfc3339((live.drain or live.deadline).wall_ns),
        "tty": found.tty or None,
        "commands": list(found.commands),
        "processes": len(found.pids),
        "recording": recording,
    }


def draining(live: LiveGrant) -> dict[str, object]:
    """A grant that was revoked with time to leave."""
    return {"jti": live.record.jti, "subject": live.record.sub, "until": rfc3339((live.drain or live.deadline).wall_ns)}


def bulletin(held: HeldBulletin, expired: bool) -> dict[str, object]:
    """The latest sign of life of an issuer; ``expired`` by this host's clock."""
    return {
        "issuer": held.iss,
        "seq": held.seq,
        "issued": rfc3339(held.iat * NS),
        "expires": rfc3339(held.exp * NS),
        "expired": expired,
    }


def _waits(live: LiveGrant, clock: Clock) -> bool:
    """Shut, or not yet open, for want of a fresh bulletin."""
    begun = live.record.nbf * NS <= clock.wall_ns()
    return live.state is GrantState.SUSPENDED or (live.state is GrantState.PENDING and live.fresh_within_s is not None and begun)


def plan(admitted: Admitted) -> dict[str, object]:
    """What a grant would change, none of it done."""
    grant = admitted.grant
    return {
        "jti": grant.jti,
        "issuer": grant.iss,
        "subject": grant.sub,
        "rule": admitted.rule,
        "access": summarise(grant),
        "begins": rfc3339(grant.nbf * NS),
        "ends": rfc3339(grant.exp * NS),
        "not_containable": list(admitted.not_containable),
        "fresh_within_s": admitted.fresh_within_s,
        "supersedes": admitted.old.record.jti if admitted.old else None,
        "undone": [found.summary for _, found in admitted.change.gone] if admitted.change else [],
        "narrowed": list(admitted.change.narrowed) if admitted.change else [],
        "uids": dict(admitted.plan.uids),
        "steps": [found.to_json() for found in admitted.plan.steps],
    }


def step(journaled: JournaledStep) -> dict[str, object]:
    """One step of a grant, and how far it is."""
    return {
        "enforcer": journaled.step.enforcer,
        "action": journaled.step.action,
        "target": journaled.step.target,
        "what": journaled.step.summary,
        "undone_at": journaled.step.phase.value,
        "state": journaled.state.value,
        "error": journaled.error,
    }


def refusal(found: Refusal) -> dict[str, object]:
    """One refused token."""
    return {
        "at": rfc3339(found.at_ns),
        "source": found.source,
        "code": found.code,
        "reason": found.reason,
        "field": found.field,
        "jti": found.jti,
        "subject": found.sub,
    }


def tombstone(found: Tombstone) -> dict[str, object]:
    """One UID that is kept back, and what of its former tenant is left."""
    return {
        "uid": found.uid,
        "login": found.login,
        "since": rfc3339(found.since_ns),
        "count": found.count,
        "left": list(found.found),
    }


def searching(found: Progress | None) -> dict[str, object] | None:
    """The search for what is left that runs now."""
    return None if found is None else {"entries": found.entries, "where": found.where, "seconds": int(found.seconds)}


def _time(wall_ns: int | None) -> str | None:
    return None if wall_ns is None else rfc3339(wall_ns)
