"""What is looked for when a grant has ended, what keeps its UID from coming back, and how a UID becomes free again."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.audit import AuditEvent, Trail
from agent.errors import HostError, JournalError
from agent.expiry import residue
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act
from agent.expiry.tombstones import EVERY_S, Tombstones
from agent.host.clock import NS, FakeClock
from agent.host.contract import Group, User, Writer
from agent.host.fake import FakeHost
from agent.host.found import UNSEARCHED, Found, SetGid
from agent.journal import Journal
from agent.model import Phase, Residue, Stage, Step
from tests.unit.expiry_kit import ALICE, BOB, FakeTable, live, process
from tests.unit.journal_kit import plan
from tests.unit.test_journal import accept
from tests.unit.test_teardown import Scene

ARCHIVE = Path("/var/lib/tidegate/archive")


def step_of(enforcer: str, action: str, **data: Any) -> Step:
    return Step(enforcer, action, Stage.GRANT, Phase.REMOVE, action, action, data)


def with_steps(*steps: Step, uids: dict[str, int] | None = None) -> LiveGrant:
    grant = live(FakeClock(), uids=uids)
    grant.steps = list(enumerate(steps))
    return grant


def home(login: str = "jit-alice", uid: int = ALICE, archive: bool = False) -> Step:
    return step_of("account", "home", path=f"/home/{login}", uid=uid, archive=archive, label="g-1")


# The baseline


def test_only_what_reaches_roots_files_takes_a_baseline(journal: Journal) -> None:
    host = FakeHost()
    plain, sudoer, member = with_steps(home()), with_steps(step_of("sudo", "rule")), with_steps(home())
    member.record = replace(member.record, not_containable=("group docker may start a container that mounts the host",))
    for grant in (plain, sudoer, member):
        grant.record = replace(grant.record, id=accept(journal, f"g{id(grant)}").id)
        residue.take_baseline(grant, cast(Writer, host), journal)
    assert [residue.BASELINE in grant.notes for grant in (plain, sudoer, member)] == [False, True, True]
    assert host.remains.baselines == 2
    assert journal.notes(sudoer.id) == sudoer.notes == {"baseline": {"version": 1}}
    assert journal.notes(plain.id) == {}


def test_a_baseline_that_fails_keeps_nobody_out_and_is_told_at_the_end(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    host, grant = FakeHost(), with_steps(step_of("sudo", "rule"))
    grant.record = replace(grant.record, id=accept(journal).id)

    def fail() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(host.remains, "baseline", fail)
    residue.take_baseline(grant, cast(Writer, host), journal)
    told = residue.changes(grant, cast(Writer, host))
    assert [(found.kind, found.of_host) for found in told] == [(UNSEARCHED, True)] and "Too many" in told[0].detail


def test_what_a_baseline_left_out_is_told() -> None:
    host, grant = FakeHost(), with_steps()
    assert residue.changes(grant, cast(Writer, host)) == []
    grant.notes["baseline"] = {"version": 1, "left_out": ["/etc/passwd: 10000 rows, of which 4096 are kept"]}
    host.remains.changed = [Found("cron", "/etc/cron.d/x", "new since the grant opened; names jit-alice")]
    told = residue.changes(grant, cast(Writer, host))
    assert [(found.kind, found.of_host, found.removed) for found in told] == [("cron", True, False), (UNSEARCHED, True, False)]


# The order


def test_one_order_for_all_with_their_archives_homes_and_lent_groups() -> None:
    host = FakeHost.with_rows([User("deploy", 1500, 1500, "/home/deploy", "/bin/sh")], [Group("docker", 999), Group("games", 60)])
    alice = with_steps(home(archive=True), step_of("account", "membership", name="jit-alice", group="games"))
    bob = with_steps(home("jit-bob", BOB), uids={"jit-bob": BOB})
    lent = with_steps(step_of("group", "membership", name="deploy", group="docker"), uids={})
    gone = with_steps(step_of("group", "membership", name="nobody-there", group="docker"), uids={})
    order = residue.order([alice, bob, lent, gone], cast(Writer, host), ARCHIVE, whole=True)
    assert order.uids == {ALICE, BOB}
    assert order.archives == {ALICE: ARCHIVE / "jit-alice-g-1-elsewhere.tar.gz"}
    assert order.keep == (Path("/home/jit-alice"), Path("/home/jit-bob"))
    assert order.setgid == (SetGid(999, 1500, lent.record.received_ns),)
    assert order.remove and order.whole and not order.acls
    assert residue.order([with_steps(step_of("sudo", "rule"))], cast(Writer, host), ARCHIVE, whole=False).acls


# In teardown


def test_what_is_found_stands_in_the_receipt_of_its_own_grant_only() -> None:
    scene = Scene()
    scene.host.remains.found = {
        ALICE: [Found("at", "/var/spool/cron/atjobs/a1", "", True, ALICE)],
        BOB: [Found(UNSEARCHED, "/srv")],
    }
    shuts = scene.shut(live(scene.clock), live(scene.clock, 2, uids={"jit-bob": BOB}))
    assert all(shut.ended_ns for shut in shuts)
    assert [[found.kind for found in shut.residue] for shut in shuts] == [["at", UNSEARCHED], [UNSEARCHED]]
    assert len(scene.host.remains.orders) == 1, "one search for all that end together"


def test_mounts_go_before_the_home_and_the_search_comes_after_the_account() -> None:
    scene = Scene()
    grant = live(scene.clock)
    grant.steps = [(5, replace(home(), enforcer="fake")), *grant.steps]
    scene.host.remains.mounted = [Found("mount", "/home/jit-alice/mnt", "tmpfs of none, unmounted", True, ALICE)]
    real = scene.host.remains.search
    scene.host.remains.search = lambda order: scene.log.append("search") or real(order)  # type: ignore[method-assign, func-returns-value]
    shut = scene.shut(grant)[0]
    assert [found.kind for found in shut.residue] == ["mount"]
    assert scene.log[-1] == "search"


def test_a_grant_that_is_to_be_tried_again_is_looked_for_where_something_could_start_only() -> None:
    scene = Scene()
    scene.fake.fail = {"t0": HostError("home_left", "busy")}
    grant, other = live(scene.clock), live(scene.clock, 2, uids={"jit-bob": BOB})
    other.steps = []
    shuts = scene.shut(grant, other)
    assert shuts[0].ended_ns is None and shuts[1].ended_ns
    assert {(order.whole, order.uids) for order in scene.host.remains.orders} == {
        (True, frozenset({BOB})),
        (False, frozenset({ALICE})),
    }


def test_a_search_that_fails_time_and_again_lets_the_grant_end_and_keeps_its_uid() -> None:
    scene = Scene()
    scene.host.remains.errors = {ALICE: HostError("search_failed", "no process left")}
    grant = live(scene.clock)
    for attempt in range(1, residue.GIVEN_UP_AFTER):
        grant.attempts = attempt
        assert scene.shut(grant)[0].ended_ns is None
    grant.attempts = residue.GIVEN_UP_AFTER
    shut = scene.shut(grant)[0]
    assert shut.ended_ns
    assert len(residue.left_of(shut.residue, ALICE)) == 1


def test_a_group_that_was_lent_is_looked_for_though_the_grant_made_no_account() -> None:
    scene = Scene()
    scene.host.users["deploy"] = User("deploy", 1500, 1500, "/home/deploy", "/bin/sh")
    scene.host.groups["docker"] = Group("docker", 999)
    grant = live(scene.clock, uids={})
    grant.steps = [(0, replace(step_of("fake", "membership", name="deploy", group="docker"), enforcer="fake"))]
    assert scene.shut(grant)[0].ended_ns
    assert [order.setgid[0].gid for order in scene.host.remains.orders] == [999]


def test_what_may_be_the_hosts_is_told_and_keeps_no_uid() -> None:
    scene = Scene()
    scene.host.remains.changed = [Found("sudoers", "/etc/sudoers.d/x", "new since the grant opened")]
    grant = live(scene.clock)
    grant.notes["baseline"] = {"version": 1}
    shut = scene.shut(grant)[0]
    assert [found.where for found in shut.residue] == ["/etc/sudoers.d/x"]
    assert residue.left_of(shut.residue, ALICE) == []


def test_what_keeps_a_uid_is_its_own_or_everybodys_and_not_removed() -> None:
    found = [
        Residue("file", "/a", uid=ALICE),
        Residue("file", "/b", uid=BOB),
        Residue("file", "/c", removed=True, uid=ALICE),
        Residue(UNSEARCHED, "/d"),
        Residue("sudoers", "/e", of_host=True),
    ]
    assert [cast(dict[str, str], each)["where"] for each in residue.left_of(found, ALICE)] == ["/a", "/d"]


# Looking again


class Graves:
    """Tombstones over fakes and a real journal; two UIDs of which something is left."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.clock, self.host = journal, FakeClock(), FakeHost()
        self.table, self.ledger = FakeTable(), Ledger(self.clock)
        self.events: list[AuditEvent] = []
        for uid in (ALICE, BOB):
            record = accept(journal, f"g-{uid}", planned=plan(uids={f"jit-{uid}": uid}))
            left = {uid: [Residue("file", "/srv/x", uid=uid).to_json()]}
            journal.ended(record.id, 5, residue=1, receipt=(f"r{uid}", "a.b.c"), left=left)
        self.hands = Tombstones(cast(Writer, self.host), self.table, journal, self.ledger, cast(Trail, self), self.clock)

    def emit(self, events: list[AuditEvent]) -> None:
        self.events += events

    def kept(self) -> list[int]:
        return [grave.uid for grave in self.journal.tombstones.all()]


