"""A host with very many live grants: what is done once for all of them, what once for each, and what not before it is needed."""

import contextlib
import gc
import grp
import os
import pwd
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.config import Config, Paths
from agent.expiry import kept_steps, logged_words
from agent.expiry.kept_steps import KeptSteps, may_say
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act
from agent.expiry.shut import Shut
from agent.host import memberships
from agent.host.clock import FakeClock
from agent.host.contract import Account
from agent.host.memory import uncollected
from agent.host.system import SystemHost
from agent.host.userdb import UserdbAccounts
from agent.journal import GrantState, Journal
from agent.journal.orders import TakeOver
from agent.journal.records import dump_step, step_of
from agent.journal.upgrade import INDEXES
from agent.model import Revocation, Step, SubjectFormat
from agent.orders import end_what_was_revoked
from agent.pipeline import Pipeline
from agent.recovery import look_behind
from tests.unit import journal_kit
from tests.unit.expiry_kit import live
from tests.unit.journal_kit import NS, WALL, step


def filled(path: Path, many: int) -> Journal:
    """A journal with so many live grants, one step taken over by another, and one that has ended."""
    journal = Journal(path / "state.db")
    for number in range(1, many + 2):
        jti, login = f"g-{number}", f"jit-{number}"
        record = journal.accept(
            journal_kit.grant(jti, login=login), token=jti.encode(), summary="", rule="r", received_ns=WALL * NS,
            boot=("boot-1", 10**18), plan=journal_kit.plan(jti, uids={login: 70000 + number}),
        )  # fmt: skip
        journal.note(record.id, "seen", {"number": number})
    journal.ended(many + 1, WALL * NS, residue=0, receipt=("r", "jws"))
    return journal


