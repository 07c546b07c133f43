"""An order to end a grant outlives the daemon, though the journal took nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.errors import HostError, JournalError
from agent.expiry.ending import Ending
from agent.expiry.ledger import Ledger
from agent.expiry.reserve import Reserve
from agent.host import files
from agent.host.clock import FakeClock
from agent.journal import EndCause, GrantState, Journal
from tests.unit.journal_kit import NS, WALL, grant, plan


def digest(number: int) -> str:
    return f"{number:064x}"


def reserve(folder: Path) -> Reserve:
    """As at a start."""
    made = Reserve(folder / "disk", folder / "run")
    made.recall()
    return made


def test_an_order_is_recalled_until_the_journal_has_it(tmp_path: Path) -> None:
    first = reserve(tmp_path)
    assert first.keep([digest(1), digest(2)], EndCause.REVOKED, "left\nthe project")
    assert first.keep([digest(3)], EndCause.FAILED, "")
    assert first.keep([digest(3)], EndCause.FAILED, "")  # a second try takes no second page
    second = Reserve(tmp_path / "disk", tmp_path / "run")
    revoked = (EndCause.REVOKED, "left\\x0athe project")
    assert second.recall() == {digest(1): revoked, digest(2): revoked, digest(3): (EndCause.FAILED, "")}
    second.drop([digest(1), digest(3)])
    assert set(reserve(tmp_path).recall()) == {digest(1), digest(2)}  # a page goes when all on it are written down
    second.drop([digest(2)])
    assert reserve(tmp_path).recall() == {}


def _blocks(folder: Path) -> list[tuple[int, int]]:
    return [((folder / name).stat().st_size, (folder / name).stat().st_ino) for name in ("disk", "run")]


def test_keeping_an_order_needs_no_new_block(tmp_path: Path) -> None:
    made = reserve(tmp_path)
    before = _blocks(tmp_path)
    assert made.keep([digest(number) for number in range(500)], EndCause.REVOKED, "\u2028" * 500)
    assert _blocks(tmp_path) == before
    assert len(reserve(tmp_path).recall()) == 500
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o600


def test_a_disk_that_takes_nothing_leaves_it_to_run_and_a_full_reserve_says_so(tmp_path: Path) -> None:
    made = reserve(tmp_path)
    (tmp_path / "disk").unlink()
    assert made.keep([digest(1)], EndCause.REVOKED, "x")
    assert set(reserve(tmp_path).recall()) == {digest(1)}
    kept = [made.keep([digest(1000 + number)], EndCause.REVOKED, "x") for number in range(200)]
    assert kept.index(False) == 2 * 64 - 1  # made anew at the start between, the one on disk is of use again
    (tmp_path / "run").unlink()
    assert not made.keep([digest(7)], EndCause.REVOKED, "x")


@pytest.mark.parametrize("page", [b"{", b"[]", b'{"cause": "boredom", "text": "", "grants": []}', b'{"grants": 3}', b"\xff"])
def test_a_page_that_was_being_written_when_the_power_went_is_no_order(tmp_path: Path, page: bytes) -> None:
    assert reserve(tmp_path).keep([digest(1)], EndCause.REVOKED, "x")
    files.overwrite(tmp_path / "disk", 4096, page)
    assert set(reserve(tmp_path).recall()) == {digest(1)}


def test_a_folder_that_is_not_there_is_said_and_raises_nothing(tmp_path: Path) -> None:
    made = Reserve(tmp_path / "none" / "disk")
    assert made.recall() == {}
    assert not made.keep([digest(1)], EndCause.REVOKED, "x")


class Full:
    """A journal on a disk that is full for as long as ``full`` is set."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.full = True

    def __getattr__(self, name: str) -> Any:
        if self.full and name in {"shutting", "undone", "failed_to_end", "ended", "shipped"}:
            return self._fail
        return getattr(self._journal, name)

    @staticmethod
    def _fail(*_: object, **__: object) -> None:
        raise JournalError("journal_failed", "database or disk is full")


def ending(folder: Path, journal: Any, ledger: Ledger, clock: FakeClock) -> Ending:
    outbox, trail, key = (SimpleNamespace() for _ in range(3))
    return Ending("host", clock, cast(Any, key), journal, ledger, cast(Any, outbox), cast(Any, trail), Reserve(folder / "disk"))


@pytest.mark.parametrize("cause", [EndCause.REVOKED, EndCause.FAILED])
def test_a_revocation_on_a_full_disk_is_not_forgotten_by_the_next_start(tmp_path: Path, cause: EndCause) -> None:
    clock, journal = FakeClock(), Journal(tmp_path / "state.db")
    given = grant(exp=WALL + 600)
    about = {
        "token": b"t",
        "summary": "",
        "rule": "",
        "received_ns": WALL * NS,
        "boot": (clock.boot_id(), clock.boot_ns() + 600 * NS),
    }
    journal.opened(journal.accept(given, plan=plan(), **about).id, WALL * NS)  # type: ignore[arg-type]
    full, ledger = Full(journal), Ledger(clock)
    (live,) = ledger.load(journal)
    before = ending(tmp_path, full, ledger, clock)
    before.recall([live])
    before.begin(ledger.begin_shutting([live], cause, "by uid 0"), cause, "by uid 0")
    assert journal.grant(live.id).state is GrantState.OPEN  # killed here

    again = Ledger(clock)
    (found,) = again.load(journal)
    assert found.state is GrantState.OPEN
    after = ending(tmp_path, full, again, clock)
    after.recall([found])
    assert (found.state, found.cause, found.cause_text) == (GrantState.SHUTTING, cause, "by uid 0")

    full.full = False
    after.begin(again.begin_shutting([found], EndCause.EXPIRED), EndCause.EXPIRED, "")
    record = journal.grant(live.id)
    assert (record.state, record.cause, record.cause_text) == (GrantState.SHUTTING, cause, "by uid 0")
    assert Reserve(tmp_path / "disk").recall() == {}
    journal.close()


def test_an_expiry_takes_no_room_and_an_order_for_a_grant_that_is_over_goes(tmp_path: Path) -> None:
    clock, journal = FakeClock(), Journal(tmp_path / "state.db")
    full, ledger = Full(journal), Ledger(clock)
    kept = Reserve(tmp_path / "disk")
    kept.recall()
    assert kept.keep([digest(9)], EndCause.REVOKED, "x")
    found = ending(tmp_path, full, ledger, clock)
    found.recall([])
    assert Reserve(tmp_path / "disk").recall() == {}
    journal.close()


def test_the_reserve_is_whole_or_made_again(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"short")
    assert Reserve(tmp_path / "disk").recall() == {}
    assert (tmp_path / "disk").stat().st_size == 64 * 4096
    (tmp_path / "disk").unlink()
    (tmp_path / "disk").symlink_to("/etc/passwd")
    assert Reserve(tmp_path / "disk").recall() == {}
    with pytest.raises(HostError):
        files.overwrite(tmp_path / "disk", 0, b"x")
