"""Shutting grants: in the right order, all of the batch, and never raising."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, cast

import pytest

from agent.errors import HostError
from agent.expiry import teardown
from agent.expiry.live import LiveGrant
from agent.expiry.shut import Shut
from agent.expiry.teardown import Teardown
from agent.host.clock import FakeClock
from agent.host.contract import CommandResult, Writer
from agent.host.found import Found
from agent.host.lent import Lent
from agent.model import Json, Phase, Residue, Step
from agent.model.lent import to_json
from tests.unit.expiry_kit import ALICE, BOB, PATHS, FakeCgroups, FakeEnforcer, FakeTable, Host, enforcers, live, process
from tests.unit.journal_kit import step

ERRORS: list[Exception] = [
    HostError("odd", "odd"),
    OSError(28, "No space left"),
    ValueError("a bug"),
    KeyError("x"),
    RecursionError(),
]


class Scene:
    """A teardown over fakes, and what happened in which order."""

    def __init__(self, *processes: object) -> None:
        self.clock = FakeClock()
        self.host = Host()
        self.fake = FakeEnforcer()
        self.table = FakeTable.of_processes(*processes)  # type: ignore[arg-type]
        self.table.cgroups = FakeCgroups(self.table)
        self.log: list[str] = []
        self.fake.on_revert = lambda found: self.log.append(f"{found.phase} {found.target} ({len(self.table.alive)} alive)")
        self.hands = Teardown(
            cast(Writer, self.host), enforcers(self.fake), self.table, self.table.cgroups, self.clock, patience_s=0.2
        )
        self.tell: Callable[[Sequence[LiveGrant]], int] = self.note_told
        self.closed: Callable[[list[Shut]], None] = lambda shuts: self.log.append(f"closed {len(shuts)}")

    def note_told(self, grants: Sequence[LiveGrant]) -> int:
        self.log += [f"tell {found.id} ({len(self.table.alive)} alive)" for found in grants]
        return len(grants)

    def shut(self, *grants: LiveGrant) -> list[Shut]:
        shuts = self.hands.cut(grants, self.tell)
        self.closed(shuts)
        self.hands.clear(shuts)
        return shuts


def doors(grant: LiveGrant) -> int | None:
    return grant.doors_ns


def live_again(grant: LiveGrant) -> bool:
    return grant.alive


def two(scene: Scene) -> tuple[LiveGrant, LiveGrant]:
    bob = live(scene.clock, 2, uids={"jit-bob": BOB})
    bob.steps = [(0, step(2, Phase.REMOVE)), (1, step(3, Phase.CLOSE))]
    return live(scene.clock), bob


def test_doors_first_for_all_then_the_word_then_the_processes_then_the_accounts() -> None:
    scene = Scene(process(10), process(11, BOB))
    shuts = scene.shut(*two(scene))
    assert scene.log == [
        *("close t1 (2 alive)", "close t3 (2 alive)", "tell 1 (2 alive)", "tell 2 (2 alive)", "closed 2"),
        *("remove t0 (0 alive)", "remove t2 (0 alive)"),
    ]
    assert all(shut.ended_ns and not shut.errors for shut in shuts)
    assert [shut.live.killed_count for shut in shuts] == [1, 1]
    assert all(shut.live.doors_ns and shut.live.last_process_ns for shut in shuts)


@pytest.mark.parametrize("reached", [0, 1])
def test_sshd_is_let_send_what_a_terminal_was_told_before_anything_is_killed(monkeypatch: pytest.MonkeyPatch, reached: int) -> None:
    scene = Scene(process(10))

    class Words:
        def __init__(self, uids: set[int], pids_of: Callable[[int], Sequence[int]]) -> None:
            scene.log.append(f"who is there {sorted(uids)} {list(pids_of(ALICE))} ({len(scene.table.alive)} alive)")

        def wait(self) -> None:
            scene.log.append(f"sent ({len(scene.table.alive)} alive)")

    def tell(grants: Sequence[LiveGrant]) -> int:
        scene.log.append(f"told {len(grants)}")
        return reached

    monkeypatch.setattr(teardown, "LastWords", Words)
    scene.tell = tell
    scene.shut(live(scene.clock))
    sent = ["sent (1 alive)"] if reached else []
    assert scene.log[1:] == [f"who is there [{ALICE}] [10] (1 alive)", "told 1", *sent, "closed 1", "remove t0 (0 alive)"]


def test_what_was_removed_is_gone_on_its_disk_before_any_journal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    monkeypatch.setattr(scene.host, "settle", lambda: scene.log.append("settled"))
    (shut,) = scene.shut(live(scene.clock))
    assert scene.log.index("settled") > scene.log.index("remove t0 (0 alive)")
    assert shut.ended_ns

    def no_disk() -> NoReturn:
        raise HostError("remove_failed", "what was removed from /home may come back: I/O error")

    monkeypatch.setattr(scene.host, "settle", no_disk)
    (shut,) = scene.shut(live(scene.clock, 2))
    assert shut.ended_ns is None and "may come back" in shut.errors[0]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["close", "remove", "tell", "sweep", "residue", "side door", "kill"])
def test_whatever_fails_for_one_the_other_ends_and_nothing_is_raised(where: str, error: Exception, caplog: object) -> None:
    del caplog
    scene = Scene(process(10), process(11, BOB))
    alice, bob = two(scene)

    def fail(*_: object) -> NoReturn:
        raise error

    if where in {"close", "remove"}:
        scene.fake.fail = {"t1" if where == "close" else "t0": error}
    elif where == "tell":
        scene.tell = fail
    elif where == "sweep":
        scene.host.remains.errors = {ALICE: error}
    elif where == "residue":
        scene.fake.residue_error = error
    elif where == "side door":
        real = scene.host.remove
        scene.host.remove = lambda path: fail() if path.name == "jit-alice" else real(path)  # type: ignore[method-assign]
    else:
        scene.table.helper_error = error
    shuts = scene.shut(alice, bob)
    assert scene.table.alive == {}
    assert bool(shuts[0].errors) == (where in {"close", "remove", "sweep", "residue", "side door"})
    assert (shuts[0].ended_ns is None) == bool(shuts[0].errors)
    assert (where == "residue") or shuts[1].ended_ns
    assert "-t3" in scene.fake.done and "-t2" in scene.fake.done


def test_a_door_that_would_not_shut_leaves_no_time_of_closing_until_it_does() -> None:
    scene = Scene()
    grant = live(scene.clock)
    scene.fake.fail = {"t1": HostError("busy", "busy")}
    assert scene.shut(grant)[0].ended_ns is None
    assert doors(grant) is None
    scene.fake.fail = {}
    scene.clock.advance(1)
    assert scene.shut(grant)[0].ended_ns == scene.clock.wall_ns() == grant.doors_ns
    assert grant.began_ns and grant.began_ns < grant.doors_ns


def test_while_a_process_lives_its_account_stays_and_only_its() -> None:
    scene = Scene(process(10), process(11, BOB))
    scene.table.immortal = {10}
    units: list[str] = []
    scene.host.files = {Path("/run/systemd/system/x"): (b"", 0o644)}

    def systemctl(argv: Sequence[str], _: bytes | None) -> CommandResult:
        units.extend(argv)
        return CommandResult(tuple(argv), 0, "", "")

    scene.host.commands = {"systemctl": systemctl}
    alice, bob = two(scene)
    shuts = scene.shut(alice, bob)
    assert shuts[0].errors == ["still alive: sh[10]"]
    assert (alice.alive, alice.last_process_ns) == (True, None)
    assert shuts[1].ended_ns and not bob.alive
    assert "-t0" not in scene.fake.done and "-t1" in scene.fake.done
    assert not [unit for unit in units if "70001" in unit], "systemctl stop would wait for it and hold up the others"
    assert "user-70002.slice" in units
    scene.table.immortal = set()
    assert scene.shut(alice)[0].ended_ns
    assert not live_again(alice) and alice.killed_count == 1


def test_a_process_that_turns_up_during_the_removal_keeps_the_grant_from_being_over() -> None:
    scene = Scene()
    grant = live(scene.clock)

    def at_job(found: Step) -> None:
        if found.phase is Phase.REMOVE and not scene.table.alive:
            scene.table.alive[50] = process(50, name="atd-job", cgroup="/system.slice/atd.service")

    scene.fake.on_revert = at_job
    shut = scene.shut(grant)[0]
    assert shut.ended_ns is None and grant.alive
    assert "atd-job[50]" in shut.errors[0]
    scene.fake.on_revert = lambda _: None
    again = scene.shut(grant)[0]
    assert again.ended_ns and not scene.table.alive and grant.killed_count == 1


def test_a_last_look_that_fails_proves_nothing() -> None:
    scene = Scene()
    scene.table.fail_walks = {3}
    grant = live(scene.clock)
    assert scene.shut(grant)[0].ended_ns is None
    assert scene.shut(grant)[0].ended_ns


def test_a_retry_that_finds_nobody_keeps_the_moment_of_the_last_process() -> None:
    scene = Scene(process(10))
    grant = live(scene.clock)
    scene.fake.fail = {"t0": HostError("busy", "busy")}
    scene.shut(grant)
    first = grant.last_process_ns
    scene.clock.advance(30)
    scene.fake.fail = {}
    assert scene.shut(grant)[0].ended_ns and grant.last_process_ns == first


def test_what_would_start_something_later_is_shut_with_the_doors() -> None:
    scene = Scene()
    for folder in PATHS:
        scene.host.files |= {folder / "jit-alice": (b"x", 0o600), folder / "root": (b"x", 0o600)}
    scene.shut(live(scene.clock))
    assert set(scene.host.files) == {folder / "root" for folder in PATHS}


def test_a_grant_that_made_no_account_ends_without_a_walk() -> None:
    scene = Scene(process(10))
    shut = scene.shut(live(scene.clock, uids={}))[0]
    assert shut.ended_ns and scene.table.walks == 0 and scene.table.alive


def test_nothing_to_shut_is_done() -> None:
    assert Scene().shut() == []


def test_a_file_name_that_is_no_utf8_is_told_in_text_that_can_be_signed() -> None:
    scene = Scene()
    scene.host.remains.found = {
        ALICE: [Found("file", "/tmp/\udcff\n\u202ex", "mine", True, ALICE), Found("file", "/dev/shm/\udc80", "busy", uid=ALICE)]
    }
    scene.fake.residues = [Residue("cron", "/etc/cron.d/\udcfe", "by \ud800")]
    scene.fake.fail = {"t0": HostError("left", "/home/jit-alice/\udcff: busy")}
    shut = scene.shut(live(scene.clock))[0]
    texts = [*shut.errors, *(text for found in shut.residue for text in (found.where, found.detail))]
    assert all(text.isprintable() and text.encode() for text in texts)
    assert [(found.where, found.removed) for found in shut.residue][:1] == [("/tmp/\\xff\\x0a\\u202ex", True)]


def test_an_enforcer_that_is_gone_is_an_error_and_not_a_crash() -> None:
    scene = Scene()
    grant = live(scene.clock)
    grant.steps = [*grant.steps, (2, step(9, Phase.CLOSE, enforcer="gone"))]
    shut = scene.shut(grant)[0]
    assert shut.ended_ns is None and "gone" in shut.errors[0]
    assert {"-t1", "-t0"} <= set(scene.fake.done)


def test_a_sweep_ends_what_turned_up_and_says_nothing_when_nobody_did() -> None:
    scene = Scene()
    assert scene.hands.sweep({ALICE: "jit-alice"}) == {}
    scene.table.alive[10] = process(10)
    assert scene.hands.sweep({ALICE: "jit-alice"})[ALICE].killed_count == 1
    assert scene.table.alive == {}


def test_a_sweep_that_cant_look_kills_unseen() -> None:
    scene = Scene(process(10))
    scene.table.fail_walks = {scene.table.walks + 1}
    scene.hands.sweep({ALICE: "jit-alice"})
    assert scene.table.alive == {}


def test_a_sweep_leaves_the_side_doors_of_a_login_that_is_anothers_by_now() -> None:
    scene = Scene()
    scene.host.files = {folder / "jit-alice": (b"x", 0o600) for folder in PATHS} | {PATHS[0]: (b"", 0o755)}
    scene.hands.sweep({ALICE: ""})
    assert len(scene.host.files) == 3


@pytest.mark.parametrize("threads", [0, 1])
def test_systemd_is_told_beside_the_removal_where_there_is_a_thread_for_it(threads: int) -> None:
    scene = Scene()
    told: list[str] = []
    scene.host.files = {Path("/run/systemd/system/x"): (b"", 0o644)}

    def systemctl(argv: Sequence[str], _: bytes | None) -> CommandResult:
        told.append(f"{argv[1]} {threading.current_thread().name.split('_')[0]}")
        return CommandResult(tuple(argv), 0, "", "")

    scene.host.commands = {"systemctl": systemctl}
    pool = ThreadPoolExecutor(1, thread_name_prefix="units") if threads else None
    scene.hands.beside = pool
    assert scene.shut(live(scene.clock))[0].ended_ns
    if pool:
        pool.shutdown()
    where = "units" if threads else "MainThread"
    assert told == [f"stop {where}", f"reset-failed {where}"]


# What was lent to somebody whose account was there before

PERSON = 1000
HELD = process(20, PERSON, mark="group", name="held")


def lends(grant: LiveGrant, *, gid: int = 60) -> LiveGrant:
    """The grant, with a membership of deploy's among its steps, as the journal has it."""
    data: dict[str, Json] = {"name": "deploy", "group": "games", "lent": to_json(Lent("deploy", PERSON, gids=frozenset({gid})))}
    grant.steps = [*grant.steps, (9, replace(step(9, Phase.CLOSE), data=data))]
    return grant


