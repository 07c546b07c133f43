"""Orders before grants, in two threads: none waits for a grant, no grant comes between, no file is taken twice or lost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent import orders, trust
from agent.control.handlers import Handlers
from agent.control.server import Peer
from agent.errors import HostError, JournalError, UntrustedError
from agent.expiry.live import LiveGrant
from agent.host.fake import KilledError
from agent.journal import EndCause, GrantState
from agent.trust.orders import SESSION_REVOKED
from tests.unit.expiry_kit import process
from tests.unit.lifecycle_kit import HOST_ID, ISSUER, KEY, NS, World
from tests.unit.test_intake import GOOD, Scene
from tests.vectors import make
from tests.vectors import orders as vectors

ORDER = vectors.signed(vectors.event(), trust.TYP_EVENT).encode()
ALICE = {"type": "account", "identifier": "jit-alice"}
SSH = {"type": "ssh", "identifier": "jit-alice", "keys": [KEY]}


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The orders, as they were carried out."""
    found: list[bytes] = []

    def take_event(_pipeline: Any, token: bytes, _clear: Any) -> orders.Taken:
        found.append(token)
        return orders.Taken("set-1", ())

    monkeypatch.setattr(orders, "take_event", take_event)
    return found


def test_an_order_waits_for_no_grant_that_is_being_opened(tmp_path: Path, carried_out: list[bytes]) -> None:
    seen: list[tuple[list[bytes], list[str]]] = []

    def opening(_token: bytes) -> None:
        scene.put("order", ORDER)
        scene.intake.take_orders()
        seen.append((list(carried_out), [path.name for path in scene.inbox.iterdir()]))

    scene = Scene(tmp_path, opening)
    scene.put("grant", GOOD)
    scene.work()
    assert seen == [([ORDER], ["grant"])]
    assert (scene.opened, carried_out, list(scene.inbox.iterdir())) == ([GOOD], [ORDER], [])


def test_what_came_together_with_an_order_is_opened_after_it(tmp_path: Path, carried_out: list[bytes]) -> None:
    scene = Scene(tmp_path)
    scene.put("a-grant", GOOD)
    scene.put("b-order", ORDER)
    sorting = scene.intake.sorting
    sorting.sort()
    assert (sorting.grants_wait, sorting.next_grant()) == (False, None)
    assert sorting.next_order() == "b-order"
    assert sorting.next_grant() is None, "the order is in hand"
    sorting.order_done("b-order")
    assert (sorting.grants_wait, sorting.next_grant(), sorting.next_order()) == (True, "a-grant", None)
    assert carried_out == []


def test_a_grant_under_the_name_of_an_order_is_left_to_who_opens(tmp_path: Path, carried_out: list[bytes]) -> None:
    scene = Scene(tmp_path)
    scene.put("x", ORDER)
    while scene.intake.sorting.sort():
        pass
    scene.put("x", GOOD, hint=False)
    scene.intake.take_orders()
    assert (scene.opened, carried_out) == ([], [])
    scene.work()
    assert (scene.opened, carried_out, scene.codes(), list(scene.inbox.iterdir())) == ([GOOD], [], [], [])


def test_an_order_under_the_name_of_a_grant_in_hand_is_carried_out_at_once(tmp_path: Path, carried_out: list[bytes]) -> None:
    def opening(_token: bytes) -> None:
        replaced(scene, "x", ORDER)
        scene.intake.take_orders()
        assert carried_out == [ORDER]

    scene = Scene(tmp_path, opening)
    scene.put("x", GOOD)
    scene.work()
    assert (scene.opened, carried_out, scene.codes(), list(scene.inbox.iterdir())) == ([GOOD], [ORDER], [], [])
    assert len(list(scene.outbox.iterdir())) == 2


def test_an_order_under_the_name_of_a_grant_that_waits_is_carried_out_at_once(tmp_path: Path, carried_out: list[bytes]) -> None:
    def opening(_token: bytes) -> None:
        replaced(scene, "b", ORDER)
        scene.intake.take_orders()
        assert carried_out == [ORDER]

    scene = Scene(tmp_path, opening)
    scene.put("a", GOOD)
    scene.put("b", GOOD)
    scene.work()
    assert (scene.opened, carried_out, scene.codes(), list(scene.inbox.iterdir())) == ([GOOD], [ORDER], [], [])


