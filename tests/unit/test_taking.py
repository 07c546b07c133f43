"""What wakes which thread of the inbox, and when it is tried again. The threads run inline."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent import orders
from agent import taking as taking_module
from agent.errors import HostError, JournalError
from agent.taking import Taking
from tests.unit.lifecycle_kit import Inline
from tests.unit.test_intake import GOOD, Scene
from tests.unit.test_sorting import ORDER


class Desk:
    """A Taking over a scene; ``timers`` are what is to be called later, by what it is about."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, open_: Callable[[bytes], None] = lambda _token: None) -> None:
        monkeypatch.setattr(taking_module, "pool_of", lambda _size, _name: Inline())
        self.scene = Scene(folder, open_)
        self.timers: dict[str, Callable[[], None]] = {}
        self.set = 0
        self.problems: dict[str, str] = {}
        self.taking = Taking(self.scene.intake, Inline(), self._later, self.problems)

    def _later(self, what: str, call: Callable[[], None], delay_s: float) -> None:
        assert delay_s > 0
        self.set += what == "inbox"
        self.timers[what] = call

    def put(self, name: str, data: bytes) -> None:
        self.scene.put(name, data)
        self.taking.look()

    def left(self) -> list[str]:
        return sorted(path.name for path in self.scene.inbox.iterdir())


def test_nothing_is_looked_at_before_the_start_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch)
    desk.put("a", GOOD)
    desk.taking.retry()
    assert desk.left() == ["a"]
    desk.taking.begin()
    desk.taking.retry()
    assert (desk.left(), desk.scene.opened, desk.problems) == ([], [GOOD], {})


def test_all_that_lies_there_is_taken_though_one_event_told_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch)
    desk.taking.begin()
    for number in range(150):
        desk.scene.put(f"silent-{number}", GOOD, hint=False)
    desk.put("heard", b"junk")
    assert (desk.left(), len(desk.scene.opened), desk.problems) == ([], 150, {})


def test_what_can_not_be_written_down_is_told_and_tried_again_by_one_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = True

    def opening(_token: bytes) -> None:
        if failing:
            raise JournalError("journal_failed", "disk full")

    desk = Desk(tmp_path, monkeypatch, opening)
    desk.taking.begin()
    desk.put("a", GOOD)
    desk.put("b", GOOD)
    assert (desk.left(), list(desk.problems), desk.set) == (["a", "b"], ["grants"], 1)
    desk.timers.pop("inbox")()
    assert (list(desk.problems), desk.set) == (["grants"], 2)
    failing = False
    desk.timers.pop("inbox")()
    assert (desk.left(), desk.problems) == ([], {})


def test_an_order_that_can_not_be_written_down_is_told_as_long_as_it_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> orders.Taken:
        raise JournalError("journal_failed", "disk full")

    desk = Desk(tmp_path, monkeypatch)
    desk.taking.begin()
    with monkeypatch.context() as patch:
        patch.setattr(orders, "take_event", full)
        desk.put("order", ORDER)
        desk.put("grant", GOOD)
        assert (desk.left(), list(desk.problems), desk.scene.opened) == (["grant", "order"], ["orders"], [])
    monkeypatch.setattr(orders, "take_event", lambda *_: orders.Taken("set-1", ()))
    desk.timers.pop("inbox")()
    assert (desk.left(), desk.problems, desk.scene.opened) == ([], {}, [GOOD])


def test_an_error_of_our_own_is_told_and_what_waits_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch)
    desk.taking.begin()
    with monkeypatch.context() as patch:
        patch.setattr(desk.scene.intake.sorting, "sort", lambda: 1 // 0)
        desk.put("a", GOOD)
        assert (desk.left(), list(desk.problems), list(desk.timers)) == (["a"], ["orders"], ["inbox"])
    desk.timers.pop("inbox")()
    assert (desk.left(), desk.problems) == ([], {})


def test_a_file_that_stays_is_told_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, monkeypatch)
    desk.taking.begin()
    discard = desk.scene.pipeline.inbox.discard

    def fails(name: str) -> bool:
        raise HostError("inbox_discard_failed", name)

    monkeypatch.setattr(desk.scene.pipeline.inbox, "discard", fails)
    desk.put("stays", b"junk")
    assert list(desk.problems) == ["inbox"]
    assert "stays" in desk.problems["inbox"]
    monkeypatch.setattr(desk.scene.pipeline.inbox, "discard", discard)
    desk.timers.pop("inbox")()
    assert (desk.left(), desk.problems) == ([], {})


def test_none_of_many_orders_waits_for_the_disk_to_be_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried_out: list[object] = []

    def full(*arguments: object) -> orders.Taken:
        carried_out.append(arguments)
        raise JournalError("journal_failed", "disk full")

    monkeypatch.setattr(orders, "take_event", full)
    desk = Desk(tmp_path, monkeypatch)
    desk.taking.begin()
    for number in range(300):
        desk.scene.put(f"order-{number}", ORDER)
    desk.taking.look()
    assert (len(carried_out), list(desk.problems), desk.set) == (300, ["orders"], 1)