def test_what_holds_a_lent_group_dies_with_the_grant_and_is_in_its_account() -> None:
    scene = Scene(HELD, process(21, BOB))
    grant = lends(live(scene.clock, uids={}))
    assert [lent.uid for lent in grant.lent] == [PERSON]
    shut = scene.shut(grant)[0]
    assert shut.ended_ns and set(scene.table.alive) == {21}
    assert grant.killed == ["held[20] uid=0 by=group"] and grant.killed_count == 1
    assert grant.last_process_ns and not grant.alive


def test_a_holder_that_will_not_die_keeps_the_grant_from_being_over() -> None:
    scene = Scene(HELD)
    scene.table.immortal = {20}
    grant = lends(live(scene.clock, uids={}))
    assert scene.shut(grant)[0].errors == ["still alive: held[20]"]
    assert grant.alive and grant.last_process_ns is None


def test_one_that_turns_up_during_the_removal_counts_too() -> None:
    scene = Scene()
    grant = lends(live(scene.clock, uids={}))

    def appear(found: Step) -> None:
        if found.phase is Phase.REMOVE:
            scene.table.alive[20] = HELD

    scene.fake.on_revert = appear
    assert "held[20]" in scene.shut(grant)[0].errors[0]


def test_what_a_grant_that_goes_on_lends_as_well_is_left_alone() -> None:
    scene = Scene(HELD)
    still = (Lent("deploy", PERSON, gids=frozenset({60})),)
    scene.hands = Teardown(
        cast(Writer, scene.host),
        enforcers(scene.fake),
        scene.table,
        FakeCgroups(scene.table),
        scene.clock,
        others=lambda: still,
    )
    assert scene.shut(lends(live(scene.clock, uids={})))[0].ended_ns
    assert scene.hands.sweep({}, still) == {}
    assert set(scene.table.alive) == {20}