def test_a_file_under_the_name_of_a_grant_in_hand_is_taken_afterwards_and_the_first_not_twice(tmp_path: Path) -> None:
    other = trust.sign_compact(make.claims(jti="grant-2"), trust.TYP_GRANT, make.private("cp-1")).encode()

    def opening(token: bytes) -> None:
        assert not scene.intake.take_orders() and not scene.intake.sorting.grants_wait
        if token == GOOD:
            replaced(scene, "x", other)
            while scene.intake.take_orders():  # until the folder was looked at too
                pass

    scene = Scene(tmp_path, opening)
    scene.put("x", GOOD)
    scene.work()
    assert (scene.opened, scene.codes(), list(scene.inbox.iterdir())) == ([GOOD, other], [], [])


def test_while_a_grant_is_in_hand_the_rest_is_looked_at_once_and_then_waits(tmp_path: Path) -> None:
    turns: list[int] = []

    def opening(_token: bytes) -> None:
        for number in range(5):
            scene.put(f"more-{number}", GOOD)
        turns.append(next(number for number in range(100) if not scene.intake.take_orders()))

    scene = Scene(tmp_path, opening)
    scene.put("first", GOOD)
    scene.intake.take_orders()
    scene.intake.take_grants()
    assert turns[0] <= 2, "it goes round without end"


def test_an_order_that_took_a_grants_place_unseen_is_carried_out_once_by_its_own_thread(
    tmp_path: Path, carried_out: list[bytes]
) -> None:
    scene = Scene(tmp_path)
    scene.put("x", GOOD)
    while scene.intake.sorting.sort():
        pass
    replaced(scene, "x", ORDER)
    scene.intake.take_grants()
    assert carried_out == [], "this thread only opens"
    scene.work()
    assert (scene.opened, carried_out, scene.codes(), list(scene.inbox.iterdir())) == ([], [ORDER], [], [])
    assert len(list(scene.outbox.iterdir())) == 1


