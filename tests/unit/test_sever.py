"""Ending every process of a tenant: until none is left, whatever the tenant does, and whatever fails here."""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from agent.errors import HostError
from agent.expiry.sever import Severed, sever
from agent.host.cgroups import Cgroups
from agent.host.lent import Lent
from agent.host.processes import Process
from tests.unit.expiry_kit import ALICE, BOB, FakeCgroups, FakeTable, process

BOTH = {ALICE: "jit-alice", BOB: "jit-bob"}


def run(
    table: FakeTable, tenants: dict[int, str] | None = None, *, patience_s: float = 5.0, cgroups: FakeCgroups | None = None
) -> dict[int, Severed]:
    table.cgroups = cgroups or table.cgroups or FakeCgroups(table)
    ticks = itertools.count(1)
    found = sever(tenants or {ALICE: "jit-alice"}, table, table.cgroups, lambda: next(ticks), patience_s=patience_s)
    assert not table.cgroups.frozen_now, "whatever was frozen is thawed"
    return found


def test_everything_of_the_tenant_dies_and_nothing_of_another() -> None:
    table = FakeTable.of_processes(process(10), process(11, mark="sudo", cgroup="/system.slice/cron.service"), process(12, BOB))
    result = run(table)[ALICE]
    assert set(table.alive) == {12}
    assert (result.killed_count, result.survivors, result.errors) == (2, [], [])
    assert result.killed == ["sh[10] uid=70001 by=uid", "sh[11] uid=0 by=sudo"]
    assert result.empty_wall_ns > 0


def test_nobody_there_is_over_at_once_without_a_pause() -> None:
    table = FakeTable()
    assert run(table)[ALICE].empty_wall_ns == 1
    assert table.walks == 2


def test_a_process_that_forks_while_it_is_killed_is_frozen_first() -> None:
    bomb = process(10, mark="sudo", cgroup="/system.slice/cron.service")
    table = FakeTable.of_processes(bomb)
    table.forks = {10: 1_000_000}
    assert run(table)[ALICE].survivors == []
    assert table.alive == {}
    assert table.cgroups and table.cgroups.ever_frozen == ["/system.slice/cron.service"]


def test_a_bomb_where_nothing_can_be_frozen_is_outlasted() -> None:
    class NoFreezer(FakeCgroups):
        frozen = Cgroups.frozen  # no mount: never frozen

    table = FakeTable.of_processes(process(10, mark="loginuid", cgroup="/init.scope"))
    table.forks = {10: 20}
    result = run(table, cgroups=NoFreezer(table))[ALICE]
    assert (result.survivors, table.alive) == ([], {})
    assert result.killed_count == 21


def test_without_any_cgroup_kill_the_uid_itself_is_killed_from() -> None:
    table = FakeTable.of_processes(process(10), process(11))
    cgroups = FakeCgroups(table)
    cgroups.works = False
    assert run(table, cgroups=cgroups)[ALICE].survivors == []


def test_who_outlives_our_patience_is_named_and_not_counted_as_killed() -> None:
    table = FakeTable.of_processes(process(10), process(11, name="stuck"))
    table.immortal = {11}
    result = run(table, patience_s=0.05)[ALICE]
    assert result.survivors == ["stuck[11]"]
    assert result.empty_wall_ns == 0
    assert (result.killed, result.killed_count) == (["sh[10] uid=70001 by=uid"], 1)


def test_a_slice_that_stays_populated_by_what_no_walk_can_name_is_not_empty() -> None:
    table = FakeTable()
    cgroups = FakeCgroups(table)
    cgroups.stuck = {"/user.slice/user-70001.slice"}
    result = run(table, BOTH, patience_s=0.05, cgroups=cgroups)
    assert result[ALICE].survivors == ["something in /user.slice/user-70001.slice"]
    assert result[ALICE].empty_wall_ns == 0
    assert result[BOB].survivors == [] and result[BOB].empty_wall_ns > 0


def test_one_tenant_that_cant_be_signalled_does_not_spare_another() -> None:
    table = FakeTable.of_processes(process(10, cgroup="/b"), process(11, BOB), process(12, BOB, mark="sudo", cgroup="/a"))
    table.fail_all = {ALICE: "could not signal"}
    table.fail_kill = {10: OSError("odd"), 12: HostError("kill_failed", "odd")}
    table.immortal = {10, 12}
    result = run(table, BOTH, patience_s=0.05)
    assert set(table.alive) == {10, 12}
    assert result[ALICE].survivors == ["sh[10]"] and result[BOB].survivors == ["sh[12]"]
    assert len(result[ALICE].errors) == 2, "each error is noted once, however often it came"