def test_a_sweep_ends_what_holds_again_what_was_lent() -> None:
    scene = Scene(HELD)
    lent = lends(live(scene.clock, uids={})).lent
    scene.host.at_jobs = {(PERSON, 60), (PERSON, 61)}
    assert scene.hands.sweep({}, lent)[PERSON].killed_count == 1
    assert scene.hands.sweep({}, lent) == {}
    assert scene.host.at_jobs == {(PERSON, 61)}


def test_an_at_spool_that_cant_be_read_keeps_the_grant_from_being_over() -> None:
    scene = Scene()
    scene.host.at_error = HostError("at_spool", "odd")
    shut = scene.shut(lends(live(scene.clock, uids={})))[0]
    assert shut.ended_ns is None and "odd" in shut.errors[0]


def test_nothing_that_was_lent_is_older_than_the_grant() -> None:
    scene = Scene()
    (lent,) = lends(live(scene.clock, uids={})).lent
    assert lent.since_ns == scene.clock.boot_ns()


def test_a_file_that_would_give_a_lent_group_back_is_disarmed_and_told() -> None:
    scene = Scene()
    scene.host.setgid = {"/home/deploy/g": 60, "/home/deploy/other": 61}
    shut = scene.shut(lends(live(scene.clock, uids={})))[0]
    assert [(found.kind, found.where, found.removed) for found in shut.residue] == [("setgid", "/home/deploy/g", True)]
    scene.host.at_error = HostError("odd", "odd")
    assert scene.shut(lends(live(scene.clock, 2, uids={})))[0].ended_ns is None


