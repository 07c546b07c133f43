"""What the journal promises about each sentence it writes."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import JournalError, UntrustedError
from agent.host.clock import Mark
from agent.journal import EndCause, GrantRecord, GrantState, Journal, StepState
from agent.journal.database import Database
from agent.journal.records import Refusal
from agent.journal.upgrade import SCHEMA_VERSION
from agent.model import Plan
from tests.unit.journal_kit import NS, WALL, grant, plan

BOOT = ("boot-1", 5 * NS)


def accept(journal: Journal, jti: str = "g-1", *, exp: int = WALL + 600, planned: Plan | None = None) -> GrantRecord:
    given = grant(jti, exp=exp)
    return journal.accept(given, token=jti.encode(), summary="s", rule="r", received_ns=WALL * NS, boot=BOOT, plan=planned)


def end(journal: Journal, record: GrantRecord, *, residue: int = 0) -> bool:
    return journal.ended(record.id, WALL * NS + 1, residue=residue, receipt=(f"receipt-{record.jti}", "a.b.c"))


def test_what_was_accepted_is_there_after_a_restart_to_the_last_field(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    record = accept(journal, planned=plan(uids={"jit-alice": 70001}))
    steps = journal.steps(record.id)
    journal.close()
    again = Journal(tmp_path / "state.db")
    assert again.live() == [record]
    assert again.steps(record.id) == steps
    assert (record.state, record.uids, record.logins) == (GrantState.OPENING, {"jit-alice": 70001}, ("jit-alice",))
    assert [found.step for found in steps] == list(plan().steps)
    assert {found.state for found in steps} == {StepState.INTEND}
    again.close()


def test_the_journal_is_roots_alone_and_no_symlink_is_followed(tmp_path: Path) -> None:
    Journal(tmp_path / "state.db").close()
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path / "link.db")
    assert caught.value.code == "journal_unreadable"
    assert not (tmp_path / "elsewhere.db").exists()


def test_a_second_connection_of_this_process_lets_go_of_no_lock_of_the_first(tmp_path: Path) -> None:
    """As a backstop has it (agent.early). Who else closes it would think to be the last, and take the WAL from under it."""
    path = tmp_path / "state.db"
    first = Journal(path)
    accept(first)
    second = Journal(path)
    other = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(*db.execute('SELECT count(*) FROM grants').fetchone())"
    done = subprocess.run([sys.executable, "-I", "-c", f"{other}; db.close()", path], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert path.with_name("state.db-wal").exists()
    first.close()
    second.close()


def test_every_commit_is_synced_before_it_returns(journal: Journal) -> None:
    assert journal._db.rows("PRAGMA synchronous")[0][0] == 2
    assert journal._db.rows("PRAGMA journal_mode")[0][0] == "wal"


def test_a_journal_of_a_newer_tidegate_is_refused_untouched(tmp_path: Path) -> None:
    Journal(tmp_path / "state.db").close()
    raw = sqlite3.connect(tmp_path / "state.db")
    raw.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    raw.close()
    with pytest.raises(JournalError) as caught:
        Journal(tmp_path / "state.db")
    assert caught.value.code == "journal_newer"


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_journal_is_said_so_and_not_replaced(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state.db").write_bytes(damage)
    with pytest.raises(JournalError):
        Journal(tmp_path / "state.db")
    assert (tmp_path / "state.db").read_bytes() == damage


def test_a_token_id_is_used_once_also_while_its_grant_lives_after_it_ended_and_after_it_is_forgotten(journal: Journal) -> None:
    record = accept(journal)
    for _ in range(2):
        with pytest.raises(UntrustedError, match="used before"):
            journal.refuse_replay(grant())
        end(journal, record)
    assert journal.forget_before(WALL + 600 + 91 * 86400) == 1
    assert journal.by_jti("g-1") == []
    with pytest.raises(UntrustedError) as caught:
        journal.refuse_replay(grant())
    assert caught.value.code == "jti_replayed"
    journal.refuse_replay(grant("g-2", exp=WALL + 601))


def test_forgetting_spares_what_is_live_what_is_recent_and_what_another_issuer_named_alike(journal: Journal) -> None:
    live = accept(journal, "live", exp=WALL - 10)
    recent = accept(journal, "recent")
    end(journal, recent)
    assert journal.forget_before(WALL + 90 * 86400 + 600) == 0
    assert journal.forget_before(WALL + 600 + 1, keep_s=0) == 0, "a week is kept whatever is asked"
    assert {found.jti for found in journal.recent(10)} == {live.jti, recent.jti}
    journal.refuse_replay(grant("recent", iss="https://other"))


def test_the_same_token_taken_by_two_threads_is_accepted_once(journal: Journal) -> None:
    taken: list[str] = []
    gate = threading.Barrier(4)

    def take() -> None:
        gate.wait()
        try:
            taken.append(accept(journal).jti)
        except JournalError:
            taken.append("refused")

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == ["g-1", "refused", "refused", "refused"]


def test_a_leftover_of_the_inbox_is_known_only_while_its_grant_lives(journal: Journal) -> None:
    record = accept(journal)
    assert journal.knows_leftover(b"g-1")
    assert not journal.knows_leftover(b"g-1 ")
    end(journal, record)
    assert not journal.knows_leftover(b"g-1")


def test_a_uid_of_another_grant_or_with_something_left_is_never_given_out_again(journal: Journal) -> None:
    first = accept(journal, "first", planned=plan(uids={"jit-alice": 70001}))
    with pytest.raises(JournalError) as caught:
        accept(journal, "second", planned=plan(uids={"jit-bob": 70001}))
    assert caught.value.code == "uid_spoken_for"
    assert journal.by_jti("second") == [], "nothing of a refused plan stays"
    end(journal, first, residue=1)
    assert journal.spoken_for_uids() == {70001}
    with pytest.raises(JournalError):
        accept(journal, "third", planned=plan(uids={"jit-bob": 70001}))


def test_a_clean_tombstone_is_free_and_comes_back_last(journal: Journal) -> None:
    first = accept(journal, "first", planned=plan(uids={"jit-alice": 70001}))
    end(journal, first)
    assert (journal.spoken_for_uids(), journal.last_uid()) == (frozenset(), 70001)
    second = accept(journal, "second", planned=plan(uids={"jit-bob": 70001}))
    assert second.uids == {"jit-bob": 70001}
    assert journal.spoken_for_uids() == {70001}


def test_a_tombstone_with_residue_outlives_its_forgotten_grant(journal: Journal) -> None:
    record = accept(journal, planned=plan(uids={"jit-alice": 70001}))
    end(journal, record, residue=2)
    assert journal.forget_before(WALL + 200 * 86400) == 1
    assert journal.spoken_for_uids() == {70001}


@pytest.mark.parametrize("state", ["open", "shutting", "ended"])
def test_a_grant_whose_end_has_begun_is_never_opened(journal: Journal, state: str) -> None:
    record = accept(journal)
    journal.shutting([(record.id, "")], EndCause.REVOKED)
    if state == "ended":
        end(journal, record)
    if state == "open":
        record = accept(journal, "g-2", planned=plan())
        journal.opened(record.id, 1)
    acts: list[Callable[[], None]] = [lambda: journal.intend(record.id, plan(), 1), lambda: journal.opened(record.id, 1)]
    for act in acts:
        with pytest.raises(JournalError) as caught:
            act()
        assert caught.value.code == "grant_state"
    assert journal.grant(record.id).state == {"open": "open", "shutting": "shutting", "ended": "ended"}[state]


def test_a_second_end_keeps_the_first_receipt(journal: Journal) -> None:
    record = accept(journal)
    assert end(journal, record)
    assert not journal.ended(record.id, WALL * NS + 99, residue=5, receipt=("receipt-g-1", "later"))
    assert journal.receipts_of(record.id) == [("receipt-g-1", "a.b.c")]
    assert journal.grant(record.id).ended_ns == WALL * NS + 1
    journal.shutting([(record.id, "again")], EndCause.FAILED)
    assert journal.grant(record.id).state is GrantState.ENDED


def test_the_first_cause_of_an_end_stays_and_attempts_are_counted(journal: Journal) -> None:
    record = accept(journal)
    journal.shutting([(record.id, "by hand")], EndCause.REVOKED)
    journal.shutting([(record.id, "later")], EndCause.EXPIRED)
    found = journal.grant(record.id)
    assert (found.cause, found.cause_text, found.attempts) == (EndCause.REVOKED, "by hand", 2)


def test_a_failed_undo_stays_open_with_its_reason_and_a_later_success_closes_it(journal: Journal) -> None:
    record = accept(journal, planned=plan())
    journal.opened(record.id, 1)
    journal.undone(record.id, [(0, "busy"), (1, ""), (-1, "no step of ours")])
    assert [(found.state, found.error) for found in journal.steps(record.id)] == [("done", "busy"), ("undone", ""), ("done", "")]
    journal.undone(record.id, [(0, "")])
    assert journal.steps(record.id)[0].state is StepState.UNDONE


@pytest.mark.parametrize("hostile", ["\udcff\udc80", "a\ud800b", "\x00\n\x1b[2J", "\u202e" * 3000])
def test_text_that_a_tenant_or_an_admin_can_choose_never_keeps_a_grant_from_ending(journal: Journal, hostile: str) -> None:
    record = accept(journal, planned=plan())
    journal.shutting([(record.id, hostile)], EndCause.REVOKED)
    journal.undone(record.id, [(0, hostile), (1, "")])
    journal.failed_to_end(record.id, hostile)
    kept = [journal.grant(record.id).cause_text, journal.grant(record.id).last_error, journal.steps(record.id)[0].error]
    assert all(text and text.isprintable() and len(text) <= 500 for text in kept)
    assert journal.steps(record.id)[0].state is StepState.INTEND
    assert end(journal, record)


def test_what_does_not_fit_the_file_is_a_journal_error_with_nothing_changed(journal: Journal) -> None:
    with pytest.raises(JournalError):
        accept(journal, exp=1 << 70)
    with pytest.raises(JournalError):
        journal.refuse_replay(grant("\udcff"))
    assert journal.recent(10) == []
    assert accept(journal).jti == "g-1"


def test_a_step_that_cant_be_read_any_more_is_left_to_no_enforcer_and_does_not_hide_the_others(journal: Journal) -> None:
    record = accept(journal, planned=plan())
    with journal._db.transaction() as db:
        db.execute("UPDATE steps SET step='{\"enforcer\":3}' WHERE seq=1")
    found = journal.steps(record.id)
    assert [each.step.enforcer for each in found] == ["fake", "unreadable", "fake"]
    assert found[1].step.phase == "close"


def test_the_high_water_mark_of_the_wall_clock_never_goes_back_whichever_thread_is_slower(journal: Journal) -> None:
    accept(journal)
    threads = [threading.Thread(target=journal.mark, args=(Mark(n, "boot-1", n),)) for n in range(40, 0, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.last_mark() == Mark(40, "boot-1", 40)
    journal.mark(Mark(39, "boot-2", 1))
    assert journal.last_mark() == Mark(40, "boot-1", 40)


def test_a_deadline_carried_to_a_new_boot_is_what_the_next_start_finds(journal: Journal) -> None:
    record = accept(journal)
    journal.carry([(record.id, "boot-2", 77)])
    assert (journal.grant(record.id).boot_id, journal.grant(record.id).boot_deadline_ns) == ("boot-2", 77)


def test_refusals_are_kept_newest_first_and_never_more_than_a_hundred(journal: Journal) -> None:
    for n in range(130):
        journal.refused(Refusal(n, f"f{n}", "code", "reason", "field", "jti", "sub"))
    kept = journal.refusals()
    assert [found.at_ns for found in kept] == list(range(129, 29, -1))


def test_an_unknown_grant_is_said_so(journal: Journal) -> None:
    with pytest.raises(JournalError) as caught:
        journal.grant(7)
    assert caught.value.code == "grant_unknown"


def test_reading_only_changes_nothing_on_disk(tmp_path: Path) -> None:
    Journal(tmp_path / "state.db").close()
    before = sorted(path.name for path in tmp_path.iterdir())
    reader = Journal(tmp_path / "state.db", read_only=True)
    assert reader.live() == []
    with pytest.raises(JournalError):
        reader.mark(Mark(5))
    reader.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_closed_journal_answers_with_its_own_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    journal.close()
    for act in (journal.live, lambda: journal.mark(Mark(1)), journal.spoken_for_uids):
        with pytest.raises(JournalError):
            act()


# The database under it


class Flaky:
    """A connection whose COMMIT, or whose ROLLBACK, fails as on a full disk."""

    def __init__(self, real: sqlite3.Connection, fail: set[str]) -> None:
        self.real = real
        self.fail = fail

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction

    def execute(self, sql: str, *rest: object) -> sqlite3.Cursor:
        if sql in self.fail:
            raise sqlite3.OperationalError("database or disk is full")
        return self.real.execute(sql, *rest)  # type: ignore[arg-type]

    def close(self) -> None:
        self.real.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "d.db")
    yield found
    found.close()


def note(database: Database, key: str) -> None:
    with database.transaction() as db:
        db.execute("INSERT INTO meta VALUES (?,'v')", (key,))


def keys(database: Database) -> set[str]:
    return {row["key"] for row in database.rows("SELECT key FROM meta")}


@pytest.mark.parametrize("fail", [{"COMMIT"}, {"COMMIT", "ROLLBACK"}])
def test_a_failed_commit_leaves_nothing_and_the_next_one_works(database: Database, fail: set[str]) -> None:
    real = database._connection
    database._connection = Flaky(real, fail)  # type: ignore[assignment]
    with pytest.raises(JournalError, match="full"):
        note(database, "lost")
    database._connection = real
    note(database, "kept")
    assert keys(database) == {"kept"}


def test_a_rollback_that_sqlite_did_by_itself_does_not_hide_why(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction() as db:
        db.execute("ROLLBACK")
        _ = 1 / 0
    note(database, "kept")


def test_an_error_inside_a_nested_transaction_undoes_the_whole(database: Database) -> None:
    with pytest.raises(JournalError), database.transaction() as db:
        db.execute("INSERT INTO meta VALUES ('a','v')")
        with database.transaction() as inner:
            inner.execute("INSERT INTO meta VALUES (NULL,NULL)")
    assert keys(database) == set()
    note(database, "b")
    assert keys(database) == {"b"}


def test_another_process_that_holds_the_write_lock_is_an_error_in_bounded_time_and_no_deadlock(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "d.db", isolation_level=None)
    database._connection.execute("PRAGMA busy_timeout=50")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked"):
        note(database, "a")
    assert keys(database) == set(), "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    note(database, "a")


def test_a_database_that_may_not_grow_says_so_and_works_again_when_it_may(database: Database) -> None:
    pages = database.rows("PRAGMA page_count")[0][0]
    database.rows(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(JournalError, match="full"):
        note(database, "x" * 100_000)
    database.rows("PRAGMA max_page_count=100000")
    note(database, "kept")
    assert keys(database) == {"kept"}


def test_notes_about_a_grant_are_kept_replaced_and_forgotten_with_it(journal: Journal) -> None:
    record = accept(journal)
    journal.note(record.id, "baseline", {"units": ["a.service"]})
    journal.note(record.id, "baseline", {"units": []})
    journal._db.rows("INSERT INTO notes VALUES (?, 'bad', '{')", (record.id,))
    assert journal.notes(record.id) == {"baseline": {"units": []}}
    journal.ended(record.id, 1, residue=0, receipt=("r", "j"))
    assert journal.forget_before(record.exp + 100 * 86400) == 1
    assert journal.notes(record.id) == {}


def test_what_is_noted_together_is_one_commit_at_the_end_whichever_thread_noted_it(journal: Journal) -> None:
    record, other = accept(journal), accept(journal, jti="g-other")
    commits: list[str] = []
    journal._db._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with journal.noted_together(record.id):
        journal.note(record.id, "baseline", {"units": []})
        thread = threading.Thread(target=journal.note, args=(record.id, "backstops", "armed"))
        thread.start()
        thread.join()
        assert journal.notes(record.id) == {} and commits == []
        journal.note(other.id, "logged", 1)
        assert commits == ["COMMIT"], "another grant's is its own matter"
    assert journal.notes(record.id) == {"baseline": {"units": []}, "backstops": "armed"}
    assert len(commits) == 2
    journal.note(record.id, "baseline", 2)
    assert journal.notes(record.id)["baseline"] == 2 and len(commits) == 3


def test_what_was_noted_before_a_failure_is_kept(journal: Journal) -> None:
    record = accept(journal)
    with pytest.raises(ValueError, match="mine"), journal.noted_together(record.id):
        journal.note(record.id, "backstops", "armed")
        raise ValueError("mine")
    assert journal.notes(record.id) == {"backstops": "armed"}


def test_notes_that_cannot_be_written_together_are_an_error(journal: Journal) -> None:
    record = accept(journal)
    with pytest.raises(JournalError), journal.noted_together(record.id):
        journal.note(record.id, "backstops", "armed")
        journal.close()


def damage(path: Path, sql: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(sql)
    db.close()


@pytest.mark.parametrize("text", ["", "nonsense", "{", "null", "5", "[" * 5000, '{"a":1}'])
@pytest.mark.parametrize("column", ["logins", "not_containable"])
def test_a_row_whose_words_cant_be_read_is_still_a_live_grant(tmp_path: Path, column: str, text: str) -> None:
    journal = Journal(tmp_path / "state.db")
    record = accept(journal, planned=plan(uids={"jit-alice": 70001}))
    damage(tmp_path / "state.db", f"UPDATE grants SET {column}='{text}', cause='{text}'")
    (found,) = journal.live()
    assert (found.id, found.uids, getattr(found, column)) == (record.id, {"jit-alice": 70001}, ())
    assert found.cause is (EndCause.FAILED if text else None), "an end that was ordered stays ordered"
    assert [each.step for each in journal.steps(record.id)] == list(plan().steps)
    journal.close()


def test_a_number_that_cant_be_read_stops_what_opens_and_nothing_that_ends(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state.db")
    record = accept(journal, planned=plan(uids={"jit-alice": 70001}))
    for key in ("forgotten_through", "last_uid", "mark"):
        damage(tmp_path / "state.db", f"INSERT OR REPLACE INTO meta VALUES ('{key}', 'x')")
    for ask in (lambda: journal.refuse_replay(grant("g-2")), journal.last_uid):
        with pytest.raises(JournalError) as caught:
            ask()
        assert caught.value.code == "journal_damaged"
    for text in ("x", "[1]", '["x","boot",1]'):
        damage(tmp_path / "state.db", f"INSERT OR REPLACE INTO meta VALUES ('mark', '{text}')")
        assert journal.last_mark() is None
    journal.mark(Mark(WALL * NS))
    assert journal.last_mark() == Mark(WALL * NS), "and the next one mends it"
    assert end(journal, record)
    journal.close()
