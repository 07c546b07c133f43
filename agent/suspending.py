"""Suspending: a grant whose issuer has gone silent is closed and severed, not removed, and opened again when fresh word comes.

Journaled before the doors are shut, and as open only once they are open again: killed anywhere between, the next start shuts
them (:mod:`agent.recovery`). The deadline runs on meanwhile. A resume applies the journaled CLOSE steps, exactly.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from agent import enforcement
from agent.audit import EventKind
from agent.errors import HostError, JournalError
from agent.expiry import notice, story
from agent.expiry.live import LiveGrant
from agent.host.clock import rfc3339
from agent.journal import EndCause, GrantState
from agent.model import Json, Phase, Step
from agent.pipeline import Pipeline

log = logging.getLogger("tidegate")
NOTE = "suspensions"
_TOLD_MAX = 64


def is_stale(pipeline: Pipeline, live: LiveGrant) -> bool:
    """Whether what it stands on, a fresh bulletin of its issuer, is missing now."""
    return not pipeline.ledger.freshness.holds(live.record.iss, live.fresh_within_s)


def suspend(pipeline: Pipeline, grants: Sequence[LiveGrant]) -> None:
    """Close and sever these, now. Never raises; what is left of one is tried again. Suspending a suspended one cuts it again."""
    before = {live.id: live.state for live in grants}
    claimed = pipeline.ledger.begin_suspending(list(grants))
    news = [live for live in claimed if before[live.id] is GrantState.OPEN]
    for live in news:
        _write_down(pipeline, live, True)
    copies = {live.id: live.apart() for live in claimed}
    shuts = pipeline.teardown.cut(list(copies.values()), notice.tell_suspended)
    pipeline.teardown.set_aside(shuts)
    events = []
    for live, shut in zip(claimed, shuts, strict=True):
        trouble = "; ".join(shut.errors)[:500]
        if trouble:
            log.error("grant %s is suspended, but not shut whole: %s", live.record.jti, trouble)
        live.error = trouble
        pipeline.ledger.suspended(live, again=bool(trouble))
        if live in news or trouble or copies[live.id].killed_count:
            killed = copies[live.id].killed_count
            found = story.event(live, EventKind.GRANT_SUSPENDED, shut.began_ns, ok=not trouble, killed=killed, error=trouble)
            events.append(replace(found, code="bulletin_stale", reason=why(live)))
    pipeline.trail.emit(events)


def resume(pipeline: Pipeline, live: LiveGrant) -> None:
    """Open it again, if its issuer's word is fresh and its time is not over. What can't be opened is tried again."""
    if is_stale(pipeline, live) or not pipeline.ledger.begin_resuming(live):
        return

    def go_on(_step: Step | None = None) -> None:
        live.must_go_on(pipeline.clock, "was being resumed")

    try:
        go_on()
        doors = [step for _, step in live.steps if step.phase is Phase.CLOSE]
        enforcement.apply(doors, pipeline.enforcers, pipeline.writer, go_on)
        pipeline.journal.orders.suspended(live.id, False)
        _tell_note(pipeline, live, False)
        pipeline.ledger.opened(live, live.opened_ns or pipeline.clock.wall_ns())
        go_on()
    except Exception as error:
        live.opener = False
        if live.is_over(pipeline.clock):
            pipeline.shut([live], EndCause.EXPIRED)
            return
        log.error("grant %s could not be resumed and stays suspended: %s", live.record.jti, error)
        pipeline.ledger.stay_suspended(live, retry=True)
        suspend(pipeline, [live])
        live.error = str(error)[:500]
        return
    live.error = ""
    pipeline.trail.emit([story.event(live, EventKind.GRANT_RESUMED, pipeline.clock.wall_ns())])


def stand_suspended(pipeline: Pipeline, live: LiveGrant) -> None:
    """After a reboot: put back what it stands on, never its doors; then it is as suspended as before."""
    if not pipeline.ledger.begin_resuming(live):
        return
    try:
        floor = [step for _, step in live.steps if step.phase is Phase.REMOVE]
        enforcement.apply(floor, pipeline.enforcers, pipeline.writer)
        pipeline.journal.carry([(live.id, live.deadline.boot_id, live.deadline.boot_ns)])
    except Exception as error:
        live.opener = False
        pipeline.shut([live], EndCause.FAILED, f"could not be put back at start: {error}")
        return
    pipeline.ledger.stay_suspended(live, retry=False)
    if live.is_over(pipeline.clock):
        pipeline.shut([live], EndCause.EXPIRED)


def why(live: LiveGrant) -> str:
    """For people."""
    return f"no bulletin of {live.record.iss} that is at most {live.fresh_within_s} s old"


def _write_down(pipeline: Pipeline, live: LiveGrant, suspended: bool) -> None:
    """A journal that takes nothing keeps no door open; after a crash the bulletin is as stale as it was."""
    try:
        pipeline.journal.orders.suspended(live.id, suspended)
        _tell_note(pipeline, live, suspended)
    except (JournalError, HostError) as error:
        log.error("a suspension can't be written down, it is carried out all the same: %s", error)


def _tell_note(pipeline: Pipeline, live: LiveGrant, suspended: bool) -> None:
    """For the receipt: from when to when."""
    found = live.notes.get(NOTE)
    told: list[Json] = list(found) if isinstance(found, list) else []
    now = rfc3339(pipeline.clock.wall_ns())
    if suspended:
        told.append({"from": now, "until": None})
    elif told and isinstance(told[-1], dict):
        told[-1] = {**told[-1], "until": now}
    live.notes[NOTE] = told[-_TOLD_MAX:]
    pipeline.journal.note(live.id, NOTE, live.notes[NOTE])