def counted(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The reads from now on."""
    asked: list[str] = []
    rows = journal._db.rows

    def read(sql: str, *rest: Any, **more: Any) -> Any:
        asked.append(sql)
        return rows(sql, *rest, **more)

    monkeypatch.setattr(journal._db, "rows", read)
    return asked


@pytest.mark.parametrize("many", [1, 30])
def test_a_start_reads_the_journal_in_as_many_reads_however_many_are_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    journal = filled(tmp_path, many)
    with journal._db.transaction() as db:
        db.execute("UPDATE grants SET state='open' WHERE state='opening'")
    over = TakeOver(1, (2,), "by another", None)
    journal.accept(
        journal_kit.grant("new"),
        token=b"new",
        summary="",
        rule="r",
        received_ns=WALL * NS,
        boot=("boot-1", 5),
        plan=None,
        over=over,
    )
    asked = counted(journal, monkeypatch)
    found = list(journal.standing())
    assert len(asked) == 4
    assert [each.record for each in found] == journal.live()
    for each in found:
        assert list(KeptSteps(each.steps)) == [(one.seq, one.step) for one in journal.steps(each.record.id) if one.state != "taken"]
        assert each.notes == journal.notes(each.record.id)
    assert [len(each.steps) for each in found[:1]] == [2]
    journal.close()


def test_what_a_start_reads_is_of_one_moment(tmp_path: Path) -> None:
    journal, other = filled(tmp_path, 2), Journal(tmp_path / "state.db")
    with journal._db.one_moment():
        before = journal.live()
        other.note(1, "later", True)
        other.shutting([(2, "now")], cast(Any, "revoked"))
        assert journal.live() == before
        assert "later" not in journal.notes(1)
    assert "later" in journal.notes(1)
    journal.note(1, "after", True)
    assert "after" in other.notes(1)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT login, uid FROM uids WHERE grant_id=1",
        "UPDATE uids SET state='tombstone' WHERE grant_id=1",
        "SELECT * FROM grants WHERE jti='a'",
        "SELECT * FROM receipts WHERE grant_id=1",
        "SELECT id, jws FROM receipts WHERE shipped=0 ORDER BY issued_ns LIMIT 1000",
        "SELECT * FROM grants WHERE state<>'ended'",
        "SELECT 1 FROM grants WHERE iss='a' AND jti='b'",
    ],
)
def test_what_is_asked_for_each_grant_is_found_by_an_index(tmp_path: Path, sql: str) -> None:
    Journal(tmp_path / "state.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}"))
    assert "USING" in plan
    assert "INDEX" in plan
    assert "TEMP B-TREE" not in plan


def test_a_journal_without_the_indexes_gets_them_at_its_next_opening_and_its_number_stays(tmp_path: Path) -> None:
    filled(tmp_path, 2).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        version = db.execute("PRAGMA user_version").fetchone()
        for name in (statement.split()[5] for statement in INDEXES):
            db.execute(f"DROP INDEX {name}")
    read_only = Journal(tmp_path / "state.db", read_only=True)
    assert len(list(read_only.standing())) == 2, "it can be read without them"
    Journal(tmp_path / "state.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as db:
        found = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='index'")}
        assert {statement.split()[5] for statement in INDEXES} <= found
        assert db.execute("PRAGMA user_version").fetchone() == version


def test_steps_are_read_when_they_are_needed_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def reading(text: str) -> Step:
        reads.append(text)
        return step_of(text)

    monkeypatch.setattr(kept_steps, "step_of", reading)
    kept = KeptSteps([(0, dump_step(step(0))), (3, dump_step(step(3)))])
    assert len(kept) == 2
    assert kept
    assert kept.may_say("n")
    assert not kept.may_say("lent")
    assert reads == []
    assert list(kept) == [(0, step(0)), (3, step(3))] == kept[:]
    assert [id(found) for found in kept] == [id(found) for found in kept], "an undo is told by the step itself"
    assert len(reads) == 2


def test_a_step_that_can_not_be_read_is_told_as_one_when_its_turn_comes() -> None:
    kept = KeptSteps([(0, "{torn")])
    assert len(kept) == 1
    assert kept[0][1].enforcer == "unreadable"


def test_steps_that_are_read_already_may_say_anything() -> None:
    assert may_say([(0, step(0))], "lent")


def test_a_start_reads_no_step_and_sets_one_alarm_for_each_end_and_one_for_its_next_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_steps, "step_of", None)
    clock, rearmed = FakeClock(WALL * NS), []
    ledger = Ledger(clock, lambda: rearmed.append(1))
    journal = filled(tmp_path, 20)
    grants = ledger.load(journal)
    assert ledger.lent() == ()
    assert [logged_words.kinds_of(found) for found in grants] == [{}] * 20
    rearmed.clear()
    ledger.stand((found, clock.wall_ns()) for found in grants)
    assert rearmed == [1]
    assert len(ledger._schedule) == 2 * len(grants) + 1, "the mark is the one more"
    journal.close()


def test_the_next_warning_is_set_when_one_is_given() -> None:
    clock = FakeClock(WALL * NS)
    ledger = Ledger(clock)
    found = live(clock)
    ledger.add(found)
    ledger.opened(found, clock.wall_ns())
    clock.advance(540)
    assert [(each.act, each.note) for each in ledger.take_due() if each.act is Act.WARN] == [(Act.WARN, 300), (Act.WARN, 60)]
    clock.advance(59)
    assert [(each.act, each.note) for each in ledger.take_due() if each.act is Act.WARN] == [(Act.WARN, 1)]


class Timers:
    """What is armed, and a grant that ends while it is."""

    def __init__(self, ledger: Ledger, ends: int) -> None:
        self.ledger, self.ends = ledger, ends
        self.armed: list[int] = []
        self.disarmed: list[int] = []

    def arm_again(self, found: Any) -> None:
        self.armed.append(found.id)
        if found.id == self.ends:
            self.ledger.ended(found)

    def disarm(self, grants: Any) -> None:
        self.disarmed += [found.id for found in grants]


def test_after_the_start_a_timer_is_seen_behind_each_open_grant_and_taken_from_one_that_ends_just_then() -> None:
    clock = FakeClock(WALL * NS)
    ledger = Ledger(clock)
    grants = [live(clock, number, lasts_s=700 - number) for number in range(1, 5)]
    for found in grants:
        ledger.add(found)
    grants[3].state = GrantState.PENDING
    kept = KeptSteps([(0, dump_step(step(0)))])
    grants[0].steps = kept
    timers = Timers(ledger, ends=2)
    pipeline = cast(Pipeline, SimpleNamespace(ledger=ledger, clock=clock, behind=timers))
    look_behind(pipeline, lambda: True)
    assert timers.armed == []
    look_behind(pipeline)
    assert timers.armed == [3, 2, 1], "the next to end first"
    assert timers.disarmed == [2]
    assert kept._steps is not None, "nothing is left to be read at a deadline"


def test_a_start_asks_only_about_grants_whose_issuer_has_revoked_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, clock = filled(tmp_path, 3), FakeClock(WALL * NS)
    ledger = Ledger(clock)
    ledger.load(journal)
    cut: list[str] = []

    def cutting(grants: list[LiveGrant], *_: object) -> list[Shut]:
        cut.extend(found.record.jti for found in grants)
        return []

    pipeline = cast(Pipeline, SimpleNamespace(journal=journal, ledger=ledger, cut=cutting))
    asked = counted(journal, monkeypatch)
    end_what_was_revoked(pipeline)
    assert len(asked) == 1
    journal.orders.revoke(Revocation("https://cp", "e", WALL, SubjectFormat.JWT_ID, ("https://cp",), "g-2"), WALL)
    end_what_was_revoked(pipeline)
    assert cut == ["g-2"]
    journal.close()


def test_removing_a_record_looks_through_the_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = UserdbAccounts(tmp_path)
    for name in ("jit-a:adm.membership", ".tidegate-jit-a.user.0", ".tidegate-jit-a:adm.membership.1", "jit-ab:adm.membership"):
        (tmp_path / name).touch()
    looks: list[Any] = []
    scandir = os.scandir

    def look(path: Any) -> Iterator[os.DirEntry[str]]:
        looks.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look)
    host.delete("jit-a", 70001)
    assert looks == [tmp_path]
    assert [path.name for path in tmp_path.iterdir()] == ["jit-ab:adm.membership"]


def test_the_collector_rests_while_what_is_all_kept_is_made_and_works_again_after_an_error() -> None:
    with pytest.raises(KeyError), uncollected():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled(), "who turned it off turns it on"
    finally:
        gc.enable()


def test_the_name_of_a_group_of_ours_is_read_from_its_record_and_any_others_is_asked_for(tmp_path: Path) -> None:
    host = UserdbAccounts(tmp_path)
    host.create(Account("jit-a", 70001, "", "/home/jit-a", "/bin/sh"))
    (tmp_path / "other.group").write_text('{"groupName":"other","gid":70002}')
    (tmp_path / "70002.group").symlink_to("other.group")
    (tmp_path / "70003.group").symlink_to("jit-a.group")
    (tmp_path / "70004.group").symlink_to("../70001.group")
    assert [host.group_name(gid) for gid in range(70000, 70005)] == [None, "jit-a", None, None, None]


def test_the_groups_of_a_tenant_are_named_without_asking_for_its_own_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(paths=Paths(userdb=tmp_path, state_db=tmp_path / "state.db"))
    UserdbAccounts(tmp_path).create(Account("jit-a", 70001, "", "/home/jit-a", "/bin/sh"))
    asked: list[int] = []

    def group(gid: int) -> SimpleNamespace:
        asked.append(gid)
        return SimpleNamespace(gr_name="g", gr_gid=gid, gr_mem=[])

    host = SystemHost(config)
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: SimpleNamespace(pw_gid=70001))
    monkeypatch.setattr(memberships, "gids_of", lambda *_: [70001, 0])
    monkeypatch.setattr(grp, "getgrgid", group)
    assert host.groups_of("jit-a") == {"jit-a", "g"}
    assert asked == [0]
