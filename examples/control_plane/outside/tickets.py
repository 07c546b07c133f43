"""Is there such a ticket, and is it for this? Asked before a request is taken and again at each approval; no answer is a no."""

from collections.abc import Sequence

from agent.model.text import one_line
from examples.control_plane.api.problems import Problem
from examples.control_plane.outside.posting import OutsideError, post
from examples.control_plane.plane import Plane


async def check(plane: Plane, ticket: str, subject: str, template: str, hosts: Sequence[str]) -> None:
    """Nothing to do where no webhook is configured, or no ticket is named (whether one is needed, the rule says).

    The webhook gets ``{"ticket", "subject", "template", "hosts"}`` and answers ``{"ok": true}``, or false with a ``reason``.

    Raises:
        Problem: ``ticket_refused``, ``ticket_unchecked``.
    """
    hook = plane.settings.outside.tickets
    if hook is None or not ticket:
        return
    try:
        answer = await post(hook, {"ticket": ticket, "subject": subject, "template": template, "hosts": list(hosts)})
    except OutsideError as caught:
        raise Problem("ticket_unchecked", "the ticket can't be checked now: try again, or see the log", field="ticket") from caught
    if answer.get("ok") is not True:
        why = one_line(str(answer.get("reason") or "it is not open, or not for this"), 200)
        raise Problem("ticket_refused", f"ticket {ticket}: {why}", field="ticket")
