"""What a control plane answers over HTTP, read without trust: bounded texts of known form, or a CourierError."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from agent.courier.state import IDENT_MAX
from agent.courier.transport import Acked, Renewed
from agent.courier.wire import Answer
from agent.errors import CourierError
from agent.model.text import one_line

STREAM_MAX = 128
PEM_MAX = 64 * 1024
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_STREAM = re.compile(r"[!-~]{0,128}")
_DENIED = frozenset({401, 403})
_BUSY = frozenset({408, 425, 429})


def checked(answer: Answer, *also: int) -> dict[str, object]:
    """The JSON object of a good answer (200, or one of ``also``).

    Raises:
        CourierError: ``courier_denied`` (401, 403), ``courier_busy`` (429, 5xx), ``courier_refused`` (any other 4xx that has a
            ``code``, and 413), ``courier_protocol``. What is refused is dropped, and a proxy that knows no such path, or misses a
            client certificate, answers 404 or 400 as well: that says nothing about what was sent.
    """
    if answer.status == 200 or answer.status in also:
        return parsed(answer.body)
    words = said(answer)
    if answer.status in _DENIED:
        raise CourierError("courier_denied", f"the control plane does not let this host in: {words}")
    if answer.status in _BUSY or answer.status >= 500:
        raise CourierError("courier_busy", f"the control plane can't now: {words}")
    if 400 <= answer.status < 500 and (problem_code(answer) or answer.status == 413):
        raise CourierError("courier_refused", words)
    raise CourierError(
        "courier_protocol", f"an answer of status {answer.status} that is not the control plane's: look at URL and proxies"
    )


def parsed(body: bytes) -> dict[str, object]:
    """One JSON object. Raises CourierError ``courier_protocol``."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CourierError("courier_protocol", "the answer is no JSON") from error
    if not isinstance(found, dict):
        wrong("the answer is no JSON object")
    return found


def problem_code(answer: Answer) -> str:
    """The ``code`` of a problem+json (RFC 9457), empty where it has none."""
    try:
        code = json.loads(answer.body).get("code")
    except (ValueError, RecursionError, AttributeError):
        return ""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else ""


def said(answer: Answer) -> str:
    """What an answer that is no good one says, in one line for a person."""
    try:
        detail = json.loads(answer.body).get("detail")
    except (ValueError, RecursionError, AttributeError):
        detail = ""
    shown = one_line(detail, 200) if isinstance(detail, str) else ""
    return " ".join(part for part in (f"status {answer.status}", problem_code(answer), shown) if part)


def wrong(what: str) -> NoReturn:
    """Raises CourierError ``courier_protocol``."""
    raise CourierError("courier_protocol", what)


def text(found: Mapping[str, object], name: str, most: int) -> str:
    """A member that is a text. Raises CourierError ``courier_protocol``."""
    value = found.get(name)
    if not isinstance(value, str) or len(value) > most:
        wrong(f"member {name!r} must be a text of at most {most} characters")
    return value


def number(found: Mapping[str, object], name: str) -> int:
    """A member that is a number from 0 to 2^63 - 1. Raises CourierError ``courier_protocol``."""
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= IDENT_MAX:
        wrong(f"member {name!r} must be a number from 0 to 2^63 - 1")
    return value


def stream_name(value: str) -> str:
    """An epoch. Raises CourierError ``courier_protocol``."""
    if not _STREAM.fullmatch(value):
        wrong("the stream's name must be at most 128 printable characters")
    return value


def ident(value: bytes | None) -> int:
    """A token's number. Raises CourierError ``courier_protocol``."""
    if value is None or not re.fullmatch(rb"[0-9]{1,19}", value) or int(value) > IDENT_MAX:
        wrong("a token without a number")
    return int(value)


def acked(found: Mapping[str, object], sent: frozenset[str]) -> Acked:
    """What became of the keys that were sent; words about others mean nothing. Raises CourierError ``courier_protocol``."""
    taken, refused = found.get("acked", []), found.get("refused", [])
    if not isinstance(taken, list) or not isinstance(refused, list):
        wrong("members 'acked' and 'refused' must be lists")
    good = frozenset(key for key in taken if isinstance(key, str)) & sent
    bad: dict[str, str] = {}
    for item in refused:
        key, code = (item.get("key"), item.get("code")) if isinstance(item, dict) else (None, None)
        if isinstance(key, str) and key in sent and key not in good:
            bad[key] = code if isinstance(code, str) and _CODE.fullmatch(code) else "unknown"
    return Acked(good, bad)


def renewed(found: Mapping[str, object]) -> Renewed:
    """A new certificate. Raises CourierError ``courier_protocol``."""
    return Renewed(text(found, "certificate", PEM_MAX), text(found, "ca", PEM_MAX), seconds(text(found, "expires", 40)))


def seconds(value: str) -> int:
    """An RFC 3339 time as seconds since the epoch. Raises CourierError ``courier_protocol``."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        wrong("a time that is none of RFC 3339")
    if moment.tzinfo is None:
        wrong("a time without its zone")
    return int(moment.timestamp())
