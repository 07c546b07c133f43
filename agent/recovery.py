"""What the agent does first: bring the host in line with the journal, whatever happened while nobody was looking.

Recovery replays journaled steps; it never plans anew.
"""

from agent import enforcement
from agent.errors import TidegateError
from agent.expiry.live import LiveGrant
from agent.journal import EndCause, GrantState
from agent.pipeline import Pipeline


def take_down(pipeline: Pipeline) -> None:
    """Before anything else: end what has ended, or was only half open, while nobody was looking."""
    ledger = pipeline.ledger
    grants = ledger.load(pipeline.journal)
    half_open = [live for live in grants if live.state is GrantState.OPENING]
    pipeline.shut(half_open, EndCause.FAILED, "the agent stopped while it was opening this grant")
    pipeline.shut([live for live in grants if live.state is GrantState.SHUTTING], EndCause.EXPIRED)
    pipeline.shut([live for live in ledger.all() if live.deadline.passed(pipeline.clock)], EndCause.EXPIRED)
    pipeline.ship_receipts()
    pipeline.outbox.clean()


def stand_again(pipeline: Pipeline) -> None:
    """Once the enforcers are prepared: put back, after a reboot, what still stands."""
    for live in pipeline.ledger.all():
        if live.state is GrantState.OPEN:
            _stand_again(pipeline, live)


def _stand_again(pipeline: Pipeline, live: LiveGrant) -> None:
    """Within one boot everything still stands. After a reboot what was in /run is gone: put back exactly the journaled steps."""
    opened_ns = live.opened_ns or pipeline.clock.wall_ns()
    if live.record.boot_id == pipeline.clock.boot_id():
        pipeline.ledger.opened(live, opened_ns)
        return
    try:
        enforcement.apply([step for _, step in live.steps], pipeline.enforcers, pipeline.writer)
        pipeline.journal.carry([(live.id, live.deadline.boot_id, live.deadline.boot_ns)])
    except TidegateError as error:
        pipeline.shut([live], EndCause.FAILED, f"could not be put back at start: {error}")
    else:
        pipeline.ledger.opened(live, opened_ns)