def test_a_name_with_no_file_by_now_waits_nowhere(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    for number in range(100):
        scene.intake.sorting.hint(f"gone-{number}")
    while scene.intake.sorting.sort():
        assert not scene.intake.sorting.grants_wait
    assert scene.intake.sorting.idle


def test_an_order_of_nobody_who_is_trusted_is_refused(tmp_path: Path, carried_out: list[bytes]) -> None:
    scene = Scene(tmp_path)
    scene.put("x", vectors.signed(vectors.event(), trust.TYP_EVENT, "unknown").encode())
    scene.work()
    assert (carried_out, scene.codes(), list(scene.inbox.iterdir())) == ([], ["unknown_key"], [])


def test_all_orders_are_carried_out_though_none_can_be_written_down_and_no_grant_goes_before(
    tmp_path: Path, carried_out: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_pipeline: Any, token: bytes, _clear: Any) -> orders.Taken:
        carried_out.append(token)
        raise JournalError("journal_failed", "disk full")

    scene = Scene(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(orders, "take_event", full)
        for number in range(5):
            scene.put(f"order-{number}", ORDER)
        scene.put("grant", GOOD)
        with pytest.raises(JournalError):
            scene.intake.take_orders()
        assert carried_out == [ORDER] * 5
        scene.put("more", GOOD)
        while scene.intake.take_orders():
            pass
        assert len(carried_out) == 5, "each waits for the retry"
        assert (scene.intake.take_grants(), scene.intake.sorting.grants_wait) == (0, False)
    scene.intake.sorting.retry()
    scene.work()
    assert (len(carried_out), len(scene.opened), list(scene.inbox.iterdir())) == (10, 2, [])


def test_many_orders_are_carried_out_at_once_though_none_can_be_written_down(
    tmp_path: Path, carried_out: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_pipeline: Any, token: bytes, _clear: Any) -> orders.Taken:
        carried_out.append(token)
        raise JournalError("journal_failed", "disk full")

    monkeypatch.setattr(orders, "take_event", full)
    scene = Scene(tmp_path)
    for number in range(300):
        scene.put(f"order-{number}", ORDER)
    while scene.intake.sorting.told:
        with pytest.raises(JournalError):
            scene.intake.take_orders()
    assert len(carried_out) == 300


def test_an_order_that_waits_for_the_disk_is_first_when_it_is_tried_again(
    tmp_path: Path, carried_out: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> orders.Taken:
        raise JournalError("journal_failed", "disk full")

    scene = Scene(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(orders, "take_event", full)
        scene.put("order", ORDER)
        scene.put("grant", GOOD)
        with pytest.raises(JournalError):
            scene.intake.take_orders()
        while scene.intake.take_orders():  # the folder was looked at a moment ago
            pass
    scene.intake.sorting.retry()
    assert (scene.intake.take_grants(), scene.opened) == (0, [])
    scene.intake.take_orders()
    assert carried_out == [ORDER]
    scene.work()
    assert (scene.opened, list(scene.inbox.iterdir())) == ([GOOD], [])


def test_a_refused_order_that_can_not_be_told_keeps_no_other_from_being_carried_out(
    tmp_path: Path, carried_out: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)

    def refused(_pipeline: Any, token: bytes, _clear: Any) -> orders.Taken:
        if token != ORDER:
            raise UntrustedError("bad_event", "no")
        carried_out.append(token)
        raise JournalError("journal_failed", "disk full")

    def full(*_refusals: object) -> None:
        raise JournalError("journal_failed", "disk full")

    with monkeypatch.context() as patch:
        patch.setattr(orders, "take_event", refused)
        patch.setattr(scene.pipeline.journal, "refused", full)
        for number in range(3):
            scene.put("bad", vectors.signed(vectors.event(jti="set-2"), trust.TYP_EVENT).encode())
            scene.put(f"order-{number}", ORDER)
            with pytest.raises(JournalError):
                scene.intake.take_orders()
        assert carried_out == [ORDER] * 3
    scene.intake.sorting.retry()
    scene.work()
    assert (scene.codes(), list(scene.inbox.iterdir())) == ([], [])


def test_a_refusal_keeps_its_reason_though_the_next_file_can_not_be_written_down(tmp_path: Path) -> None:
    failing: list[Exception] = [HostError("account_exists", "no"), JournalError("journal_failed", "disk full")]

    def opening(_token: bytes) -> None:
        if failing:
            raise failing.pop(0)

    scene = Scene(tmp_path, opening)
    scene.put("a", GOOD)
    scene.put("b", GOOD)
    scene.intake.take_orders()
    with pytest.raises(JournalError):
        scene.intake.take_grants()
    scene.intake.sorting.retry()
    scene.work()
    assert (scene.codes(), scene.opened, list(scene.inbox.iterdir())) == (["account_exists"], [GOOD], [])


def replaced(scene: Scene, name: str, data: bytes) -> None:
    """By a rename, as somebody who drops files does."""
    (scene.inbox / ".new").write_bytes(data)
    (scene.inbox / ".new").rename(scene.inbox / name)
    scene.intake.sorting.hint(name)


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    found.start()
    yield found
    found.close()


def revoke(world: World, **sub_id: str) -> orders.Taken:
    """By a SET of the issuer's, as it comes in."""
    now_s = world.clock.wall_ns() // NS
    claims = {"iss": ISSUER, "aud": HOST_ID, "iat": now_s, "jti": "set-1", "events": {SESSION_REVOKED: {}}, "sub_id": sub_id}
    return orders.take_event(world.pipeline, world.sign_as(claims, trust.TYP_EVENT), world.pipeline.clear)


def meanwhile(owner: Any, name: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Once that has returned for the first time, and before its caller goes on."""
    real = getattr(owner, name)
    done: list[object] = []

    def both(*arguments: Any, **named: Any) -> Any:
        found = real(*arguments, **named)
        if not done:
            done.append(act())
        return found

    monkeypatch.setattr(owner, name, both)


@pytest.mark.parametrize("starts_s", [0, 60])
@pytest.mark.parametrize(
    "sub_id",
    [{"format": "jwt_id", "iss": ISSUER, "jti": "g-1"}, {"format": "iss_sub", "iss": ISSUER, "sub": "alice@example.com"}],
)
def test_a_grant_that_is_revoked_while_it_is_judged_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, starts_s: int, sub_id: dict[str, str]
) -> None:
    """Judging waits for the name service, and an order does not wait for it."""
    meanwhile(type(world.pipeline), "admit", lambda: revoke(world, **sub_id), monkeypatch)
    assert world.refusal(world.sign("g-1", [ALICE], starts_s=starts_s)) == "grant_revoked"
    assert world.pipeline.ledger.all() == []
    assert world.host.snapshot() == world.before


def test_a_grant_that_is_revoked_once_it_is_live_is_found_and_undoes_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[orders.Taken] = []
    held: list[bool] = []
    ledger, by_id = world.pipeline.ledger, {"format": "jwt_id", "iss": ISSUER, "jti": "g-1"}
    meanwhile(ledger, "add", lambda: held.append(ledger.coming_in.locked()), monkeypatch)
    meanwhile(world.pipeline.executions, "begin", lambda: found.append(revoke(world, **by_id)), monkeypatch)
    assert world.refusal(world.sign("g-1", [ALICE])) == "ended_while_opening"
    assert held == [True], "an order could come between the look at the orders and this grant"
    assert [live.record.jti for live in found[0].revoked] == ["g-1"]
    assert found[0].revoked[0].cause is EndCause.REVOKED
    world.tick()
    assert world.host.snapshot() == world.before


def test_what_stands_of_a_grant_that_is_being_opened_is_cut_by_the_order_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread undoes it as soon as it goes on; it may be waiting for the name service with the doors open."""
    opened, seen = world.pipeline.journal.opened, []

    def waits(grant_id: int, at_ns: int) -> None:
        (uid,) = world.pipeline.ledger.all()[0].uids.values()
        pid = world.process_of(uid)
        assert keys() and "jit-alice" not in locked(), "it stands open: else the test means nothing"
        assert revoke(world, format="jwt_id", iss=ISSUER, jti="g-1").revoked
        seen.append((keys(), "jit-alice" in locked(), pid in world.table.alive))
        opened(grant_id, at_ns)

    def keys() -> list[Path]:
        return [path for path in world.host.files if path.is_relative_to("/run/tidegate/keys")]

    def locked() -> list[str]:
        return [login for login, is_locked in world.host.locked.items() if is_locked]

    monkeypatch.setattr(world.pipeline.journal, "opened", waits)
    assert world.refusal(world.sign("g-1", [ALICE, SSH])) == "ended_while_opening"
    assert seen == [([], True, False)]
    world.tick()
    assert (world.host.snapshot(), world.pipeline.ledger.all()) == (world.before, [])


def test_who_holds_a_lent_right_is_out_too_while_its_grant_is_being_opened(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a grant lends that undoes itself is lent by nobody."""
    opened, seen = world.pipeline.journal.opened, []

    def waits(grant_id: int, at_ns: int) -> None:
        world.table.alive[2000] = process(2000, 1001, mark="group")
        revoke(world, format="jwt_id", iss=ISSUER, jti="g-1")
        seen.append(2000 in world.table.alive)
        opened(grant_id, at_ns)

    monkeypatch.setattr(world.pipeline.journal, "opened", waits)
    group = {"type": "group", "identifier": "deploy", "groups": ["games"]}
    assert world.refusal(world.sign("g-1", [group])) == "ended_while_opening"
    assert seen == [False]


def test_the_receipt_of_a_grant_cut_while_it_was_opened_tells_when_and_whom(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = world.pipeline.journal.opened
    seen: list[tuple[LiveGrant, int]] = []

    def waits(grant_id: int, at_ns: int) -> None:
        (live,) = world.pipeline.ledger.all()
        world.process_of(next(iter(live.uids.values())))
        seen.append((live, world.clock.wall_ns()))
        revoke(world, format="jwt_id", iss=ISSUER, jti="g-1")
        world.clock.advance(40)
        opened(grant_id, at_ns)

    monkeypatch.setattr(world.pipeline.journal, "opened", waits)
    assert world.refusal(world.sign("g-1", [ALICE])) == "ended_while_opening"
    ((live, ordered_ns),) = seen
    assert (live.state, live.began_ns, live.killed_count, len(live.killed)) == (GrantState.ENDED, ordered_ns, 1, 1)


@pytest.mark.parametrize("drain_s", [None, 60])
def test_what_an_admin_ends_gets_no_successor(world: World, monkeypatch: pytest.MonkeyPatch, drain_s: int | None) -> None:
    """By subject, which the grant that is to take its place has too, and does not have yet."""
    world.pipeline.open(world.sign("g-1", [ALICE]))
    revoke_ = Handlers(world.pipeline, lambda: []).table()["revoke"]
    asked = {"subject": "alice@example.com", **({"drain_s": drain_s} if drain_s else {})}
    admit = "admit" if drain_s else "begin_replacing"  # one that is claimed to be replaced is not drained
    owner = type(world.pipeline) if drain_s else world.pipeline.ledger
    meanwhile(owner, admit, lambda: revoke_(cast(Peer, SimpleNamespace(uid=0, pid=1)), asked), monkeypatch)
    assert world.refusal(world.sign("g-2", [ALICE, SSH], supersedes="g-1")) == "supersedes_not_open"
    assert [live.record.jti for live in world.pipeline.ledger.all()] == (["g-1"] if drain_s else [])
    assert all(live.drain for live in world.pipeline.ledger.all())


def test_an_order_about_a_grant_that_was_replaced_a_moment_ago_is_about_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its receipt does not say that it was revoked while its successor goes on."""
    world.pipeline.open(world.sign("g-1", [ALICE]))
    (old,) = world.pipeline.ledger.all()
    by_id = {"format": "jwt_id", "iss": ISSUER, "jti": "g-1"}
    meanwhile(world.pipeline.behind, "arm_again", lambda: revoke(world, **by_id), monkeypatch)
    assert world.refusal(world.sign("g-2", [ALICE, SSH], supersedes="g-1")) is None
    assert (old.state, old.cause, old.superseded_by) == (GrantState.ENDED, EndCause.SUPERSEDED, "g-2")
    assert [(live.record.jti, live.state) for live in world.pipeline.ledger.all()] == [("g-2", GrantState.OPEN)]


@pytest.mark.parametrize("starts_s", [0, 60])
@pytest.mark.parametrize("by", ["set", "admin"])
def test_the_end_of_a_grant_that_is_about_to_be_replaced_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch, by: str, starts_s: int
) -> None:
    """Claimed by its successor, it can't be shut at once; the successor does not get its place."""
    world.pipeline.open(world.sign("g-1", [ALICE], starts_s=starts_s))
    (old,) = world.pipeline.ledger.all()

    def order() -> None:
        if by == "set":
            assert revoke(world, format="jwt_id", iss=ISSUER, jti="g-1").revoked == (old,)
        else:
            assert world.pipeline.shut([old], EndCause.REVOKED, "by uid 0") == []

    meanwhile(world.pipeline.ledger, "begin_replacing", order, monkeypatch)
    assert world.refusal(world.sign("g-2", [ALICE, SSH], supersedes="g-1")) == "supersedes_not_open"
    assert (old.state, old.cause) == (GrantState.ENDED, EndCause.REVOKED)
    world.tick()
    assert (world.host.snapshot(), world.pipeline.ledger.all()) == (world.before, [])


def test_an_old_grant_that_was_claimed_to_be_replaced_is_not_left_open_though_revoked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.open(world.sign("g-1", [ALICE]))
    (old,) = world.pipeline.ledger.all()

    def revoked_and_full(*_: Any, **__: Any) -> Any:
        revoke(world, format="jwt_id", iss=ISSUER, jti="g-1")
        assert old.state is GrantState.OPEN, "it is claimed"
        raise JournalError("journal_failed", "disk full")

    monkeypatch.setattr(world.pipeline.journal.orders, "refuse_revoked", lambda *_: None)
    monkeypatch.setattr(type(world.pipeline), "_accept", revoked_and_full)
    with pytest.raises(JournalError):
        world.pipeline.open(world.sign("g-2", [ALICE, SSH], supersedes="g-1"))
    assert (old.state, old.cause) == (GrantState.ENDED, EndCause.REVOKED)
    world.tick()
    assert world.host.snapshot() == world.before


def test_a_right_that_goes_on_stays_with_who_holds_it_over_a_kill_in_the_middle_of_a_replacement(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = {"type": "group", "identifier": "deploy", "groups": ["games"]}
    world.pipeline.open(world.sign("g-1", [ALICE, SSH, group]))
    world.table.alive[2000] = process(2000, 1001, mark="group")

    def killed() -> None:
        raise KilledError("here")

    meanwhile(world.pipeline.behind, "arm_again", killed, monkeypatch)
    with pytest.raises(KilledError):
        world.pipeline.open(world.sign("g-2", [ALICE, group], supersedes="g-1"))
    world.crash()
    world.start()
    assert 2000 in world.table.alive
    assert [(live.record.jti, live.state) for live in world.pipeline.ledger.all()] == [("g-2", GrantState.OPEN)]
