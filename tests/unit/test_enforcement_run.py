"""Steps forward stop at the first failure; steps back stop at none."""

from typing import cast

import pytest

from agent.enforcement import apply, revert
from agent.errors import HostError, TidegateError, UnenforceableError
from agent.host.contract import Writer
from agent.host.fake import FakeHost, KilledError
from agent.model import Phase
from tests.unit.expiry_kit import FakeEnforcer, enforcers
from tests.unit.journal_kit import step

STEPS = [step(0, Phase.REMOVE), step(1), step(2, Phase.REMOVE), step(3)]
WRITER = cast(Writer, FakeHost())


def go_on() -> None:
    """Nothing has ended."""


def test_steps_are_applied_in_order_and_undone_backwards_phase_by_phase() -> None:
    fake = FakeEnforcer()
    apply(STEPS, enforcers(fake), WRITER, go_on)
    numbered = list(enumerate(STEPS))
    assert revert(numbered, Phase.CLOSE, enforcers(fake), WRITER) == [(3, ""), (1, "")]
    assert revert(numbered, Phase.REMOVE, enforcers(fake), WRITER) == [(2, ""), (0, "")]
    assert fake.done == ["+t0", "+t1", "+t2", "+t3", "-t3", "-t1", "-t2", "-t0"]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyError("x"), ValueError("y"), RecursionError(), UnicodeError("z")])
def test_whatever_a_step_raises_reaches_the_caller_as_what_it_undoes(error: Exception) -> None:
    fake = FakeEnforcer(fail={"t2": error})
    with pytest.raises(HostError) as caught:
        apply(STEPS, enforcers(fake), WRITER, go_on)
    assert caught.value.code == "step_failed" and caught.value.__cause__ is error
    assert fake.done == ["+t0", "+t1"]


def test_a_refusal_keeps_its_own_code() -> None:
    fake = FakeEnforcer(fail={"t0": UnenforceableError("name_taken", "taken")})
    with pytest.raises(UnenforceableError) as caught:
        apply(STEPS, enforcers(fake), WRITER, go_on)
    assert caught.value.code == "name_taken"


def test_an_unknown_enforcer_is_a_failed_step_forward_and_back() -> None:
    gone = step(5, enforcer="gone")
    with pytest.raises(TidegateError):
        apply([gone], {}, WRITER, go_on)
    ((seq, error),) = revert([(7, gone)], Phase.CLOSE, {}, WRITER)
    assert seq == 7 and "gone" in error


def test_a_grant_that_ended_meanwhile_gets_not_one_step_more() -> None:
    fake = FakeEnforcer()

    def ended() -> None:
        if fake.done:
            raise UnenforceableError("ended_while_opening", "over")

    with pytest.raises(UnenforceableError):
        apply(STEPS, enforcers(fake), WRITER, ended)
    assert fake.done == ["+t0"]


def test_no_failure_keeps_the_other_steps_from_being_undone() -> None:
    fake = FakeEnforcer(fail={"t3": ValueError("odd"), "t1": HostError("busy", "busy")})
    assert revert(list(enumerate(STEPS)), Phase.CLOSE, enforcers(fake), WRITER) == [
        (3, "step 3: ValueError: odd"),
        (1, "step 1: busy [busy]"),
    ]
    assert revert(list(enumerate(STEPS)), Phase.REMOVE, enforcers(fake), WRITER) == [(2, ""), (0, "")]


def test_a_kill_is_not_taken_for_a_failed_step() -> None:
    fake = FakeEnforcer()

    def die() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        apply(STEPS, enforcers(fake), WRITER, die)