def test_a_uid_of_which_nothing_is_left_is_free_and_the_others_stay(journal: Journal) -> None:
    graves = Graves(journal)
    assert graves.kept() == [ALICE, BOB] and journal.spoken_for_uids() == {ALICE, BOB}
    graves.host.remains.found = {BOB: [Found("file", "/srv/x", "owned by root's folder", uid=BOB)]}
    graves.hands.look_again()
    assert graves.kept() == [BOB] and journal.spoken_for_uids() == {BOB}
    assert [cast(dict[str, str], each)["where"] for each in journal.tombstones.all()[0].found] == ["/srv/x"]
    due = graves.ledger.next_wake()[1]
    assert due == graves.clock.boot_ns() + EVERY_S * NS, "and again in an hour"
    graves.host.remains.found = {}
    graves.clock.advance(EVERY_S)
    assert [alarm.act for alarm in graves.ledger.take_due()] == [Act.LOOK]
    graves.hands.look_again()
    assert graves.kept() == [] and graves.ledger.next_wake()[1] is None, "nothing polls when nothing is kept"


def test_what_is_removed_late_is_told_and_frees_the_uid(journal: Journal) -> None:
    graves = Graves(journal)
    graves.host.remains.found = {ALICE: [Found("file", "/tmp/\udcff", "owned by the tenant", True, ALICE)]}
    graves.hands.look_again()
    assert graves.kept() == []
    assert [(event.kind.value, event.uid, event.ok) for event in graves.events] == [("residue.found", ALICE, True)]


