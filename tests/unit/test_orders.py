"""Orders, suspending and draining on fakes: what is done when the journal says no, and who claims what first."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import draining, orders, suspending, trust
from agent.errors import HostError, JournalError, UntrustedError
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.schedule import Act
from agent.expiry.shut import Shut
from agent.host.clock import NS, FakeClock
from agent.journal import EndCause, GrantState
from agent.pipeline import Pipeline
from tests.unit.expiry_kit import FakeEnforcer, enforcers, live
from tests.vectors import make
from tests.vectors import orders as vectors


class Journal:
    """Refuses to write while ``full``."""

    def __init__(self) -> None:
        self.full = False
        self.said: list[tuple[str, Any]] = []
        self.orders = self

    def _say(self, what: str, value: Any) -> None:
        if self.full:
            raise JournalError("journal_failed", "the disk is full")
        self.said.append((what, value))

    def revoke(self, revocation: Any, now_s: int) -> None:
        del now_s
        self._say("revoke", revocation.value)

    def take_bulletin(self, bulletin: Any, held: Any, *, again: bool = False) -> None:
        del held, again
        if bulletin.seq < 7:
            raise UntrustedError("bulletin_replayed", "old", field="seq")
        self._say("bulletin", bulletin.seq)

    def suspended(self, grant_id: int, suspended: bool) -> None:
        self._say("suspended", (grant_id, suspended))

    def note(self, grant_id: int, name: str, value: Any) -> None:
        self._say(name, (grant_id, value))


class World:
    """A pipeline whose cuts are noted; its one grant is the vectors' issuer's."""

    def __init__(self, *, within: int | None = None) -> None:
        self.clock = FakeClock(make.NOW * NS)
        self.journal, self.ledger, self.hands = Journal(), Ledger(self.clock), FakeEnforcer()
        self.cuts: list[tuple[list[str], EndCause, str]] = []
        self.closed: list[str] = []
        self.trouble: list[str] = []
        self.told: list[Any] = []
        self.live = live(self.clock, uids={})
        self.live.record = dataclasses.replace(self.live.record, iss=make.ISS, jti="grant-1", iat=make.NOW - 60)
        self.live.fresh_within_s = within
        self.ledger.add(self.live)
        self.ledger.opened(self.live, self.clock.wall_ns())
        ring = trust.keyring(make.jwks())
        teardown = SimpleNamespace(cut=self._close, set_aside=lambda _shuts: None, close_logins=self._close_logins)
        self.pipeline = cast(
            Pipeline,
            SimpleNamespace(
                clock=self.clock, journal=self.journal, ledger=self.ledger, host_id=make.HOST, ring=lambda: ring,
                trail=SimpleNamespace(emit=self.told.extend), cut=self._cut, shut=self._cut, teardown=teardown,
                enforcers=enforcers(self.hands), writer=None, open_pending=lambda _live: None,
            ),
        )  # fmt: skip

    def _cut(self, grants: Sequence[LiveGrant], cause: EndCause, text: str = "", **_claimed: object) -> list[Shut]:
        self.cuts.append(([found.record.jti for found in grants], cause, text))
        return []

    def _close(self, grants: Sequence[LiveGrant], tell: Any) -> list[Shut]:
        del tell
        self.closed += [found.record.jti for found in grants]
        return [Shut(found, self.clock.wall_ns(), undone=[(-1, error) for error in self.trouble]) for found in grants]

    def _close_logins(self, found: LiveGrant) -> list[str]:
        self.closed.append(found.record.jti)
        return self.trouble

    def event(self, **changes: object) -> orders.Taken:
        token = vectors.signed(vectors.event(**changes), trust.TYP_EVENT).encode()
        return orders.take_event(self.pipeline, token, list)

    def bulletin(self, **changes: object) -> orders.Taken:
        token = vectors.signed(vectors.bulletin(**changes), trust.TYP_BULLETIN).encode()
        return orders.take_bulletin(self.pipeline, token, list, partial(orders.freshen, self.pipeline))

    def state(self) -> GrantState:
        return self.live.state


def test_a_revocation_is_written_down_before_it_is_carried_out() -> None:
    world = World()
    taken = world.event()
    assert (taken.ident, [found.record.jti for found in taken.revoked]) == ("set-1", ["grant-1"])
    assert world.journal.said[0] == ("revoke", "grant-1")
    assert world.cuts == [(["grant-1"], EndCause.REVOKED, "by event set-1 of https://cp.example")]
    assert [found.kind.value for found in world.told] == ["revocation.taken"]


@pytest.mark.parametrize("kind", ["event", "bulletin"])
def test_a_full_disk_keeps_nobody_in_and_the_order_is_taken_again(kind: str) -> None:
    world = World()
    world.journal.full = True
    with pytest.raises(JournalError):
        world.event() if kind == "event" else world.bulletin(revoked=["grant-1"])
    assert world.cuts[0][0] == ["grant-1"]
    assert world.ledger.freshness.all() == []


def test_a_bulletin_that_is_replayed_ends_nothing_and_keeps_nothing_open() -> None:
    world = World()
    with pytest.raises(UntrustedError):
        world.bulletin(seq=6, revoked=["grant-1"])
    assert (world.cuts, world.ledger.freshness.all()) == ([], [])


def test_stale_then_fresh() -> None:
    world = World(within=300)
    suspending.suspend(world.pipeline, [world.live])
    assert (world.state(), world.closed) == (GrantState.SUSPENDED, ["grant-1"])
    assert world.journal.said[0] == ("suspended", (1, True))
    suspending.resume(world.pipeline, world.live)
    assert world.state() is GrantState.SUSPENDED  # nothing fresh is here
    world.bulletin()
    assert world.state() is GrantState.OPEN
    assert world.hands.done == ["+t1"]  # the CLOSE step, and no other
    [told] = cast(list[dict[str, Any]], world.live.notes["suspensions"])
    assert told["from"] <= told["until"]
    assert [found.kind.value for found in world.told] == ["grant.suspended", "grant.resumed"]
    world.clock.advance(300)
    assert Act.SUSPEND in [alarm.act for alarm in world.ledger.take_due()]


def test_what_can_not_be_written_down_is_suspended_all_the_same_and_never_resumed() -> None:
    world = World(within=300)
    world.journal.full = True
    suspending.suspend(world.pipeline, [world.live])
    assert (world.state(), world.closed) == (GrantState.SUSPENDED, ["grant-1"])
    world.journal.full = False
    world.bulletin()
    world.journal.full = True
    suspending.suspend(world.pipeline, [world.live])
    world.closed.clear()
    suspending.resume(world.pipeline, world.live)
    assert (world.state(), world.closed) == (GrantState.SUSPENDED, ["grant-1"])  # its doors were opened, and are shut again


def test_what_can_not_be_opened_again_stays_shut_and_is_tried_again() -> None:
    world = World(within=300)
    suspending.suspend(world.pipeline, [world.live])
    world.hands.fail["t1"] = HostError("write_failed", "read-only")
    world.bulletin()
    assert (world.state(), world.closed) == (GrantState.SUSPENDED, ["grant-1", "grant-1"])
    assert "read-only" in world.live.error
    world.hands.fail.clear()
    world.clock.advance(10)
    assert Act.RESUME in [alarm.act for alarm in world.ledger.take_due()]
    suspending.resume(world.pipeline, world.live)
    assert (world.state(), world.live.error) == (GrantState.OPEN, "")


def test_what_would_not_be_shut_whole_is_suspended_again() -> None:
    world = World(within=300)
    world.trouble = ["still there"]
    suspending.suspend(world.pipeline, [world.live])
    assert "still there" in world.live.error
    world.clock.advance(1)
    assert Act.SUSPEND in [alarm.act for alarm in world.ledger.take_due()]


def test_one_whose_end_has_come_is_not_resumed() -> None:
    world = World(within=3600)
    suspending.suspend(world.pipeline, [world.live])
    world.clock.advance(601)
    world.bulletin(iat=make.NOW + 601, exp=make.NOW + 900)
    assert world.hands.done == []
    assert world.cuts[-1] == (["grant-1"], EndCause.EXPIRED, "")


def drained(world: World, seconds: int) -> list[LiveGrant]:
    begun = draining.begin(world.pipeline, [world.live], seconds, "why")
    draining.drain(world.pipeline, begun, "why")
    return begun


def test_a_drain_is_written_down_and_one_that_can_not_close_its_logins_ends_at_once() -> None:
    world = World()
    assert drained(world, 60) == [world.live]
    assert (world.journal.said[0][0], world.closed, world.live.shown_state) == ("drain", ["grant-1"], "draining")
    assert draining.seconds_left(world.pipeline, world.live) == 60
    other = World()
    other.trouble = ["read-only"]
    drained(other, 60)
    assert other.cuts == [(["grant-1"], EndCause.REVOKED, "why")]


def test_a_drain_ends_no_later_than_the_grant_and_a_suspended_one_is_not_drained() -> None:
    world = World()
    drained(world, 86400)
    assert draining.seconds_left(world.pipeline, world.live) == 600
    stale = World(within=300)
    suspending.suspend(stale.pipeline, [stale.live])
    assert drained(stale, 60) == []


def test_at_start_a_drain_goes_on_within_one_boot_and_ends_with_it() -> None:
    world = World()
    drained(world, 60)
    world.live.record = dataclasses.replace(world.live.record, boot_id=world.clock.boot_id())
    assert (draining.restart(world.pipeline), world.closed) == ([], ["grant-1", "grant-1"])
    assert world.cuts == []
    world.live.record = dataclasses.replace(world.live.record, boot_id="another")
    draining.restart(world.pipeline)
    assert world.cuts == [(["grant-1"], EndCause.REVOKED, "why")]
