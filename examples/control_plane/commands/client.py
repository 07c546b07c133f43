"""The control plane's people API, as the commands call it: errors become ours, with the server's own codes."""

import json
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.errors import RefusedError, TidegateError
from agent.model.text import one_line
from examples.control_plane.commands.profile import Server
from examples.control_plane.people.errors import ProviderError
from examples.control_plane.people.https import Answer, events, said

Json = dict[str, object]
_WAIT_MARGIN_S = 15.0
_SILENCE_S = 60.0  # a stream sends at least a comment in less
_DAY_S = 86400.0


@dataclass(slots=True)
class Api:
    """One server, one session. ``log_in`` makes a session when there is none, or the server has ended it."""

    server: Server
    bearer: str = field(repr=False)
    log_in: Callable[[], str] = field(repr=False)

    def get(self, path: str, wait_s: float = 0, **query: object) -> Json:
        """GET; members of ``query`` that are None are left out. Raises as :meth:`call`."""
        kept = {name: _word(value) for name, value in query.items() if value is not None}
        return self.call("GET", path + (f"?{urllib.parse.urlencode(kept)}" if kept else ""), wait_s=wait_s)

    def post(self, path: str, body: Mapping[str, object]) -> Json:
        """POST. Raises as :meth:`call`."""
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None, *, wait_s: float = 0) -> Json:
        """One operation of openapi.yaml; an answer without a body is an empty object.

        Raises:
            RefusedError: the server refuses, with its code.
            ProviderError: it can't be reached, or fails.
        """
        data = json.dumps(body).encode() if body is not None else None
        for again in (False, True):
            if not self.bearer:
                self.bearer = self.log_in()
            https = self.server.https(self.bearer)
            answer = https.ask(method, self.server.url + path, data, deadline_s=https.deadline_s + wait_s)
            if answer.status != 401 or again:
                break
            self.bearer = ""
        return checked(answer)

    def stream(self, path: str) -> Iterator[tuple[str, str]]:
        """Server-sent events, as long as they come. Raises as :meth:`call`."""
        self.get("/v1/me")  # so that a session is there, and is good
        https = self.server.https(self.bearer)
        return events(https.download(self.server.url + path, deadline_s=_DAY_S, silence_s=_SILENCE_S))

    def pieces(self, path: str) -> Iterator[bytes]:
        """A body of any size. Raises as :meth:`call`."""
        self.get("/v1/me")
        https = self.server.https(self.bearer)
        return https.download(self.server.url + path, deadline_s=_DAY_S, silence_s=_SILENCE_S)


def checked(answer: Answer) -> Json:
    """The object of a good answer.

    Raises:
        RefusedError, ProviderError: of any other, with its code.
    """
    if answer.status == 204 or (answer.status == 200 and not answer.body):
        return {}
    found: Json = answer.json() if answer.body else {}
    if answer.status in (200, 201):
        return found
    code = found.get("code")
    reason = said(answer.status, answer.body)
    where = found.get("field")
    kept = one_line(str(code), 64) if isinstance(code, str) else "answer_status"
    named = one_line(where, 100) if isinstance(where, str) and where else None
    if 400 <= answer.status < 500:
        raise RefusedError(kept, reason, field=named)
    raise ProviderError(kept, f"the control plane failed: {reason}")


def text(found: Mapping[str, object], name: str) -> str:
    """A member that is a text.

    Raises:
        ProviderError: ``answer_shape``.
    """
    value = found.get(name)
    if not isinstance(value, str):
        raise ProviderError("answer_shape", f"the control plane's answer has no {name}")
    return value


def objects(found: Mapping[str, object], name: str) -> list[Json]:
    """A member that is a list of objects. Raises ProviderError ``answer_shape``."""
    value = found.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ProviderError("answer_shape", f"the control plane's answer has no {name}")
    return value


def shown(value: object) -> str:
    """Whatever the server said, as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{one_line(str(key))}={shown(item)}" for key, item in value.items()) or "-"
    return one_line(str(value)) or "-"


def unreachable(error: TidegateError) -> bool:
    """Whether trying again may help."""
    return isinstance(error, ProviderError) and error.code in {"server_unreachable", "server_too_slow", "busy"}


def _word(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
