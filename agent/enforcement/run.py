"""Opening stops at the first failure; closing never stops. Every step is idempotent both ways, so both may run again."""

from collections.abc import Callable, Mapping, Sequence

from agent.errors import HostError, TidegateError
from agent.host.contract import Reader, Writer
from agent.model import Enforcer, Phase, Step


def apply(
    steps: Sequence[Step], enforcers: Mapping[str, Enforcer], writer: Writer, on_done: Callable[[Step], None] = lambda _: None
) -> None:
    """Apply in the given order; ``on_done`` hears of each step that is in place.

    Raises:
        HostError: the first step that failed; the ones before it are in place, and this one may be half.
    """
    for step in steps:
        try:
            _of(step, enforcers).apply(step, writer)
        except TidegateError:
            raise
        except Exception as error:  # a bug in one enforcer must reach the caller as what it undoes, never end its thread
            raise HostError("step_crashed", f"{step.summary}: {type(error).__name__}: {error}") from error
        on_done(step)


def ahead(steps: Sequence[Step], enforcers: Mapping[str, Enforcer], reader: Reader) -> None:
    """Have each enforcer with a method ``ahead(step, reader)`` ask now what its ``apply`` will ask a program of the host's.

    It changes nothing and never raises: what could not be asked, or was refused, is asked again, and told, when its turn comes.
    """
    for step in steps:
        ask: Callable[[Step, Reader], None] | None = getattr(enforcers.get(step.enforcer), "ahead", None)
        if ask is not None:
            ask(step, reader)


def revert(
    steps: Sequence[Step],
    enforcers: Mapping[str, Enforcer],
    phase: Phase,
    writer: Writer,
    on_done: Callable[[Step], None] = lambda _: None,
) -> list[tuple[Step, TidegateError]]:
    """Undo the steps of one phase, last first, past every failure.

    Returns:
        The steps whose undo failed, with why; they stay open, to be tried again. An error no enforcer foresaw counts too:
        whatever is wrong with one step, the others are still undone.
    """
    failed: list[tuple[Step, TidegateError]] = []
    for step in reversed(steps):
        if step.phase is not phase:
            continue
        try:
            _of(step, enforcers).revert(step, writer)
        except TidegateError as error:
            failed.append((step, error))
        except Exception as error:  # fail closed on opening, never on closing
            failed.append((step, HostError("undo_crashed", f"{type(error).__name__}: {error}")))
        else:
            on_done(step)
    return failed


def _of(step: Step, enforcers: Mapping[str, Enforcer]) -> Enforcer:
    """The step's enforcer. Raises HostError ``no_enforcer``."""
    enforcer = enforcers.get(step.enforcer)
    if enforcer is None:
        raise HostError("no_enforcer", f"no enforcer {step.enforcer!r} for {step.target}")
    return enforcer
