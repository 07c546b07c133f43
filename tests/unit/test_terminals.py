"""A word on a tenant's terminals: it reaches them, nobody else, and never waits."""

import os
import pty
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from agent.sessions import terminals
from agent.sessions.terminals import tell, tell_each, terminals_of

ME = os.getuid()


@pytest.fixture
def pair() -> Iterator[tuple[int, Path]]:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    yield master, Path(name)
    for descriptor in (master, slave):
        os.close(descriptor)


@pytest.fixture
def only(pair: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> tuple[int, Path]:
    """No other terminal of this machine is looked at."""
    monkeypatch.setattr(terminals, "terminals_of", lambda uids, _: [pair[1]] if uids else [])
    return pair


def test_a_terminal_of_the_tenant_gets_the_line(only: tuple[int, Path]) -> None:
    assert tell({ME}, "your access ends in 1 minute") == 1
    assert os.read(only[0], 1000).strip() == b"*** your access ends in 1 minute ***"


def test_what_is_told_moves_no_cursor(only: tuple[int, Path]) -> None:
    tell({ME}, "a\x1b[2J\r\n\udcff\u202e")
    assert os.read(only[0], 1000).strip() == b"*** a\\x1b[2J\\x0d\\x0a\\xff\\u202e ***"


def test_a_terminal_whose_output_nobody_takes_does_not_hold_us_up(only: tuple[int, Path]) -> None:
    began, told = time.monotonic(), 0
    for _ in range(300):
        told += tell({ME}, "x" * 400)
    assert time.monotonic() - began < 5
    assert told < 300, "what does not fit is dropped"


def test_a_number_that_is_anothers_by_now_is_not_written_to(only: tuple[int, Path]) -> None:
    assert tell({ME + 1}, "secret") == 0
    os.set_blocking(only[0], False)
    with pytest.raises(BlockingIOError):
        os.read(only[0], 1)


def test_only_character_devices_of_these_users_count(tmp_path: Path, pair: tuple[int, Path]) -> None:
    (tmp_path / "1").write_text("a file")
    os.mkfifo(tmp_path / "2")
    (tmp_path / "3").symlink_to(pair[1])
    assert terminals_of({ME}, tmp_path) == []
    assert terminals_of({ME}, tmp_path / "none") == []
    if os.geteuid() == 0:
        os.mknod(tmp_path / "4", stat.S_IFCHR | 0o600, os.makedev(1, 3))  # null: harmless to write to
        assert terminals_of({ME}, tmp_path) == [tmp_path / "4"]
        assert terminals_of({ME + 1}, tmp_path) == []


def test_nobody_is_told_nothing(tmp_path: Path) -> None:
    assert tell([], "x", tmp_path) == 0
    assert tell({ME}, "x", tmp_path / "none") == 0


def test_however_many_are_told_the_terminals_are_looked_through_once(
    pair: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []

    def found(uids: Collection[int], _: Path) -> list[Path]:
        asked.append(set(uids))
        return [pair[1]]

    monkeypatch.setattr(terminals, "terminals_of", found)
    assert tell_each({ME + 1: "not to you", ME: "to you", ME + 2: "nor to you"}) == 1
    assert (asked, os.read(pair[0], 1000).strip()) == ([{ME, ME + 1, ME + 2}], b"*** to you ***")


def test_a_terminal_that_went_away_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminals, "terminals_of", lambda *_: [tmp_path / "gone"])
    assert tell({ME}, "x") == 0