@pytest.mark.parametrize("what", ["process", "user", "group", "unsearched", "fails", "table"])
def test_nothing_frees_a_uid_but_a_look_that_finds_nothing(journal: Journal, what: str) -> None:
    graves = Graves(journal)
    match what:
        case "process":
            graves.table.alive = {5: process(5, ALICE), 6: process(6, BOB)}
        case "user":
            graves.host.users = {f"u{uid}": User(f"u{uid}", uid, uid, "/", "/bin/sh") for uid in (ALICE, BOB)}
        case "group":
            graves.host.groups = {f"g{uid}": Group(f"g{uid}", uid) for uid in (ALICE, BOB)}
        case "unsearched":
            graves.host.remains.found = {ALICE: [Found(UNSEARCHED, "/srv")]}
        case "fails":
            graves.host.remains.errors = {BOB: HostError("search_failed", "x")}
        case _:
            graves.table.fail_walks = {-1}
    graves.hands.look_again()
    assert graves.kept() == [ALICE, BOB]
    assert graves.ledger.next_wake()[1] is not None


def test_who_asks_removes_nothing_and_looks_at_most_once_a_minute(journal: Journal) -> None:
    graves = Graves(journal)
    graves.host.remains.found = {ALICE: [Found("file", "/tmp/x", "owned by the tenant", uid=ALICE)]}
    assert [grave.uid for grave in graves.hands.asked()] == [ALICE]
    assert [order.remove for order in graves.host.remains.orders] == [False]
    graves.hands.asked()
    assert len(graves.host.remains.orders) == 1
    graves.clock.advance(61)
    graves.hands.asked()
    assert len(graves.host.remains.orders) == 2


def test_what_a_forgotten_grant_left_is_looked_at_and_never_removed(journal: Journal) -> None:
    graves = Graves(journal)
    journal.forget_before(1 << 40)
    graves.hands.look_again()
    assert [order.remove for order in graves.host.remains.orders] == [False]


def test_a_later_end_does_not_put_off_the_next_look() -> None:
    clock = FakeClock()
    ledger = Ledger(clock)
    ledger.look_again(100)
    ledger.look_again(3600)
    assert ledger.next_wake()[1] == clock.boot_ns() + 100 * NS
    ledger.look_again(5)
    assert ledger.next_wake()[1] == clock.boot_ns() + 5 * NS


def test_a_uid_that_is_kept_back_is_not_given_out(journal: Journal) -> None:
    graves = Graves(journal)
    with pytest.raises(JournalError, match="uid_spoken_for"):
        accept(journal, "next", planned=plan(uids={"jit-eve": ALICE}))
    graves.hands.look_again()
    accept(journal, "after", planned=plan(uids={"jit-eve": ALICE}))
    journal.tombstones.looked(ALICE, ["late"])
    assert graves.kept() == [], "a UID in use is nobody's tombstone"
