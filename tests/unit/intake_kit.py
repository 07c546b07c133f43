"""An intake's two threads, one after the other in this one."""

from agent.intake import Intake


def turn(intake: Intake) -> bool:
    """What each of them does when it is woken; whether anything waits."""
    more, taken = intake.take_orders(), intake.take_grants()
    return bool(more or taken or intake.sorting.unsorted or intake.sorting.grants_wait)
