"""Journals of earlier versions, written by the code of their time: brought up whole, with a copy kept, or left as they were."""

import contextlib
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent import backstop
from agent.config import Config, Paths
from agent.errors import JournalError, UntrustedError
from agent.host import files
from agent.journal import GrantState, Journal, StepState, upgrade
from agent.journal.upgrade import SCHEMA_VERSION
from agent.keeping import open_kept
from agent.model import Revocation, SubjectFormat
from agent.trust import HostKey
from tests.unit import journal_kit
from tests.unit.journal_kit import NS, WALL
from tests.unit.killing import killed_at

JOURNALS = Path(__file__).parent / "journals"
NAMES = sorted(path.stem for path in JOURNALS.glob("*.sql"))
every = pytest.mark.parametrize("name", NAMES)


def older(path: Path, name: str) -> Path:
    """The journal of that time as its daemon left it: in WAL mode, root's alone."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((JOURNALS / f"{name}.sql").read_text())
        db.execute("PRAGMA journal_mode=WAL")
    path.chmod(0o600)
    return path


def dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [f"version {db.execute('PRAGMA user_version').fetchone()[0]}", *db.iterdump()]


def shape(path: Path) -> set[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return set(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall())


def config(folder: Path) -> Config:
    return Config(paths=Paths(state_db=folder / "state.db", host_key=folder / "host.jwk", outbox=folder / "outbox", run_dir=folder))


def test_there_are_journals_of_the_first_version_and_of_its_last_shape() -> None:
    assert {"first", "last"} <= set(NAMES)


@every
def test_what_was_in_it_is_there_afterwards_and_its_tables_are_todays(tmp_path: Path, name: str) -> None:
    path = older(tmp_path / "state.db", name)
    Journal(tmp_path / "fresh.db").close()
    journal = Journal(path)
    opened, opening, pending = journal.live()
    assert [record.state for record in (opened, opening, pending)] == [GrantState.OPEN, GrantState.OPENING, GrantState.PENDING]
    assert (opened.jti, opened.exp, opened.boot_id, opened.boot_deadline_ns) == ("open", WALL + 600, "boot-1", 5 * NS)
    assert (opened.uids, opened.logins, opened.token) == ({"jit-open": 70001}, ("jit-open",), b"token-open")
    assert [step.step for step in journal.steps(opened.id)] == list(journal_kit.plan().steps)
    assert {step.state for step in journal.steps(opened.id)} == {StepState.DONE}
    assert {step.state for step in journal.steps(opening.id)} == {StepState.INTEND}
    assert journal.receipts() == [("receipt-over", "a.b.c")]
    assert (journal.last_uid(), journal.refusals()[0].source) == (70002, "x.jwt")
    assert journal.notes(opened.id) == ({} if name == "first" else {"baseline": {"kept": "open"}})
    with pytest.raises(UntrustedError, match="used before"):
        journal.refuse_replay(replace(journal_kit.grant("over"), iss="https://cp"))
    journal.check()
    journal.close()
    assert shape(path) == shape(tmp_path / "fresh.db")
    assert path.stat().st_mode & 0o777 == 0o600


@every
def test_it_goes_on_from_there_with_all_that_today_knows(tmp_path: Path, name: str) -> None:
    journal = Journal(older(tmp_path / "state.db", name))
    opened = journal.live()[0]
    journal.orders.suspended(opened.id, True)
    journal.orders.suspended(opened.id, False)
    record = journal.accept(
        journal_kit.grant("next"),
        token=b"n",
        summary="s",
        rule="r",
        received_ns=1,
        boot=("b", 1),
        plan=journal_kit.plan(),
        fresh_within_s=9,
    )
    assert record.id == 5, "ids go on where they were"
    assert journal.ended(opened.id, 9, residue=0, receipt=("receipt-open", "d.e.f"))
    assert journal.forget_before(WALL + 600 + 91 * 86400) >= 1
    with pytest.raises(JournalError):
        journal.orders.suspended(opened.id, True)
    assert journal._db.rows("PRAGMA foreign_keys")[0][0] == 1
    assert journal._db.rows("PRAGMA foreign_key_check") == []


def test_a_grant_of_which_nobody_knows_when_it_was_signed_is_reached_by_any_revocation_of_its_subject(tmp_path: Path) -> None:
    journal = Journal(older(tmp_path / "state.db", "first"))
    assert {record.iat for record in journal.live()} == {0}
    revocation = Revocation("https://cp", "ev-1", 1, SubjectFormat.EMAIL, ("https://cp",), "alice@example.com", "")
    journal.orders.revoke(revocation, 1)
    assert journal.orders.revoked("https://cp", "open", "alice@example.com", journal.live()[0].iat)


@every
def test_one_copy_of_it_is_kept_as_it_was(tmp_path: Path, name: str) -> None:
    path = older(tmp_path / "state.db", name)
    before = dump(path)
    (tmp_path / "state.db.~0~").write_text("of a version before that")
    Journal(path).close()
    kept = tmp_path / "state.db.~1~"
    assert dump(kept) == before
    assert kept.stat().st_mode & 0o777 == 0o600
    assert {entry.name for entry in tmp_path.iterdir()} == {"state.db", "state.db.~1~"}
    at = kept.stat().st_mtime_ns
    Journal(path).close()
    assert kept.stat().st_mtime_ns == at, "nothing is done the second time"


@every
def test_a_kill_at_any_moment_leaves_the_old_one_or_the_new_one(tmp_path: Path, name: str) -> None:
    path = older(tmp_path / "state.db", name)
    before, told = dump(path), set()
    Journal(path).close()
    after = dump(path)
    for line in range(1 + NAMES.index(name), 2000, 11):  # other lines for each
        older(path, name)
        killed = killed_at(line, lambda: Journal(path).close(), {str(upgrade.__file__)})
        found = dump(path)
        assert found in (before, after), line
        told.add(found == after)
        kept = tmp_path / "state.db.~1~"
        assert dump(kept) == before if kept.exists() else found == before, line
        Journal(path).close()
        assert dump(path) == after, line
        assert {entry.name for entry in tmp_path.iterdir()} == {"state.db", "state.db.~1~"}, line
        kept.unlink()
        if not killed:
            assert line > 200
            assert told == {False, True}
            return
    raise AssertionError("it never came to its end")


def _no_copy(*_: object) -> None:
    raise OSError(28, "No space left on device")


def _no_rebuild(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE receipts")
    raise sqlite3.OperationalError("database or disk is full")


@every
@pytest.mark.parametrize(("what", "fails"), [("_keep_copy", _no_copy), ("_rebuild", _no_rebuild)])
def test_where_it_can_not_be_done_all_ends_on_time_from_memory_and_nothing_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, fails: Callable[..., None]
) -> None:
    path = older(tmp_path / "state.db", name)
    HostKey.load_or_create(tmp_path / "host.jwk")
    before, real = dump(path), getattr(upgrade, what)

    def on_disk(first: object, *more: object) -> None:
        named = first.execute("PRAGMA database_list").fetchone()[2] if isinstance(first, sqlite3.Connection) else first
        (fails if named else real)(first, *more)

    monkeypatch.setattr(upgrade, what, on_disk)
    kept = open_kept(config(tmp_path))
    assert kept.stuck
    assert "can't be written" in kept.closing
    opened = kept.journal.live()[0]
    assert (opened.jti, opened.state) == ("open", GrantState.OPEN), "on to its time"
    assert kept.journal.ended(opened.id, 9, residue=0, receipt=("r", "a.b.c"))
    assert dump(path) == before
    assert not list(tmp_path.glob("*.damaged-*"))
    monkeypatch.undo()
    assert not open_kept(config(tmp_path)).closing


@every
def test_who_only_reads_sees_todays_tables_and_touches_nothing(tmp_path: Path, name: str) -> None:
    path = older(tmp_path / "state.db", name)
    data = path.read_bytes()
    reader = Journal(path, read_only=True)
    assert [record.jti for record in reader.live()] == ["open", "opening", "pending"]
    with pytest.raises(JournalError):
        reader.ended(2, 9, residue=0, receipt=("r", "a.b.c"))
    reader.close()
    assert path.read_bytes() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.db"]


def newer(path: Path) -> None:
    """As a later version may have it: another number, a state and columns that nobody here knows, some of ours gone."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(
            "ALTER TABLE grants DROP COLUMN ticket; ALTER TABLE grants ADD COLUMN colour TEXT;"
            "ALTER TABLE notes RENAME TO remarks;"
            "PRAGMA ignore_check_constraints=ON; UPDATE grants SET state='resting' WHERE jti='open';"
            f"PRAGMA user_version={SCHEMA_VERSION + 1};"
        )