def test_what_somebody_else_has_ended_meanwhile_is_not_removed_again() -> None:
    """By a backstop, say, that clears away while the daemon is back: the login may be a newer grant's by now."""
    scene = Scene()
    alice, bob = two(scene)
    shuts = scene.hands.cut([alice, bob], lambda _grants: 0)
    scene.hands.still_ours = lambda found: found is bob
    before = len(scene.log)
    scene.hands.clear(shuts)
    removed = scene.log[before:]
    assert len(removed) == sum(each.phase is Phase.REMOVE for _, each in bob.steps) == 1


def test_a_copy_that_an_old_session_started_after_the_cut_dies_before_anything_is_removed() -> None:
    scene = Scene()
    scene.host.setgid = {"/home/deploy/g": 60}
    (shut,) = scene.hands.cut([lends(live(scene.clock, uids={}))], lambda _grants: 0)
    scene.table.alive[20] = HELD
    alive: list[bool] = []
    scene.fake.on_revert = lambda _step: alive.append(20 in scene.table.alive)
    scene.hands.clear([shut])
    assert alive == [False] and shut.ended_ns and shut.live.killed_count == 1


def test_what_others_lend_is_not_asked_where_these_lend_nothing() -> None:
    """On a host with thousands of grants that takes longer than all the rest, and nobody's processes are dead by then."""
    scene = Scene(process(10))
    asked: list[int] = []
    writer = cast(Writer, scene.host)

    def others() -> Sequence[Lent]:
        asked.append(1)
        return ()

    scene.hands = Teardown(writer, enforcers(scene.fake), scene.table, FakeCgroups(scene.table), scene.clock, others=others)
    scene.hands.cut([live(scene.clock)], lambda _grants: 0)
    assert not asked
    scene.hands.cut([lends(live(scene.clock, 2, uids={}))], lambda _grants: 0)
    assert asked


def test_what_is_only_suspended_is_disarmed_too() -> None:
    scene = Scene()
    scene.host.setgid = {"/home/deploy/g": 60}
    (shut,) = scene.hands.cut([lends(live(scene.clock, uids={}))], lambda _grants: 0)
    scene.table.alive[20] = HELD
    scene.hands.set_aside([shut])
    assert not scene.host.setgid and not scene.table.alive