def test_a_helper_that_fails_leaves_the_other_ways_of_killing() -> None:
    table = FakeTable.of_processes(process(10), process(11, mark="sudo", cgroup="/a"))
    table.helper_error = OSError(11, "no more processes")
    result = run(table)[ALICE]
    assert (table.alive, result.survivors, len(result.errors)) == ({}, [], 1)


@pytest.mark.parametrize("error", [HostError("proc_unreadable", "no descriptor left"), OSError("gone"), ValueError("a bug")])
def test_a_walk_that_fails_proves_nothing_and_the_kill_goes_on(error: Exception) -> None:
    table = FakeTable.of_processes(process(10), process(11, BOB))
    table.error = error
    table.fail_walks = {1, 2, 3}
    result = run(table, BOTH)
    assert table.alive == {}
    assert result[ALICE].survivors == [] and result[ALICE].empty_wall_ns > 2
    assert len(result[ALICE].errors) == 1


def test_when_no_walk_ever_succeeds_everybody_counts_as_alive() -> None:
    table = FakeTable.of_processes(process(10))
    table.fail_walks = {-1}
    result = run(table, BOTH, patience_s=0.03)
    for uid in BOTH:
        assert result[uid].empty_wall_ns == 0
        assert "no descriptor left" in result[uid].survivors[0]
    assert table.alive == {}, "what needs no walk was done all the same"


def test_an_error_inside_the_freeze_still_thaws() -> None:
    table = FakeTable.of_processes(process(10, mark="sudo", cgroup="/a"))
    table.fail_walks = {3}  # the look inside the freeze
    assert run(table)[ALICE].survivors == []
    assert table.cgroups and table.cgroups.ever_frozen == ["/a", "/a"]


def test_a_later_death_moves_the_moment_of_the_last_process() -> None:
    table = FakeTable.of_processes(process(10, mark="sudo", cgroup="/a"))
    table.immortal = {10}
    again = FakeCgroups(table)
    freed: list[int] = []

    def wall() -> int:
        freed.append(len(freed) + 1)
        if len(freed) == 3:
            table.immortal = set()
        return freed[-1]

    result = sever({ALICE: "jit-alice"}, table, again, wall)[ALICE]
    assert result.empty_wall_ns == freed[-1] > 3


def test_somebody_who_goes_on_knocking_at_sshd_does_not_keep_a_grant_from_ending() -> None:
    table = FakeTable.of_processes(process(10))
    table.knocking = ALICE
    result = run(table, patience_s=0.5)[ALICE]
    assert result.survivors == []
    assert result.empty_wall_ns > 0


def test_sshds_half_of_a_session_that_stood_before_does_count() -> None:
    table = FakeTable.of_processes(process(10, mark="sshd", cgroup="/system.slice/ssh.service"))
    table.immortal = {10}
    assert run(table, patience_s=0.03)[ALICE].survivors == ["sh[10]"]


def test_the_list_of_the_killed_is_bounded_and_the_count_is_not() -> None:
    table = FakeTable.of_processes(*(process(pid) for pid in range(10, 310)))
    result = run(table)[ALICE]
    assert (len(result.killed), result.killed_count) == (64, 300)


def test_a_hundred_tenants_end_together() -> None:
    tenants = {uid: f"jit-{uid}" for uid in range(70000, 70100)}
    table = FakeTable.of_processes(*(process(uid - 60000, uid) for uid in tenants))
    result = run(table, tenants)
    assert table.walks == 2 and len({found.empty_wall_ns for found in result.values()}) == 1


def test_a_process_shows_by_name_number_owner_and_mark() -> None:
    assert dataclasses.astuple(process(10)) == (10, ALICE, "sh", "/user.slice/user-70001.slice/s.scope", "uid", ALICE, 0)


# What is killed whole


def test_a_slice_is_killed_before_any_walk_and_who_was_in_it_counts_all_the_same() -> None:
    walks_before: list[int] = []

    class Noting(FakeCgroups):
        def kill(self, group: str) -> bool:
            walks_before.append(self.table.walks)
            return super().kill(group)

    table = FakeTable.of_processes(process(10), process(11, mark="sudo"), process(12, cgroup="/system.slice/cron.service"))
    result = run(table, cgroups=Noting(table))[ALICE]
    assert walks_before == [0]
    assert (table.alive, result.killed_count) == ({}, 3)
    assert result.killed == [
        f"sh[{pid}] uid={uid} by={mark}" for pid, uid, mark in ((10, ALICE, "uid"), (11, 0, "sudo"), (12, ALICE, "uid"))
    ]


