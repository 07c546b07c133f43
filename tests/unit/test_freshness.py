"""How old an issuer's word is: by both clocks, over restarts and reboots, and never younger than it is."""

import pytest

from agent.errors import JournalError, UntrustedError
from agent.expiry.deadline import Deadline
from agent.expiry.freshness import Freshness
from agent.expiry.ledger import Ledger
from agent.expiry.schedule import Act
from agent.host.clock import NS, FakeClock
from agent.journal import EndCause, GrantState, Journal
from agent.journal import orders as journal_orders
from agent.journal.orders import TakeOver
from agent.journal.records import HeldBulletin
from agent.model import Bulletin, Revocation, SubjectFormat
from tests.unit import journal_kit as kit

CP = "https://cp"
WITHIN = 300


def word(clock: FakeClock, seq: int = 1, *, age_s: int = 0, lasts_s: int = 3600, revoked: tuple[str, ...] = ()) -> Bulletin:
    now_s = clock.wall_ns() // NS
    return Bulletin(CP, now_s - age_s, now_s + lasts_s, seq, revoked)


def heard(clock: FakeClock, bulletin: Bulletin) -> Freshness:
    found = Freshness(clock)
    found.take(found.moment(bulletin))
    return found


def test_who_needs_none_is_always_fresh_and_who_needs_one_not_before_it_came() -> None:
    found = Freshness(FakeClock())
    assert found.holds(CP, None)
    assert not found.holds(CP, WITHIN)


@pytest.mark.parametrize(
    ("age_s", "lasts_s", "fresh_s"), [(0, 3600, 300), (100, 3600, 200), (0, 60, 60), (400, 3600, 0), (-60, 3600, 300)]
)
def test_it_counts_from_its_issue_to_its_own_end_whenever_it_came(age_s: int, lasts_s: int, fresh_s: int) -> None:
    clock = FakeClock()
    found = heard(clock, word(clock, age_s=age_s, lasts_s=lasts_s))
    clock.advance(fresh_s - 0.001)
    assert found.holds(CP, WITHIN) is (fresh_s > 0)
    clock.advance(0.001)
    assert not found.holds(CP, WITHIN)
    assert not found.holds("https://other", WITHIN)


def test_a_clock_set_back_makes_nothing_younger_and_one_set_forward_makes_it_older() -> None:
    clock = FakeClock()
    found = heard(clock, word(clock))
    clock.advance(200)
    clock.step(-3600)
    assert found.holds(CP, WITHIN)
    clock.advance(100)
    assert not found.holds(CP, WITHIN)
    other = FakeClock()
    ahead = heard(other, word(other))
    other.step(301)
    assert not ahead.holds(CP, WITHIN)


def test_an_older_bulletin_changes_nothing() -> None:
    clock = FakeClock()
    found = Freshness(clock)
    newer, older = found.moment(word(clock, 5)), found.moment(word(clock, 4, age_s=-50))
    found.take(newer)
    found.take(older)
    assert found.all() == [newer]


def test_after_a_reboot_with_the_clock_set_back_the_latest_time_ever_seen_counts() -> None:
    clock = FakeClock()
    bulletin = word(clock)
    held = Freshness(clock).moment(bulletin)
    last_ns = clock.wall_ns() + 250 * NS
    later = FakeClock(clock.wall_ns() - 3600 * NS, 5 * NS)
    later._id = "boot-2"
    found = Freshness(later)
    moved = found.load([held], last_ns)
    assert [each.boot_id for each in moved] == ["boot-2"]
    later.advance(49)
    assert found.holds(CP, WITHIN)
    later.advance(1)
    assert not found.holds(CP, WITHIN)
    again = Freshness(later)  # and what was carried over is not carried again
    assert again.load(moved, last_ns) == []
    assert not again.holds(CP, WITHIN)


def taken(journal: Journal, clock: FakeClock, bulletin: Bulletin, *, again: bool = False) -> None:
    journal.orders.take_bulletin(bulletin, Freshness(clock).moment(bulletin), again=again)


