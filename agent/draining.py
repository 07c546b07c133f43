"""Revoked with time to leave: no new login from now on, the sessions are told, and all ends when the time is over, or at exp.

Journaled before the doors are shut; nothing lengthens it: a second order with more time changes nothing.
"""

import logging
from collections.abc import Iterator, Sequence

from agent.audit import EventKind
from agent.errors import JournalError
from agent.expiry import notice, story
from agent.expiry.deadline import Deadline
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host.clock import NS
from agent.journal import EndCause, GrantState
from agent.model import Json
from agent.pipeline import Pipeline

log = logging.getLogger("tidegate")
NOTE = "drain"


def begin(pipeline: Pipeline, grants: Sequence[LiveGrant], seconds: int, text: str) -> list[LiveGrant]:
    """Claim those that stand open; returns them, for :func:`drain`. Everything else is the caller's to shut: nobody is in."""
    return [live for live in grants if pipeline.ledger.begin_draining(live, _until(pipeline, live, seconds), text)]


def drain(pipeline: Pipeline, begun: Sequence[LiveGrant], text: str) -> None:
    """Note it, shut the way in, tell those who are in. One whose way in can't be shut is shut whole."""
    for live in _going_on(pipeline, begun):
        until = live.drain or live.deadline
        value: dict[str, Json] = {"wall_ns": until.wall_ns, "boot_ns": until.boot_ns, "boot_id": until.boot_id, "text": text}
        live.notes[NOTE] = value
        try:
            pipeline.journal.note(live.id, NOTE, value)
        except JournalError as error:
            log.error("the order can't be written down, it is carried out all the same: %s", error)
    for live in _going_on(pipeline, begun):
        trouble = "; ".join(pipeline.teardown.close_logins(live))
        notice.tell_drain(live, max(1, seconds_left(pipeline, live)))
        live.error = trouble[:500]
        event = story.event(live, EventKind.GRANT_DRAINING, pipeline.clock.wall_ns(), ok=not trouble, error=trouble)
        pipeline.trail.emit([event])
        if trouble:  # a door that stays open while its sessions are being let go is none that anybody wanted
            pipeline.shut([live], EndCause.REVOKED, text)


def _going_on(pipeline: Pipeline, grants: Sequence[LiveGrant]) -> Iterator[LiveGrant]:
    """Without those whose end has begun by the time their turn comes."""
    return (live for live in grants if not live.shutting and pipeline.ledger.get(live.id) is live)


def seconds_left(pipeline: Pipeline, live: LiveGrant) -> int:
    """Whole seconds, rounded: what people are told."""
    return (live.drain or live.deadline).remaining_ns(pipeline.clock) // NS


def restart(pipeline: Pipeline) -> list[Shut]:
    """At start: end what has no session left to wait for, close the others' doors again."""
    over: list[LiveGrant] = []
    waiting: list[LiveGrant] = []
    for live in pipeline.ledger.all():
        if live.drain and live.state in {GrantState.OPEN, GrantState.SUSPENDED}:
            same_boot = live.record.boot_id == pipeline.clock.boot_id()
            waits = same_boot and live.state is GrantState.OPEN and not live.drain.passed(pipeline.clock)
            (waiting if waits else over).append(live)
    for live in waiting:
        for trouble in pipeline.teardown.close_logins(live):
            log.error("grant %s is being drained: %s", live.record.jti, trouble)
    return [shut for live in over for shut in pipeline.cut([live], EndCause.REVOKED, live.cause_text)]


def _until(pipeline: Pipeline, live: LiveGrant, seconds: int) -> Deadline:
    clock = pipeline.clock
    until = Deadline(clock.wall_ns() + seconds * NS, clock.boot_ns() + seconds * NS, clock.boot_id())
    return min(until, live.deadline, key=lambda deadline: deadline.remaining_ns(clock))