def test_the_kill_waits_for_no_more_names_than_a_receipt_has() -> None:
    table = FakeTable.of_processes(*(process(pid) for pid in range(10, 310)))
    run(table)
    assert len(table.looked_at) == 64


def test_whoever_the_slices_list_had_is_not_looked_for_again_by_the_first_walk() -> None:
    table = FakeTable.of_processes(process(10), process(11), process(12, mark="loginuid", cgroup="/a"))
    run(table)
    assert table.left_out == [{10, 11}, set(), set(), set()], "of the walks that prove, nobody is left out"


def test_a_job_or_two_of_each_are_killed_before_one_uid_after_the_other_is_signalled() -> None:
    jobs = [process(uid - 60000, uid, cgroup="/system.slice/cron.service") for uid in (ALICE, BOB)]
    bomb = [process(pid, ALICE + 5, cgroup="/system.slice/cron.service") for pid in range(20, 40)]
    table = FakeTable.of_processes(*jobs, *bomb)
    alive: list[set[int]] = []
    table.before_signals = lambda: alive.append(set(table.alive))
    result = run(table, {**BOTH, ALICE + 5: "jit-bomb"})
    assert alive[0] == {each.pid for each in bomb}, "a bomb is not signalled one by one"
    assert [result[uid].killed_count for uid in (ALICE, BOB, ALICE + 5)] == [1, 1, 20]


def test_whom_becoming_the_uid_may_not_reach_is_left_for_the_look_that_disarms_what_it_runs() -> None:
    slice_ = "/user.slice/user-1000.slice/x"
    others = replace(process(10, cgroup="/system.slice/cron.service"), uid=1000), process(11, cgroup=slice_)
    table = FakeTable.of_processes(*others)
    alive: list[set[int]] = []
    table.before_signals = lambda: alive.append(set(table.alive))
    assert run(table)[ALICE].killed_count == 2
    assert alive[0] == {10, 11}


def test_a_slice_of_which_nothing_can_be_named_is_killed_all_the_same() -> None:
    table = FakeTable.of_processes(process(10), process(11))
    table.fail_looks = True
    result = run(table)[ALICE]
    assert (table.alive, result.survivors, result.killed, result.killed_count) == ({}, [], [], 2)


def test_a_slice_that_could_not_be_killed_is_looked_into_by_the_first_walk() -> None:
    table = FakeTable.of_processes(process(10))
    cgroups = FakeCgroups(table)
    cgroups.works = False
    assert run(table, cgroups=cgroups)[ALICE].killed_count == 1
    assert table.left_out[0] == set()


def test_nobody_walks_while_what_was_killed_whole_is_dying() -> None:
    class Slow(FakeCgroups):
        looks = 0

        def populated(self, group: str) -> bool:
            del group
            self.looks += 1
            return self.looks < 5

    table = FakeTable.of_processes(process(10))
    run(table, cgroups=Slow(table))
    assert table.walks == 2, "one for who is there, and one for the proof"


# What proves that nobody is left


class Wide(FakeCgroups):
    """With groups of the users', that can be held still."""

    def of_people(self) -> list[str]:
        return ["/user.slice", "/system.slice/cron.service"]


def test_an_empty_walk_while_nothing_was_started_is_proof() -> None:
    table = FakeTable()
    table.cgroups = Wide(table)
    run(table)
    assert (table.walks, table.cgroups.ever_frozen) == (2, [])


def test_while_others_start_processes_one_empty_walk_is_none_so_all_that_users_run_is_held_for_the_next() -> None:
    table = FakeTable(churn=3)
    table.cgroups = Wide(table)
    assert run(table)[ALICE].survivors == []
    assert table.walks == 3
    assert table.cgroups.ever_frozen == ["/user.slice", "/system.slice/cron.service"]


def test_where_nothing_can_be_held_more_empty_walks_are_asked_for() -> None:
    table = FakeTable(churn=3)
    result = run(table)[ALICE]
    assert (table.walks, result.survivors) == (5, [])
    assert result.empty_wall_ns == 4, "the moment is the one at which it was proved"


