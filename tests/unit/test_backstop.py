"""When the backstop leaves a daemon alone, and what it ends when it does not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import backstop, early, guarding
from agent.backstop import Backstop
from agent.config import Config, Paths
from agent.control import client
from agent.control.handlers import Handlers
from agent.control.server import Peer
from agent.early import Begun
from agent.errors import HostError
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.host import lock
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
        self.clock, self.journal, self.teardown = clock, None, SimpleNamespace()
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


def test_receipts_name_who_was_killed_before_the_teardown_began() -> None:
    clock = FakeClock()
    ended, other = live(clock, 1, lasts_s=5), live(clock, 2, lasts_s=500, uids={"jit-bob": 70002})
    clock.advance(6)
    pipeline = FakePipeline(clock, ended, other)
    (uid,) = ended.tenants
    begun = Begun(seen={uid: {2**30: "sleep", 2**30 + 1: "sh"}})  # no such processes: dead by now
    Backstop(cast(Pipeline, pipeline), True, sweep=False).end_overdue(begun)
    assert (ended.killed_count, other.killed_count) == (2, 0)
    assert ended.killed == [f"sleep[{2**30}] uid={uid} by=uid", f"sh[{2**30 + 1}] uid={uid} by=uid"]
    assert ended.last_process_ns is None  # that is for the teardown to prove


def test_a_daemon_holds_the_lock_that_tells_backstops_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "Port", lambda _pipeline: SimpleNamespace(close=lambda: None))
    configured = SimpleNamespace(config=Config(paths=Paths(run_dir=tmp_path)))
    daemon = guarding.Guarding(cast(Any, configured), cast(Any, None), cast(Any, None), {})
    daemon.keep_backstop()
    assert not early.is_free(str(tmp_path / lock.ALIVE), 0.01)
    daemon.stop()
    assert early.is_free(str(tmp_path / lock.ALIVE), 0.01)


@pytest.mark.parametrize("gone", [True, False])
def test_a_daemon_that_gave_no_answer_is_not_asked_again(gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second more in which its tenants would go on."""
    asked: list[Config] = []

    def does_it(config: Config) -> bool:
        asked.append(config)
        return True

    monkeypatch.setattr(backstop, "daemon_does_it", does_it)
    monkeypatch.setattr(
        backstop,
        "_pipeline",
        lambda _config, _alone: SimpleNamespace(journal=SimpleNamespace(close=lambda: None), teardown=SimpleNamespace()),
    )
    monkeypatch.setattr(Backstop, "end_overdue", lambda _self, _begun: True)
    opening = lock.Lock(tmp_path / lock.OPENING)
    assert opening.take()  # a daemon's, that hangs
    assert backstop.at_deadline(Config(paths=Paths(run_dir=tmp_path)), Begun(gone=gone))
    assert bool(asked) is not gone
    opening.release()
