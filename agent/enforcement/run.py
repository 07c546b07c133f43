"""Steps forward stop at the first failure; steps back go past every failure, because a door left open is worse than a log line."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from agent.errors import HostError, TidegateError
from agent.host.contract import Writer
from agent.model import Enforcer, Phase, Step

Enforcers: TypeAlias = Mapping[str, Enforcer]


def apply(steps: Sequence[Step], enforcers: Enforcers, writer: Writer, go_on: Callable[[], None]) -> None:
    """Make the changes in order. ``go_on`` is asked before each and raises when the grant has ended meanwhile.

    Raises:
        HostError: a step failed; what was done so far is in the journal and is undone by the caller.
    """
    for step in steps:
        go_on()
        try:
            enforcers[step.enforcer].apply(step, writer)
        except OSError as error:
            raise HostError("step_failed", f"{step.summary}: {error}") from error


def revert(steps: Sequence[tuple[int, Step]], phase: Phase, enforcers: Enforcers, writer: Writer) -> list[tuple[int, str]]:
    """Undo the steps of one phase, last first; returns ``(seq, error)`` for each, the error empty when it is undone."""
    results: list[tuple[int, str]] = []
    for seq, step in reversed(steps):
        if step.phase is not phase:
            continue
        try:
            enforcers[step.enforcer].revert(step, writer)
            results.append((seq, ""))
        except Exception as error:  # one no enforcer foresaw counts too: the other steps are undone all the same
            what = str(error) if isinstance(error, TidegateError) else f"{type(error).__name__}: {error}"
            results.append((seq, f"{step.summary}: {what}"))
    return results
