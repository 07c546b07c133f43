"""What every enforcer promises, checked for every one of them: a new one gets these tests by its line in the registry."""

import copy
import json

import pytest

from agent.enforcement import apply, revert
from agent.errors import HostError, InvalidGrantError
from agent.host.fake import FakeHost, KilledError
from agent.model import Phase, Step
from agent.planning import plan
from tests.unit.enforcer_fixtures import BODIES, ENFORCERS, fake_host, grant_of, needs_cvtsudoers

pytestmark = needs_cvtsudoers
CASES = [*ENFORCERS, "all"]


def planned(case: str, host: FakeHost) -> tuple[Step, ...]:
    return plan(grant_of(BODIES[case]), ENFORCERS, host, lambda _: 70001).steps


def from_journal(steps: tuple[Step, ...]) -> list[Step]:
    return [Step.from_json(json.loads(json.dumps(step.to_json()))) for step in steps]


def teardown(steps: list[Step], host: FakeHost) -> None:
    for phase in (Phase.CLOSE, Phase.REMOVE):
        assert revert(steps, ENFORCERS, phase, host) == []


@pytest.mark.parametrize("case", CASES)
def test_a_case_for_every_enforcer_really_uses_it(case: str) -> None:
    kinds = {step.enforcer for step in planned(case, fake_host())}
    assert kinds == set(ENFORCERS) if case == "all" else case in kinds


@pytest.mark.parametrize("kind", list(ENFORCERS))
@pytest.mark.parametrize("value", [None, [], "x", {}, {"type": "other"}])
def test_decode_refuses_what_is_no_entry(kind: str, value: object) -> None:
    with pytest.raises(InvalidGrantError):
        ENFORCERS[kind].decode(value, "here")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", list(ENFORCERS))
def test_decode_refuses_an_unknown_member_and_each_missing_one_and_names_the_field(kind: str) -> None:
    body = BODIES[kind][-1]
    with pytest.raises(InvalidGrantError) as refused:
        ENFORCERS[kind].decode({**body, "extra": 1}, "authorization_details[3]")
    assert refused.value.code == "unknown_member"
    assert refused.value.field == "authorization_details[3]"
    for member in ("type", "identifier"):
        with pytest.raises(InvalidGrantError) as refused:
            ENFORCERS[kind].decode({key: value for key, value in body.items() if key != member}, "x")
        assert refused.value.code == "missing_member"


@pytest.mark.parametrize("kind", list(ENFORCERS))
@pytest.mark.parametrize(
    "name",
    [
        "",
        "jit-a\n",
        "jit-a:0",
        "-jit",
        "1234",
        "0",
        "..",
        "a/b",
        "jit alice",
        "jit-ä",
        "jit-\u0430lice",
        "a" * 32,
        "ALL",
        "a$",
        "a\0",
        "Jit",
        7,
        None,
        ["a"],
    ],
)
def test_decode_refuses_hostile_logins(kind: str, name: object) -> None:
    with pytest.raises(InvalidGrantError) as refused:
        ENFORCERS[kind].decode({**BODIES[kind][-1], "identifier": name}, "x")
    assert refused.value.field == "x.identifier"


@pytest.mark.parametrize("case", CASES)
def test_planning_changes_nothing_and_is_the_same_each_time(case: str) -> None:
    host = fake_host()
    before = copy.deepcopy(host.snapshot())
    assert planned(case, host) == planned(case, host)
    assert host.calls == []
    assert host.snapshot() == before


@pytest.mark.parametrize("case", CASES)
def test_steps_survive_the_journal(case: str) -> None:
    steps = planned(case, fake_host())
    assert tuple(from_journal(steps)) == steps


@pytest.mark.parametrize("case", CASES)
def test_applying_twice_is_applying_once(case: str) -> None:
    once, twice = fake_host(), fake_host()
    steps = planned(case, once)
    apply(steps, ENFORCERS, once)
    for step in steps:
        apply([step, step], ENFORCERS, twice)
    assert once.snapshot() == twice.snapshot()