def test_who_holds_a_lent_rule_is_not_killed_before_the_walk_that_finds_its_children() -> None:
    """Run by cron, outside of any slice: its real uid is the login that it was lent to, its child's is root's."""
    order: list[tuple[int, int]] = []

    class Noting(FakeTable):
        def kill(self, target: Process, tenants: dict[int, str]) -> None:
            order.append((target.pid, self.walks))
            super().kill(target, tenants)

    by_cron = replace(process(10, 1000, mark="rule", cgroup="/system.slice/cron.service"), uid=1000)
    table = Noting.of_processes(by_cron)
    table.cgroups = FakeCgroups(table)
    lent = Lent("deploy", 1000, rules=frozenset({(0, "/usr/bin/id")}))
    assert sever({}, table, table.cgroups, lambda: 1, lent=[lent])[1000].survivors == []
    assert order == [(10, 3)], "by the strike's own walk, not by the look before it"


def test_a_number_that_cant_be_read_proves_nothing() -> None:
    table = FakeTable(number=-1)
    run(table)
    assert table.walks == 5


def test_an_accomplices_bomb_that_runs_ahead_of_every_walk_is_found_once_it_stands_still() -> None:
    class Mobile(FakeTable):
        def of(self, tenants: dict[int, str], lent: Sequence[Lent] = (), without: Collection[int] = ()) -> list[Process]:
            assert self.cgroups
            self.churn = 0 if 10 not in self.alive or "/user.slice" in self.cgroups.frozen_now else 5
            self.unseen = {10} if self.churn else set()
            return super().of(tenants, lent, without)

    table = Mobile.of_processes(process(10, cgroup="/user.slice/user-1000.slice/session-3.scope"))
    table.unreachable = {10}
    table.cgroups = Wide(table)
    result = run(table)[ALICE]
    assert (table.alive, result.survivors, result.killed_count) == ({}, [], 1)


def test_what_is_seen_outside_its_slice_is_looked_for_again_with_all_held_still() -> None:
    table = FakeTable.of_processes(process(10, mark="loginuid", cgroup="/user.slice/user-1000.slice/x"))
    table.cgroups = Wide(table)
    assert run(table)[ALICE].survivors == []
    assert table.cgroups.ever_frozen[0] == "/user.slice/user-1000.slice/x" and "/user.slice" in table.cgroups.ever_frozen


def test_a_tenants_program_run_by_another_is_disarmed_and_only_then() -> None:
    for cgroup, wanted in (("/user.slice/user-1000.slice/x", True), ("", False)):
        calls: list[int] = []
        table = FakeTable.of_processes(process(10, cgroup=cgroup))
        table.unreachable = {10}
        cgroups = FakeCgroups(table)
        sever({ALICE: "jit-alice"}, table, cgroups, lambda: 1, disarm=lambda calls=calls: calls.append(1))  # type: ignore[misc]
        assert bool(calls) == wanted


def test_a_disarming_that_fails_keeps_nobody_alive() -> None:
    table = FakeTable.of_processes(process(10, cgroup="/user.slice/user-1000.slice/x"))
    table.unreachable = {10}
    result = sever({ALICE: ""}, table, FakeCgroups(table), lambda: 1, disarm=lambda: 1 // 0)[ALICE]
    assert (table.alive, result.survivors, len(result.errors)) == ({}, [], 1)


# What was lent to somebody whose account was there before

PERSON = 1000
LENT = Lent("deploy", PERSON, gids=frozenset({60}))


def test_what_holds_something_lent_is_killed_one_by_one_and_nothing_of_the_persons_as_a_whole() -> None:
    held = process(10, PERSON, mark="group", cgroup=f"/user.slice/user-{PERSON}.slice/s.scope")
    table = FakeTable.of_processes(held)
    table.cgroups = FakeCgroups(table)
    bystander = process(11, PERSON, mark="uid", cgroup=held.cgroup)
    table.alive[11] = replace(bystander, tenant_uid=-1)
    result = sever({}, table, table.cgroups, lambda: 1, lent=[LENT])[PERSON]
    assert (set(table.alive), result.survivors) == ({11}, [])
    assert result.killed == ["sh[10] uid=0 by=group"]


def test_a_holder_that_outlives_our_patience_is_a_survivor_of_that_login() -> None:
    table = FakeTable.of_processes(process(10, PERSON, mark="rule"))
    table.immortal = {10}
    result = sever({}, table, FakeCgroups(table), lambda: 1, lent=[LENT], patience_s=0.03)[PERSON]
    assert (result.survivors, result.empty_wall_ns) == (["sh[10]"], 0)
