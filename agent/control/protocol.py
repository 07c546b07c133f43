"""The wire format of the control socket, the same for both ends.

A request is ``{"op": NAME, ...arguments}``, an answer ``{"ok": true, "result": ...}`` or ``{"ok": false, "code", "reason",
"field", "refused"}``; each is one line of UTF-8 JSON.
"""

import json

from agent.errors import HostError, InvalidGrantError, RefusedError, TidegateError

REQUEST_MAX = 128 * 1024
ANSWER_MAX = 64 * 1024 * 1024
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


def encode(message: object) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=True, default=str).encode("ascii") + b"\n"


def decode_request(line: bytes) -> dict[str, object]:
    """A request as an object with a string ``op``. Raises InvalidGrantError ``request_malformed``."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidGrantError("request_malformed", "not one line of JSON") from error
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise InvalidGrantError("request_malformed", "not an object with an op")
    return message


def failure(error: TidegateError) -> dict[str, object]:
    """An error as an answer."""
    return {
        "ok": False,
        "code": error.code,
        "reason": error.reason,
        "field": error.field,
        "refused": isinstance(error, RefusedError),
    }


def raise_failure(answer: dict[str, object]) -> None:
    """The client's side of :func:`failure`."""
    kind = RefusedError if answer.get("refused") else HostError
    field = answer.get("field")
    raise kind(str(answer.get("code")), str(answer.get("reason")), field=str(field) if field else None)
