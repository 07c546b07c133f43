"""The queue before the pipeline: who is signed goes first, nothing is lost, nothing that is stuck holds up the rest."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import trust
from agent.errors import HostError, JournalError, UntrustedError
from agent.host.clock import FakeClock
from agent.intake import Intake
from agent.journal import Journal
from agent.pipeline import Pipeline
from agent.spool import Inbox, Outbox
from tests.unit.intake_kit import turn
from tests.vectors import make

GOOD = trust.sign_compact(make.claims(), trust.TYP_GRANT, make.private("cp-1")).encode()


class Scene:
    """An intake over real folders and a real journal; ``opened`` are the files' bytes in the order they were opened."""

    def __init__(self, folder: Path, open_: Callable[[bytes], None] = lambda _token: None) -> None:
        self.inbox, self.outbox = folder / "inbox", folder / "outbox"
        self.inbox.mkdir()
        self.outbox.mkdir()
        self.opened: list[bytes] = []
        self.told: list[Any] = []
        ring, clock = trust.keyring(make.jwks()), FakeClock()

        def opening(token: bytes) -> Any:
            trust.verify(token, ring, typ=trust.TYP_GRANT)
            open_(token)
            self.opened.append(token)
            return SimpleNamespace(record=SimpleNamespace(jti="grant-1"))

        self.pipeline = SimpleNamespace(
            inbox=Inbox(self.inbox), outbox=Outbox(self.outbox, clock, lambda _typ, _claims: "signed"), clock=clock, open=opening,
            clear=list, journal=Journal(folder / "state.db"), trail=SimpleNamespace(emit=self.told.extend), ring=lambda: ring,
        )  # fmt: skip
        self.intake = Intake(cast(Pipeline, self.pipeline))

    def put(self, name: str, data: bytes, *, hint: bool = True) -> None:
        (self.inbox / name).write_bytes(data)
        if hint:
            self.intake.sorting.hint(name)

    def work(self) -> int:
        """Until nothing waits; returns after how many turns. A turn that could go on for ever fails."""
        for number in range(1, 1000):
            if not self.turn():
                return number
        raise AssertionError("it never ends")

    def turn(self) -> bool:
        return turn(self.intake)

    def codes(self) -> list[str]:
        return [found.code for found in reversed(self.pipeline.journal.refusals())]


def test_a_signed_file_goes_before_a_flood_that_came_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path)
    taken: list[str] = []
    take = scene.pipeline.inbox.take

    def noted(name: str) -> bytes:
        taken.append(name)
        return bytes(take(name))

    monkeypatch.setattr(scene.pipeline.inbox, "take", noted)
    for number in range(200):
        scene.put(f"junk-{number}", b"junk")
    scene.put("real", GOOD)
    while not scene.opened:
        assert scene.turn()
    assert taken[0] == "real"
    scene.work()
    assert not list(scene.inbox.iterdir())
    assert len(list(scene.outbox.iterdir())) == 201


def test_what_no_event_told_of_is_found(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number in range(10):
        scene.put(f"silent-{number}", b"junk", hint=False)
    scene.put("heard", b"junk")
    scene.work()
    assert not list(scene.inbox.iterdir())


def test_two_events_for_one_file_are_one_answer(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.put("a", b"junk")
    scene.work()
    scene.intake.sorting.hint("a")
    scene.work()
    assert scene.codes() == ["token_shape"]


def test_a_busy_file_is_waited_for_and_holds_up_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with (scene.inbox / "slow").open("wb") as slow:
        slow.write(b"half")
        slow.flush()
        scene.intake.sorting.hint("slow")
        scene.put("quick", b"junk")
        scene.work()
        assert [path.name for path in scene.inbox.iterdir()] == ["slow"]
    scene.intake.sorting.hint("slow")
    scene.work()
    assert not list(scene.inbox.iterdir())


def test_a_file_that_cannot_be_removed_holds_up_nobody_and_is_tried_again_only_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    discard = scene.pipeline.inbox.discard

    def fails(name: str) -> bool:
        if name == "stuck":
            raise HostError("inbox_discard_failed", "no")
        return bool(discard(name))

    monkeypatch.setattr(scene.pipeline.inbox, "discard", fails)
    scene.put("stuck", b"junk")
    scene.put("real", GOOD)
    scene.work()
    assert (scene.opened, list(scene.intake.sorting.stuck())) == ([GOOD], ["stuck"])
    scene.intake.sorting.hint("stuck")
    scene.work()
    assert scene.codes() == ["token_shape"]
    monkeypatch.setattr(scene.pipeline.inbox, "discard", discard)
    scene.intake.sorting.retry()
    scene.work()
    assert not list(scene.inbox.iterdir())


def test_nothing_is_taken_out_that_could_not_be_journaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path)

    def full(*_refusals: object) -> None:
        raise JournalError("journal_failed", "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(scene.pipeline.journal, "refused", full)
        scene.put("a", b"junk")
        with pytest.raises(JournalError):
            scene.turn()
    assert [path.name for path in scene.inbox.iterdir()] == ["a"]
    scene.intake.sorting.retry()
    scene.work()
    assert scene.codes() == ["token_shape"]


def test_a_refusal_names_the_grant_where_its_signer_may(tmp_path: Path) -> None:
    def refuse(_token: bytes) -> None:
        raise UntrustedError("jti_replayed", "no")

    scene = Scene(tmp_path, refuse)
    scene.put("own", GOOD)
    other = make.claims()
    scene.put("foreign", trust.sign_compact(other, trust.TYP_GRANT, make.private("other")).encode())
    scene.put("evil", trust.sign_compact(make.claims(jti="../x", sub="a\nb"), trust.TYP_GRANT, make.private("cp-1")).encode())
    scene.work()
    named = {found.source: (found.jti, found.sub) for found in scene.pipeline.journal.refusals()}
    assert named == {"own": ("grant-1", "alice@example.com"), "foreign": ("", ""), "evil": ("", "")}


def test_only_what_lay_there_at_the_start_can_be_a_crashs_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes dropped later are a replay, and go the way of every token."""
    scene = Scene(tmp_path)
    monkeypatch.setattr(scene.pipeline.journal, "knows_leftover", lambda token: "grant-1" if token == GOOD else None)
    scene.put("left", GOOD)
    scene.intake.begin()
    scene.put("copy", GOOD)
    scene.work()
    assert scene.opened == [GOOD]  # the copy's way; the pipeline's journal would refuse it
    answers = [path.read_text() for path in scene.outbox.iterdir()]
    assert sorted("left" in answer for answer in answers) == [False, True]
    assert all('"verdict": "accepted"' in answer and '"jti": "grant-1"' in answer for answer in answers)


def test_a_file_that_a_crash_left_hidden_is_answered_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path)
    monkeypatch.setattr(scene.pipeline.journal, "knows_leftover", lambda token: "grant-1" if token == GOOD else None)
    (scene.inbox / ".taken-0123456789abcdef").write_bytes(GOOD)
    scene.intake.begin()
    scene.work()
    (answer,) = scene.outbox.iterdir()
    assert '"verdict": "accepted"' in answer.read_text()
    assert list(scene.inbox.iterdir()) == []
    assert scene.opened == []