def test_seq_never_goes_back_and_the_journal_keeps_it(journal: Journal) -> None:
    clock = FakeClock()
    taken(journal, clock, word(clock, 7, revoked=("g-1",)))
    for seq in (7, 6, 0):
        with pytest.raises(UntrustedError) as caught:
            taken(journal, clock, word(clock, seq, revoked=("g-2",)))
        assert caught.value.code == "bulletin_replayed"
    assert journal.orders.revoked(CP, "g-2", "alice", 0) is None
    assert journal.orders.revoked(CP, "g-1", "alice", 0) is not None
    taken(journal, clock, word(clock, 7), again=True)  # the very one a crash left unanswered
    with pytest.raises(UntrustedError):
        taken(journal, clock, word(clock, 7, age_s=1), again=True)
    assert [held.seq for held in journal.orders.bulletins()] == [7]


def revoke(
    journal: Journal, value: str, *, iat: int = 1000, form: SubjectFormat = SubjectFormat.ISS_SUB, now_s: int = 1000
) -> None:
    journal.orders.revoke(Revocation(CP, f"set-{value}-{iat}", iat, form, (CP,), value), now_s)


def test_an_older_revocation_takes_nothing_back(journal: Journal) -> None:
    revoke(journal, "alice", iat=2000)
    revoke(journal, "alice", iat=1000)
    assert journal.orders.revoked(CP, "g", "alice", 2000) is not None
    assert journal.orders.revoked(CP, "g", "alice", 2001) is None
    revoke(journal, "Bob@Example.com", form=SubjectFormat.EMAIL)
    assert journal.orders.revoked(CP, "g", "bob@example.COM", 1000) is not None
    assert journal.orders.revoked("https://other", "g", "alice", 1) is None


def test_what_is_forgotten_for_age_stays_refused(journal: Journal) -> None:
    revoke(journal, "alice", iat=1000)
    revoke(journal, "bob", iat=50_000_000, now_s=50_000_000)
    journal.orders.forget_before(1000 + journal_orders.KEPT_S + 1)
    assert journal.orders.revoked(CP, "g", "alice", 1000) is None
    for iat, refused in ((999, True), (1000, True), (1001, False)):
        try:
            journal.orders.refuse_revoked(CP, "g", "carol", iat)
            assert not refused
        except UntrustedError as error:
            assert (refused, error.code) == (True, "grant_revoked")
    assert journal.orders.revoked(CP, "g", "bob", 1) is not None


def test_what_is_forgotten_for_number_stays_refused(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_orders, "KEPT_OF_ONE_ISSUER", 10)
    for number in range(30):
        revoke(journal, f"g-{number}", iat=1000 + number, form=SubjectFormat.JWT_ID)
    assert journal.orders.revoked(CP, "g-29", "x", 0) is not None
    with pytest.raises(UntrustedError):
        journal.orders.refuse_revoked(CP, "g-0", "x", 1000)
    journal.orders.refuse_revoked("https://other", "g-0", "x", 1)
    assert len(journal._db.rows("SELECT 1 FROM revocations")) <= 10


def accepted(journal: Journal, clock: FakeClock, jti: str, *, over: TakeOver | None = None, within: int | None = None) -> int:
    plan = kit.plan(jti, uids=None if over else {"jit-alice": 70001})
    record = journal.accept(
        kit.grant(jti), token=jti.encode(), summary="s", rule="r", received_ns=clock.wall_ns(), boot=(clock.boot_id(), 10**15),
        plan=plan,        fresh_within_s=within, over=over,
    )  # fmt: skip
    return record.id


def test_suspended_and_back_only_while_its_end_has_not_begun(journal: Journal) -> None:
    number = accepted(journal, FakeClock(), "g-1", within=60)
    with pytest.raises(JournalError):
        journal.orders.suspended(number, True)  # not open yet
    journal.opened(number, 1)
    journal.orders.suspended(number, True)
    assert (journal.grant(number).state, journal.grant(number).fresh_within_s) == (GrantState.SUSPENDED, 60)
    for _ in range(2):  # the second: the disk was full when it was suspended again
        journal.orders.suspended(number, False)
    journal.shutting([(number, "")], EndCause.REVOKED)
    for wanted in (True, False):
        with pytest.raises(JournalError):
            journal.orders.suspended(number, wanted)
    assert journal.grant(number).state is GrantState.SHUTTING


