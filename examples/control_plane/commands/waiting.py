"""A request from the moment it is asked until its hosts have opened, with words for the person who waits."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from agent.errors import RefusedError, TidegateError
from agent.model.text import counted
from examples.control_plane.commands.client import Api, Json, objects, shown, text, unreachable
from examples.control_plane.people.errors import ProviderError

POLL_S = 50  # one long poll; the server lets it be 60
HOST_WAIT_S = 60.0  # for a host that is not there: its grant waits for it longer than a person does
_AGAIN_S = (1.0, 2.0, 5.0, 10.0)


@dataclass(slots=True)
class Waiting:
    """Follows one request. ``tell`` gets each new line of progress once."""

    api: Api
    tell: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _told: str = ""

    def opened(self, request: Json) -> Json:
        """The request once it is open.

        Raises:
            RefusedError: ``request_denied``, ``request_withdrawn``, ``request_lapsed``, ``request_revoked``, ``request_ended``.
        """
        while (state := text(request, "state")) == "waiting":
            self._say(progress(request))
            request = self._next(request, POLL_S)
        if state != "open":
            why = request.get("why") or _denial(request)
            raise RefusedError(f"request_{state}", f"the request is {state}{f': {shown(why)}' if why else ''}")
        return request

    def accepted(self, request: Json) -> Json:
        """The request once every host has taken its grant.

        Raises:
            RefusedError: ``grant_refused``: a host's own policy does not allow it.
            ProviderError: ``host_silent``: a host has said nothing for a minute.
        """
        ends = self.clock() + HOST_WAIT_S
        while sent := [grant for grant in objects(request, "grants") if grant.get("state") == "sent"]:
            left = ends - self.clock()
            if left <= 0:
                names = ", ".join(shown(grant.get("host_name")) for grant in sent)
                raise ProviderError(
                    "host_silent", f"{names} has not answered yet: the grant waits for it; try again later with --resume"
                )
            self._say(f"approved; waiting for {', '.join(shown(grant.get('host_name')) for grant in sent)}")
            request = self._next(request, max(1, min(POLL_S, int(left))))
        for grant in objects(request, "grants"):
            if grant.get("state") != "accepted":
                why = shown(grant.get("reason") or grant.get("cause") or grant.get("state"))
                name, code = shown(grant.get("host_name")), shown(grant.get("code"))
                raise RefusedError("grant_refused", f"{name} does not open: {why} ({code})")
        return request

    def _next(self, request: Json, wait_s: int) -> Json:
        """The request after its next change, or as it is when the time is over. The network may fail for a while."""
        ident, version = text(request, "id"), request.get("version")
        for pause in (*_AGAIN_S, None):
            try:
                return self.api.get(f"/v1/requests/{ident}", wait_s, wait=wait_s, version=version)
            except TidegateError as error:
                if pause is None or not unreachable(error):
                    raise
                self._say(f"{error.reason}; trying again")
                self.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _say(self, words: str) -> None:
        if words != self._told:
            self._told = words
            self.tell(words)


def progress(request: Json) -> str:
    """What a waiting request waits for."""
    needed = request.get("approvals_needed")
    missing = needed if isinstance(needed, int) else 0
    have = sum(approval.get("verdict") == "approved" for approval in objects(request, "approvals"))
    roles = shown(request.get("approver_roles"))
    words = f"{text(request, 'id')} waits for {counted(max(0, missing - have), 'approval')} ({roles})"
    return f"{words}; it lapses at {shown(request.get('lapses_at'))}"


def seconds_left(request: Json, now: float) -> int:
    """Until the request's grants end."""
    ends = request.get("ends_at")
    try:
        return max(0, int(datetime.fromisoformat(str(ends)).timestamp() - now))
    except ValueError as error:
        raise ProviderError("answer_shape", "the control plane does not say when the access ends") from error


def _denial(request: Json) -> str:
    denied = [approval for approval in objects(request, "approvals") if approval.get("verdict") == "denied"]
    return f"{shown(denied[-1].get('by'))} says: {shown(denied[-1].get('comment'))}" if denied else ""
