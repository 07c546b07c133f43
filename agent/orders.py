"""What a control plane orders beside grants: revocations (SETs) and bulletins, from bytes to what they end or keep open.

An order is in the journal before anything is shut. Taking the same one twice is harmless: it means what it meant.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent import trust
from agent.audit import AuditEvent, EventKind
from agent.errors import JournalError
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host.clock import NS
from agent.journal import EndCause, GrantState
from agent.model import Bulletin, Revocation
from agent.pipeline import Pipeline
from agent.suspending import resume

log = logging.getLogger("tidegate")


@dataclass(frozen=True, slots=True)
class Taken:
    """An order that was carried out: its own jti (a bulletin has none), and the grants it ended, or found ending."""

    ident: str
    revoked: tuple[LiveGrant, ...]


def take_event(pipeline: Pipeline, token: bytes, clear: Callable[[Sequence[Shut]], object]) -> Taken:
    """A Security Event Token: end what it means now, and never open it later.

    ``clear`` gets what is owed after the cut, which may take long.

    Raises:
        RefusedError: with nothing changed.
        JournalError: it is carried out, and can't be written down: to be taken again, so that it holds for what comes later.
    """
    verified = trust.verify(token, pipeline.ring(), typ=trust.TYP_EVENT)
    now_s = pipeline.clock.wall_ns() // NS
    found = trust.decode_event(verified, host_id=pipeline.host_id, now_s=now_s)
    told = f"by event {found.jti} of {found.iss}" + (f": {found.reason}" if found.reason else "")
    with pipeline.ledger.coming_in:
        unwritten = _written(lambda: pipeline.journal.orders.revoke(found, now_s))
        chosen = list(pipeline.ledger.where(lambda record: found.means(record.iss, record.jti, record.sub, record.iat)))
        claimed = pipeline.ledger.begin_shutting(chosen, EndCause.REVOKED, told)
    clear(pipeline.cut(chosen, EndCause.REVOKED, told, claimed=claimed))
    if unwritten:
        raise unwritten
    pipeline.trail.emit([_told(found, chosen, pipeline.clock.wall_ns())])
    return Taken(found.jti, tuple(chosen))


def take_bulletin(
    pipeline: Pipeline,
    token: bytes,
    clear: Callable[[Sequence[Shut]], object],
    freshened: Callable[[str], object],
    *,
    again: bool = False,
) -> Taken:
    """A bulletin: end what it revokes, then have opened what waited for a fresh one. An empty list revokes nothing.

    ``freshened`` gets the issuer, and owes it :func:`freshen`. ``again``: this very file may have been taken before a crash.
    Raises as :func:`take_event`; nothing is kept open by one that can't be written down.
    """
    verified = trust.verify(token, pipeline.ring(), typ=trust.TYP_BULLETIN)
    found = trust.decode_bulletin(verified, host_id=pipeline.host_id, now_s=pipeline.clock.wall_ns() // NS)
    held, told = pipeline.ledger.freshness.moment(found), f"by bulletin {found.seq} of {found.iss}"
    with pipeline.ledger.coming_in:
        unwritten = _written(lambda: pipeline.journal.orders.take_bulletin(found, held, again=again))
        chosen = _revoked_by(pipeline, found)
        claimed = pipeline.ledger.begin_shutting(chosen, EndCause.REVOKED, told)
    clear(pipeline.cut(chosen, EndCause.REVOKED, told, claimed=claimed))
    if unwritten:  # what it ends, it ends; what it would keep open, only once its seq is on disk
        raise unwritten
    pipeline.ledger.freshness.take(held)
    pipeline.ledger.watch_freshness()
    freshened(found.iss)
    return Taken("", tuple(chosen))


def freshen(pipeline: Pipeline, iss: str) -> None:
    """A fresh bulletin of that issuer is here: resume what is suspended, and open what has waited for it.

    In the thread that opens, after whatever it opens now: that may not have seen the bulletin.
    """
    now_ns = pipeline.clock.wall_ns()
    for live in pipeline.ledger.where(lambda record: record.iss == iss):
        if live.state is GrantState.SUSPENDED:
            resume(pipeline, live)
        elif live.state is GrantState.PENDING and live.fresh_within_s is not None and live.record.nbf * NS <= now_ns:
            pipeline.open_pending(live)


def end_what_was_revoked(pipeline: Pipeline) -> list[Shut]:
    """At start: whatever is live though the journal says that it was revoked; a crash may have come between the two."""
    orders = pipeline.journal.orders
    issuers = orders.revokers()
    found = [
        (live, orders.revoked(live.record.iss, live.record.jti, live.record.sub, live.record.iat))
        for live in pipeline.ledger.where(lambda record: record.iss in issuers)
    ]
    return [shut for live, told in found if told is not None for shut in pipeline.cut([live], EndCause.REVOKED, told)]


def _written(write: Callable[[], None]) -> JournalError | None:
    """A disk that takes nothing keeps nobody in: the error, for after the cut."""
    try:
        write()
    except JournalError as error:
        return error
    return None


def _revoked_by(pipeline: Pipeline, bulletin: Bulletin) -> list[LiveGrant]:
    named = frozenset(bulletin.revoked)
    return list(pipeline.ledger.where(lambda record: record.iss == bulletin.iss and record.jti in named))


def _told(found: Revocation, chosen: Sequence[LiveGrant], at_ns: int) -> AuditEvent:
    detail: dict[str, object] = {
        "format": found.format.value,
        "value": found.value,
        "issuers": list(found.issuers),
        "revoked": [live.record.jti for live in chosen],
    }
    return AuditEvent(EventKind.REVOCATION_TAKEN, at_ns, jti=found.jti, iss=found.iss, reason=found.reason, detail=detail)
