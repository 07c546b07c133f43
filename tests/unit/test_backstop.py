"""When the backstop leaves a daemon alone, and what it ends when it does not."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import backstop
from agent.backstop import Backstop
from agent.config import Config
from agent.control import client
from agent.control.handlers import Handlers
from agent.control.server import Peer
from agent.errors import HostError
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.host.clock import FakeClock
from agent.journal import EndCause, GrantState
from agent.pipeline import Pipeline
from tests.unit.expiry_kit import live


@pytest.mark.parametrize(("answers", "does_it"), [([[]], True), ([["a"], ["a"], []], True), ([["a"]] * 99, False), ([], False)])
def test_a_daemon_is_left_alone_as_long_as_it_answers_and_gets_on(
    monkeypatch: pytest.MonkeyPatch, answers: list[list[str]], does_it: bool
) -> None:
    todo = list(answers)

    def ask(*_: object) -> object:
        if not todo:
            raise HostError("agent_unreachable", "nobody")
        return {"grants": todo.pop(0)}

    monkeypatch.setattr(client, "call_within", ask)
    monkeypatch.setattr(backstop, "_ASK_AGAIN_S", 0.001)
    monkeypatch.setattr(backstop, "_PATIENCE_S", 30 if does_it else 0.02)
    assert backstop.daemon_does_it(Config()) is does_it


def test_the_daemon_names_what_is_past_its_deadline_and_not_cut_off() -> None:
    clock = FakeClock()
    ledger = Ledger(clock)
    open_, cut, later = (live(clock, number, lasts_s=lasts) for number, lasts in ((1, 5), (2, 5), (3, 500)))
    cut.doors_ns = cut.last_process_ns = 1
    for grant in (open_, cut, later):
        grant.record = cast(Any, SimpleNamespace(**{name: getattr(grant.record, name) for name in grant.record.__slots__}))
        setattr(grant.record, "digest", f"d{grant.record.id}")  # noqa: B010  # a stand-in, whose type says otherwise
        ledger.add(grant)
    clock.advance(6)
    handlers = Handlers(cast(Pipeline, SimpleNamespace(ledger=ledger, clock=clock)), lambda: [])
    assert handlers.table()["overdue"](cast(Peer, None), {}) == {"grants": ["d1"]}


class FakePipeline:
    """Notes what is cut, and why."""

    def __init__(self, clock: FakeClock, *grants: LiveGrant) -> None:
        self.clock, self.journal = clock, None
        self.grants = grants
        self.ledger = SimpleNamespace(read=lambda _journal: [], all=lambda: list(self.grants))
        self.done: list[tuple[int, EndCause]] = []

    def cut(self, grants: list[LiveGrant], cause: EndCause, text: str = "") -> list[object]:
        del text
        self.done += [(grant.id, cause) for grant in grants]
        return []


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_half_done_is_ended_only_where_no_daemon_could_be_doing_it(alone: bool) -> None:
    clock = FakeClock()
    states = {1: GrantState.OPEN, 2: GrantState.OPENING, 3: GrantState.SHUTTING, 4: GrantState.OPEN}
    grants = [live(clock, number, lasts_s=5 if number == 1 else 500, state=state) for number, state in states.items()]
    clock.advance(6)
    pipeline = FakePipeline(clock, *grants)
    Backstop(cast(Pipeline, pipeline), alone, sweep=False).end_overdue()
    half = [(2, EndCause.FAILED)] if alone else []
    over = [(1, EndCause.EXPIRED), *([(3, EndCause.EXPIRED)] if alone else [])]
    assert pipeline.done == half + over


def test_a_clock_set_back_keeps_nothing_open() -> None:
    clock = FakeClock()
    pipeline = FakePipeline(clock, live(clock, 1, lasts_s=5))
    clock.advance(6)
    clock.step(-3600)
    Backstop(cast(Pipeline, pipeline), False, sweep=False).end_overdue()
    assert pipeline.done == [(1, EndCause.EXPIRED)]
