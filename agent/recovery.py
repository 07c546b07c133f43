"""What the agent does first: bring the host in line with the journal, whatever happened while nobody was looking.

Recovery replays journaled steps; it never plans anew.
"""

import contextlib

from agent import enforcement
from agent.errors import JournalError, UnenforceableError
from agent.expiry.live import LiveGrant
from agent.host.clock import NS
from agent.journal import EndCause, GrantState
from agent.model import Step
from agent.pipeline import Pipeline


def take_down(pipeline: Pipeline) -> None:
    """Before anything else: end what has ended, or was only half open, while nobody was looking."""
    ledger = pipeline.ledger
    grants = ledger.load(pipeline.journal)
    half_open = [live for live in grants if live.state is GrantState.OPENING]
    pipeline.shut(half_open, EndCause.FAILED, "the agent stopped while it was opening this grant")
    pipeline.shut([live for live in grants if live.state is GrantState.SHUTTING], EndCause.EXPIRED)
    pipeline.shut([live for live in ledger.all() if live.deadline.passed(pipeline.clock)], EndCause.EXPIRED)
    pipeline.ending.ship_receipts()
    pipeline.outbox.clean()
    with contextlib.suppress(JournalError):  # house-keeping: another start will do
        pipeline.journal.forget_before(pipeline.clock.wall_ns() // NS)


def stand_again(pipeline: Pipeline) -> None:
    """Once the enforcers are prepared: put back, after a reboot, what still stands."""
    for live in pipeline.ledger.all():
        if live.state is GrantState.OPEN:
            _stand_again(pipeline, live)


def _stand_again(pipeline: Pipeline, live: LiveGrant) -> None:
    """Within one boot everything still stands. After a reboot what was in /run is gone: put back exactly the journaled steps.

    The deadline is armed already, so the grant may end meanwhile: it is claimed like an opening, and asked at each step.
    """
    opened_ns = live.opened_ns or pipeline.clock.wall_ns()
    if live.record.boot_id == pipeline.clock.boot_id():
        pipeline.ledger.opened(live, opened_ns)
        return
    if not pipeline.ledger.begin_standing_again(live):
        return

    def go_on(_step: Step | None = None) -> None:
        if live.cancel or live.deadline.passed(pipeline.clock):
            raise UnenforceableError("ended_while_opening", "the grant ended while it was being put back")

    try:
        go_on()
        enforcement.apply([step for _, step in live.steps], pipeline.enforcers, pipeline.writer, go_on)
        pipeline.journal.carry([(live.id, live.deadline.boot_id, live.deadline.boot_ns)])
    except Exception as error:
        live.opener = False
        pipeline.shut([live], EndCause.FAILED, f"could not be put back at start: {error}")
    else:
        pipeline.ledger.opened(live, opened_ns)
        if live.cancel or live.deadline.passed(pipeline.clock):
            pipeline.shut([live], EndCause.EXPIRED)
