"""What the agent does first: bring the host in line with the journal, whatever happened while nobody was looking.

Recovery replays journaled steps; it never plans anew.
"""

import contextlib
from collections.abc import Callable

from agent import draining, enforcement
from agent.errors import JournalError
from agent.expiry import notice, story
from agent.expiry.kept_steps import read
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.host import files
from agent.host.clock import NS
from agent.journal import EndCause, GrantState
from agent.journal.orders import REPLACES
from agent.model import Step
from agent.orders import end_what_was_revoked
from agent.pipeline import Pipeline
from agent.suspending import is_stale, resume, stand_suspended, suspend

LOOK_AT_START_S = 5  # former tenants' UIDs: once the start is over


def take_down(pipeline: Pipeline) -> list[Shut]:
    """Before anything else: cut what has ended, or was only half open, while nobody was looking.

    Returns what is to be cleared away, which may take long: nobody's deadline, and no login, waits for that.
    """
    pipeline.teardown.thaw_left()
    grants = pipeline.ledger.load(pipeline.journal)
    pipeline.ending.recall(grants)
    replacing = [live for live in grants if _replaces(live) and not live.deadline.passed(pipeline.clock)]
    for live in replacing:
        _hold(pipeline, live)
    half_open = [live for live in grants if live.state is GrantState.OPENING and not live.opener]
    over = [live for live in grants if live.state is GrantState.SHUTTING or live.deadline.passed(pipeline.clock)]
    shuts = pipeline.cut(half_open, EndCause.FAILED, "the agent stopped while it was opening this grant")
    shuts += pipeline.cut(over, EndCause.EXPIRED)
    with contextlib.suppress(JournalError):  # it is asked again at the next start; a journal that can't be read opens nothing
        shuts += end_what_was_revoked(pipeline)
    shuts += draining.restart(pipeline)
    stale = [live for live in pipeline.ledger.all() if live.state is GrantState.OPEN and is_stale(pipeline, live)]
    suspended = [live for live in pipeline.ledger.all() if live.state is GrantState.SUSPENDED]
    if stale or suspended:
        suspend(pipeline, [*stale, *suspended])
    pipeline.ending.ship_receipts()
    pipeline.outbox.clean()
    for folder in (pipeline.config.paths.state_db.parent, pipeline.config.paths.archive):
        files.clear_unfinished(folder)
    with contextlib.suppress(JournalError):  # house-keeping: another start will do
        pipeline.journal.forget_before(pipeline.clock.wall_ns() // NS)
    return shuts


def stand_again(pipeline: Pipeline) -> None:
    """Once the enforcers are prepared: put back, after a reboot, what still stands."""
    pipeline.behind.tidy()
    boot_id, now_ns = pipeline.clock.boot_id(), pipeline.clock.wall_ns()
    opened = [live for live in pipeline.ledger.all() if live.state is GrantState.OPEN and live.record.boot_id == boot_id]
    pipeline.ledger.stand((live, live.opened_ns or now_ns) for live in opened)  # within one boot everything still stands
    for live in pipeline.ledger.all():
        if live.state is GrantState.OPEN and live.record.boot_id != boot_id:
            _stand_again(pipeline, live)
        elif live.state is GrantState.OPENING and _replaces(live):
            _go_on_replacing(pipeline, live)
        elif live.state is GrantState.SUSPENDED:
            if live.record.boot_id != pipeline.clock.boot_id():
                stand_suspended(pipeline, live)
            resume(pipeline, live)
    pipeline.writer.remains.baseline()  # the first grant of a start need not wait for the host's files to be read
    pipeline.ledger.look_again(LOOK_AT_START_S)


def look_behind(pipeline: Pipeline, stopping: Callable[[], bool] = lambda: False) -> None:
    """Beside serving, once the start is over: that a timer stands behind each open grant, the next to end first. Never raises.

    Systemd's timers outlive this program; where one was taken away meanwhile, this program is there to end the grant. Steps that
    nobody needed yet are read as well: at a deadline that many share nothing is to wait for that.
    """
    for live in sorted(pipeline.ledger.all(), key=lambda live: live.deadline.remaining_ns(pipeline.clock)):
        if stopping():
            return
        read(live.steps)
        if live.state is GrantState.OPEN and not live.shutting:
            pipeline.behind.arm_again(live)
            if pipeline.ledger.get(live.id) is None:  # it ended just then, and its timer was taken away before it was set
                pipeline.behind.disarm([live])


def _stand_again(pipeline: Pipeline, live: LiveGrant) -> None:
    """After a reboot what was in /run is gone: put back exactly the journaled steps.

    The deadline is armed already, so the grant may end meanwhile: it is claimed like an opening, and asked at each step.
    """
    opened_ns = live.opened_ns or pipeline.clock.wall_ns()
    if not pipeline.ledger.begin_standing_again(live):
        return

    def go_on(_step: Step | None = None) -> None:
        live.must_go_on(pipeline.clock, "was being put back")

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
        if live.is_over(pipeline.clock):
            pipeline.shut([live], EndCause.EXPIRED)
        else:
            pipeline.prover.opened(live)


def _replaces(live: LiveGrant) -> bool:
    """Whether it was taking another grant's place when the agent stopped: it owns that one's accounts, so it goes on."""
    return live.state is GrantState.OPENING and REPLACES in live.notes


def _hold(pipeline: Pipeline, live: LiveGrant) -> None:
    """Until it can go on. Where it gives less than the old one, the old one's doors and sessions are ended now."""
    live.opener = True
    if live.notes[REPLACES] != []:
        pipeline.teardown.cut([live.apart()], lambda grants: sum(map(notice.tell_narrowed, grants)))


def _go_on_replacing(pipeline: Pipeline, live: LiveGrant) -> None:
    """Every step again, exactly as journaled, whichever of them stand already."""

    def go_on(_step: Step | None = None) -> None:
        live.must_go_on(pipeline.clock, "took another's place")

    try:
        go_on()
        enforcement.apply([step for _, step in live.steps], pipeline.enforcers, pipeline.writer, go_on)
        opened_ns = pipeline.clock.wall_ns()
        pipeline.journal.opened(live.id, opened_ns)
        pipeline.ledger.opened(live, opened_ns)
        go_on()
    except Exception as error:
        live.opener = False
        pipeline.shut([live], EndCause.FAILED, f"could not take another grant's place at start: {error}")
    else:
        pipeline.trail.emit(story.opened(live, opened_ns))
        pipeline.prover.opened(live)
