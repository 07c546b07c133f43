"""Steps forward stop at the first failure; steps back stop at none."""

from typing import cast

import pytest

from agent.enforcement import apply, revert
from agent.errors import HostError, TidegateError, UnenforceableError
from agent.host.contract import Writer
from agent.host.fake import FakeHost, KilledError
from agent.model import Phase, Step
from tests.unit.expiry_kit import FakeEnforcer, enforcers
from tests.unit.journal_kit import step

STEPS = [step(0, Phase.REMOVE), step(1), step(2, Phase.REMOVE), step(3)]
WRITER = cast(Writer, FakeHost())


def errors(steps: list[Step], phase: Phase, fake: FakeEnforcer) -> list[tuple[str, str]]:
    return [(found.target, str(error)) for found, error in revert(steps, enforcers(fake), phase, WRITER)]


def test_steps_are_applied_in_order_and_undone_backwards_phase_by_phase() -> None:
    fake = FakeEnforcer()
    apply(STEPS, enforcers(fake), WRITER)
    assert errors(STEPS, Phase.CLOSE, fake) == errors(STEPS, Phase.REMOVE, fake) == []
    assert fake.done == ["+t0", "+t1", "+t2", "+t3", "-t3", "-t1", "-t2", "-t0"]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyError("x"), ValueError("y"), RecursionError(), UnicodeError("z")])
def test_whatever_a_step_raises_reaches_the_caller_as_what_it_undoes(error: Exception) -> None:
    fake = FakeEnforcer(fail={"t2": error})
    with pytest.raises(HostError) as caught:
        apply(STEPS, enforcers(fake), WRITER)
    assert caught.value.code == "step_crashed" and caught.value.__cause__ is error
    assert fake.done == ["+t0", "+t1"]


def test_a_refusal_keeps_its_own_code() -> None:
    fake = FakeEnforcer(fail={"t0": UnenforceableError("name_taken", "taken")})
    with pytest.raises(UnenforceableError) as caught:
        apply(STEPS, enforcers(fake), WRITER)
    assert caught.value.code == "name_taken"


def test_an_unknown_enforcer_is_a_failed_step_forward_and_back() -> None:
    gone = step(5, enforcer="gone")
    with pytest.raises(TidegateError):
        apply([gone], {}, WRITER)
    ((found, error),) = revert([gone], {}, Phase.CLOSE, WRITER)
    assert found is gone and "gone" in error.reason


def test_a_grant_that_ended_meanwhile_gets_not_one_step_more() -> None:
    fake = FakeEnforcer()

    def ended(_: Step) -> None:
        raise UnenforceableError("ended_while_opening", "over")

    with pytest.raises(UnenforceableError):
        apply(STEPS, enforcers(fake), WRITER, ended)
    assert fake.done == ["+t0"]


def test_no_failure_keeps_the_other_steps_from_being_undone() -> None:
    fake = FakeEnforcer(fail={"t3": ValueError("odd"), "t1": HostError("busy", "busy")})
    assert errors(STEPS, Phase.CLOSE, fake) == [("t3", "ValueError: odd [undo_crashed]"), ("t1", "busy [busy]")]
    assert errors(STEPS, Phase.REMOVE, fake) == []
    assert fake.done == ["-t2", "-t0"]


def test_a_kill_is_not_taken_for_a_failed_step() -> None:
    fake = FakeEnforcer()

    def die(_: Step) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        apply(STEPS, enforcers(fake), WRITER, die)