def test_a_take_over_is_one_transaction(journal: Journal) -> None:
    clock = FakeClock()
    old = accepted(journal, clock, "g-1")
    journal.opened(old, 1)
    with pytest.raises(JournalError):
        accepted(journal, clock, "g-2", over=TakeOver(old + 99, (), "x", ()))
    assert (journal.grant(old).state, journal.by_jti("g-2"), journal.grant(old).uids) == (GrantState.OPEN, [], {"jit-alice": 70001})
    new = accepted(journal, clock, "g-3", over=TakeOver(old, (0, 1), "by g-3", ("jit-alice",)))
    assert (journal.grant(old).state, journal.grant(old).cause, journal.grant(old).uids) == (GrantState.SHUTTING, "superseded", {})
    assert (journal.grant(new).state, journal.grant(new).uids) == (GrantState.OPENING, {"jit-alice": 70001})
    assert journal.notes(new) == {"replaces": ["jit-alice"]}
    ledger = Ledger(clock)
    ledger.read(journal)
    held = {live.record.jti: [number for number, _ in live.steps] for live in ledger.all()}
    assert held == {"g-1": [2], "g-3": [0, 1, 2]}
    with pytest.raises(JournalError):
        accepted(journal, clock, "g-4", over=TakeOver(old, (), "by g-4", ()))


def test_an_open_grant_is_looked_at_when_its_bulletin_is_too_old(journal: Journal) -> None:
    clock = FakeClock()
    number = accepted(journal, clock, "g-1", within=60)
    journal.opened(number, 1)
    taken(journal, clock, word(clock))
    ledger = Ledger(clock)
    [live] = ledger.load(journal)
    ledger.opened(live, clock.wall_ns())
    clock.advance(59)
    assert not [alarm for alarm in ledger.take_due() if alarm.act is Act.SUSPEND]
    clock.advance(1)
    assert [alarm.grant_id for alarm in ledger.take_due() if alarm.act is Act.SUSPEND] == [number]
    assert ledger.begin_suspending([live]) == [live]
    assert ledger.begin_suspending([live]) == []
    assert not ledger.begin_resuming(live)  # still being closed
    ledger.suspended(live)
    assert [alarm.act for alarm in ledger.take_due() if alarm.act is Act.RESUME] == [Act.RESUME]
    assert ledger.begin_resuming(live)
    assert ledger.begin_shutting([live]) == []  # its opener is asked to undo itself
    assert live.cancel


def test_only_what_is_free_can_be_claimed_for_a_replacement(journal: Journal) -> None:
    clock = FakeClock()
    number = accepted(journal, clock, "g-1")
    journal.opened(number, 1)
    ledger = Ledger(clock)
    [live] = ledger.load(journal)
    ledger.opened(live, clock.wall_ns())
    assert ledger.begin_replacing(live)
    assert not ledger.begin_replacing(live)
    assert ledger.begin_shutting([live]) == []
    ledger.give_back(live)
    clock.advance(601)
    assert Act.SHUT in [alarm.act for alarm in ledger.take_due()]
    assert ledger.begin_shutting([live]) == [live]
    assert not ledger.begin_replacing(live)


def test_a_drain_is_never_lengthened(journal: Journal) -> None:
    clock = FakeClock()
    number = accepted(journal, clock, "g-1")
    journal.opened(number, 1)
    ledger = Ledger(clock)
    [live] = ledger.load(journal)
    ledger.opened(live, clock.wall_ns())

    def until(seconds: int) -> Deadline:
        return Deadline(clock.wall_ns() + seconds * NS, clock.boot_ns() + seconds * NS, clock.boot_id())

    assert ledger.begin_draining(live, until(30), "why")
    assert ledger.begin_draining(live, until(90), "other")
    clock.step(-3600)  # set back: the boot clock holds it
    clock.advance(30)
    assert Act.DRAINED in [alarm.act for alarm in ledger.take_due()]
    assert (live.cause, live.cause_text) == ("revoked", "why")


def test_a_held_bulletin_is_as_the_journal_has_it(journal: Journal) -> None:
    clock = FakeClock()
    taken(journal, clock, word(clock, 3))
    [held] = journal.orders.bulletins()
    assert held == HeldBulletin(
        CP, 3, clock.wall_ns() // NS, clock.wall_ns() // NS + 3600, clock.wall_ns(), "boot-1", clock.boot_ns()
    )