@pytest.mark.parametrize("case", CASES)
def test_after_teardown_the_host_is_as_before_and_teardown_may_run_again(case: str) -> None:
    host = fake_host()
    before = copy.deepcopy(host.snapshot())
    steps = planned(case, host)
    apply(steps, ENFORCERS, host)
    assert host.snapshot() != before
    assert [residue for e in ENFORCERS.values() for residue in e.residue([s for s in steps if s.enforcer == e.type], host)]
    for _ in range(2):
        teardown(from_journal(steps), host)
        assert host.snapshot() == before
    assert [residue for e in ENFORCERS.values() for residue in e.residue([s for s in steps if s.enforcer == e.type], host)] == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_call_of_opening_leaves_nothing_once_the_journal_is_undone(case: str, after: bool) -> None:
    calls = _calls(case)
    for nth in range(1, calls + 1):
        host = fake_host()
        before = copy.deepcopy(host.snapshot())
        steps = planned(case, host)
        host.fail_at, host.kill, host.after = nth, True, after
        intended: list[Step] = []
        with pytest.raises(KilledError):
            for step in steps:
                intended.append(step)
                apply([step], ENFORCERS, host)
        if "jit-alice" in host.users:
            opened = host.locked["jit-alice"] is False
            assert not opened or intended == list(steps), "an account was open before all else was in place"
        host.fail_at = None
        teardown(from_journal(tuple(intended)), host)
        assert host.snapshot() == before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_call_of_teardown_leaves_nothing_once_it_runs_again(case: str, after: bool) -> None:
    calls = _calls(case, closing=True)
    for nth in range(1, calls + 1):
        host = fake_host()
        before = copy.deepcopy(host.snapshot())
        steps = planned(case, host)
        apply(steps, ENFORCERS, host)
        host.calls, host.fail_at, host.kill, host.after = [], nth, True, after
        with pytest.raises(KilledError):
            teardown(list(steps), host)
        host.fail_at = None
        teardown(from_journal(steps), host)
        assert host.snapshot() == before


@pytest.mark.parametrize("case", CASES)
def test_one_failed_undo_is_reported_and_does_not_stop_the_others(case: str) -> None:
    calls = _calls(case, closing=True)
    for nth in range(1, calls + 1):
        host = fake_host()
        before = copy.deepcopy(host.snapshot())
        steps = planned(case, host)
        apply(steps, ENFORCERS, host)
        host.calls, host.fail_at = [], nth
        failed = [pair for phase in (Phase.CLOSE, Phase.REMOVE) for pair in revert(steps, ENFORCERS, phase, host)]
        assert [error.code for _, error in failed] == ["told_to_fail"]
        host.fail_at = None
        assert revert([step for step, _ in failed], ENFORCERS, failed[0][0].phase, host) == []
        assert host.snapshot() == before


@pytest.mark.parametrize("case", CASES)
def test_the_first_failure_stops_opening(case: str) -> None:
    host = fake_host()
    steps = planned(case, host)
    host.fail_at = 1
    done: list[Step] = []
    with pytest.raises(HostError):
        apply(steps, ENFORCERS, host, done.append)
    assert done == []


@pytest.mark.parametrize("kind", list(ENFORCERS))
def test_a_step_of_another_version_fails_by_name_and_not_by_crash(kind: str) -> None:
    step = next(step for step in planned(kind, fake_host()) if step.enforcer == kind)
    strange = Step(kind, step.action, step.stage, step.phase, step.target, step.summary, {})
    with pytest.raises(HostError, match="bad_step"):
        ENFORCERS[kind].revert(strange, fake_host())


def _calls(case: str, *, closing: bool = False) -> int:
    """How many changing calls opening (or closing) makes when nothing goes wrong."""
    host = fake_host()
    steps = planned(case, host)
    apply(steps, ENFORCERS, host)
    if not closing:
        return len(host.calls)
    host.calls = []
    teardown(list(steps), host)
    return len(host.calls)