def test_of_a_newer_journal_all_that_is_live_is_ended_nothing_opened_and_the_file_kept(tmp_path: Path) -> None:
    path = older(tmp_path / "state.db", "last")
    Journal(path).close()
    HostKey.load_or_create(tmp_path / "host.jwk")
    newer(path)
    before = dump(path)
    with pytest.raises(JournalError, match="newer"):
        Journal(path, read_only=True)
    for alone in (False, True):
        with pytest.raises(JournalError, match="newer"):
            backstop._pipeline(config(tmp_path), alone)
    assert dump(path) == before, "a backstop's older program leaves it to the newer daemon, which may be starting"
    kept = open_kept(config(tmp_path), end_newer=True)
    assert "newer Tidegate" in kept.closing
    assert (kept.lost, kept.stuck) == (True, False)
    live = {record.jti: record for record in kept.journal.live()}
    assert set(live) == {"open", "opening", "pending"}
    assert {record.state for record in live.values()} == {GrantState.SHUTTING}
    assert live["open"].uids == {"jit-open": 70001}
    assert len(kept.journal.steps(live["open"].id)) == 3
    (aside,) = (entry for entry in tmp_path.glob("state.db.newer-*") if not entry.name.endswith(("-wal", "-shm")))
    assert dump(aside) == before
    assert not list(tmp_path.glob("*.damaged-*"))
    with pytest.raises(UntrustedError, match="jti_replayed"):
        kept.journal.refuse_replay(replace(journal_kit.grant("before"), iat=1))
    kept.journal.close()
    assert open_kept(config(tmp_path)).closing == kept.closing, "until all of it is over"


def test_a_downgrade_that_ended_all_first_finds_nothing_live_and_goes_on(tmp_path: Path) -> None:
    path = older(tmp_path / "state.db", "last")
    journal = Journal(path)
    for record in journal.live():
        journal.ended(record.id, 9, residue=0, receipt=(f"receipt-{record.jti}", "a.b.c"))
    journal.close()
    HostKey.load_or_create(tmp_path / "host.jwk")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    kept = open_kept(config(tmp_path), end_newer=True)
    assert kept.journal.live() == []
    assert len(kept.journal.receipts()) == 4
    assert kept.journal.last_uid() >= 70002
    kept.journal.anew.closing_over()
    kept.journal.close()
    assert open_kept(config(tmp_path)).closing == ""


def test_two_at_once_bring_it_up_once(tmp_path: Path) -> None:
    path = older(tmp_path / "state.db", "middle")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                os._exit(0 if len(Journal(path, busy_ms=20_000).live()) == 3 else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(dump(tmp_path / "state.db.~1~")) > 10
    assert not list(tmp_path.glob(f"{files.TEMPORARY}*"))
