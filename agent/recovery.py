"""What the agent does first: bring the host in line with the journal, whatever happened while nobody was looking.

Recovery replays journaled steps; it never plans anew.
"""

import contextlib

from agent import enforcement
from agent.errors import JournalError, UnenforceableError
from agent.expiry.live import LiveGrant
from agent.expiry.teardown import Shut
from agent.host.clock import NS
from agent.journal import EndCause, GrantState
from agent.model import Step
from agent.pipeline import Pipeline

LOOK_AT_START_S = 5  # former tenants' UIDs: once the start is over


def take_down(pipeline: Pipeline) -> list[Shut]:
    """Before anything else: cut what has ended, or was only half open, while nobody was looking.

    Returns what is to be cleared away, which may take long: nobody's deadline, and no login, waits for that.
    """
    pipeline.teardown.thaw_left()
    grants = pipeline.ledger.load(pipeline.journal)
    pipeline.ending.recall(grants)
    half_open = [live for live in grants if live.state is GrantState.OPENING]
    over = [live for live in grants if live.state is GrantState.SHUTTING or live.deadline.passed(pipeline.clock)]
    shuts = pipeline.cut(half_open, EndCause.FAILED, "the agent stopped while it was opening this grant")
    shuts += pipeline.cut(over, EndCause.EXPIRED)
    pipeline.ending.ship_receipts()
    pipeline.outbox.clean()
    with contextlib.suppress(JournalError):  # house-keeping: another start will do
        pipeline.journal.forget_before(pipeline.clock.wall_ns() // NS)
    return shuts


def stand_again(pipeline: Pipeline) -> None:
    """Once the enforcers are prepared: put back, after a reboot, what still stands."""
    for live in pipeline.ledger.all():
        if live.state is GrantState.OPEN:
            _stand_again(pipeline, live)
    pipeline.writer.remains.baseline()  # the first grant of a start need not wait for the host's files to be read
    pipeline.ledger.look_again(LOOK_AT_START_S)


def _stand_again(pipeline: Pipeline, live: LiveGrant) -> None:
    """Within one boot everything still stands. After a reboot what was in /run is gone: put back exactly the journaled steps.

    The deadline is armed already, so the grant may end meanwhile: it is claimed like an opening, and asked at each step.
    """
    opened_ns = live.opened_ns or pipeline.clock.wall_ns()
    if live.record.boot_id == pipeline.clock.boot_id():
        pipeline.ledger.opened(live, opened_ns)
        pipeline.behind.arm_again(live)
        return
    if not pipeline.ledger.begin_standing_again(live):
        return

    def go_on(_step: Step | None = None) -> None:
        if live.cancel or live.deadline.passed(pipeline.clock):
            raise UnenforceableError("ended_while_opening", "the grant ended while it was being put back")

    try:
        go_on()
        pipeline.behind.arm(live)
        enforcement.apply([step for _, step in live.steps], pipeline.enforcers, pipeline.writer, go_on)
        pipeline.journal.carry([(live.id, live.deadline.boot_id, live.deadline.boot_ns)])
    except Exception as error:
        live.opener = False
        pipeline.shut([live], EndCause.FAILED, f"could not be put back at start: {error}")
    else:
        pipeline.ledger.opened(live, opened_ns)
        if live.cancel or live.deadline.passed(pipeline.clock):
            pipeline.shut([live], EndCause.EXPIRED)
        else:
            pipeline.prover.opened(live)
