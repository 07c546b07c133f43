"""JSON as RFC 8259 plus the limits of I-JSON (RFC 7493), read so that two readers can't see two meanings.

Python's own parser takes duplicate keys (the last wins), NaN and Infinity, lone surrogates, integers of any length, and
ends in RecursionError on deep nesting. Here each of these is refused with its own code, and nesting is bounded by a
linear scan of the bytes before the parser recurses.
"""

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from agent.errors import InvalidGrantError, RefusedError

DEPTH_MAX = 16
INTEGER_DIGITS_MAX = 19  # 2^63 has 19; every bound in a token is far below

# A whole string, also one that never ends, or one bracket. Possessive, and every quote starts a match that is
# consumed, so the scan is linear in the input whatever it holds.
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Strict:
    """The parser's hooks: each refuses what the standard parser would let through."""

    def __init__(self, error: type[RefusedError], field: str | None) -> None:
        self.error = error
        self.field = field

    def pairs(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add() gives None
            raise self.error("json_duplicate_key", f"member {twice[:40]!a} stands there twice", field=self.field)
        return found

    def integer(self, digits: str) -> int:
        if len(digits.lstrip("-")) > INTEGER_DIGITS_MAX:
            raise self.error("json_integer_too_long", f"an integer has more than {INTEGER_DIGITS_MAX} digits", field=self.field)
        return int(digits)

    def float(self, number: str) -> NoReturn:
        raise self.error("json_float", f"{number[:40]} is no integer; no other number is taken", field=self.field)

    def constant(self, name: str) -> NoReturn:
        raise self.error("json_not_finite", f"{name} is no JSON (RFC 8259 §6)", field=self.field)


def parse_object(
    data: bytes, *, error: type[RefusedError] = InvalidGrantError, field: str | None = None, depth_max: int = DEPTH_MAX
) -> dict[str, object]:
    """Bytes → one JSON object of str, int, bool, None, list and dict. The caller has bounded ``len(data)``.

    ``error`` is the class to raise (whose fault a bad text is depends on where it stood), ``field`` names it there.

    Raises:
        RefusedError: as ``error``, with codes ``json_encoding`` (not UTF-8, or with a byte order mark), ``json_too_deep``,
            ``json_duplicate_key``, ``json_integer_too_long``, ``json_float``, ``json_not_finite``, ``json_syntax``,
            ``json_not_an_object``, ``json_lone_surrogate``.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        raise error("json_encoding", "starts with a byte order mark (RFC 8259 §8.1)", field=field)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as caught:
        raise error("json_encoding", f"is not UTF-8 at byte {caught.start}", field=field) from caught
    if _too_deep(data, depth_max):
        raise error("json_too_deep", f"is nested more than {depth_max} deep", field=field)
    hooks = _Strict(error, field)
    try:
        value = json.loads(
            text,
            object_pairs_hook=hooks.pairs,
            parse_int=hooks.integer,
            parse_float=hooks.float,
            parse_constant=hooks.constant,
        )
    except json.JSONDecodeError as caught:
        reason = f"is no JSON: {caught.msg} (line {caught.lineno}, column {caught.colno})"
        raise error("json_syntax", reason, field=field) from caught
    if not isinstance(value, dict):
        raise error("json_not_an_object", "must be a JSON object", field=field)
    if _ESCAPED_SURROGATE.search(data) and _has_lone_surrogate(value):
        raise error("json_lone_surrogate", "half of a surrogate pair is no character", field=field)
    return value


def canonical(value: Mapping[str, object]) -> bytes:
    """The one spelling this project signs: sorted keys, no spaces, UTF-8. Floats are refused, never rounded.

    Raises:
        InvalidGrantError: ``json_float`` or ``json_not_plain`` (not built of str, int, bool, None, list, tuple and dict).
    """
    _plain(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8")


def _too_deep(data: bytes, most: int) -> bool:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > most:
                return True
        elif first in b"]}":
            depth -= 1
    return False


def _has_lone_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _plain(value: object, depth: int = 0) -> None:
    if isinstance(value, float):
        raise InvalidGrantError("json_float", f"{value!r} is no integer; no other number is signed")
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidGrantError("json_lone_surrogate", "half of a surrogate pair is no character")
    elif isinstance(value, Mapping):
        for key, member in value.items():
            if not isinstance(key, str) or depth >= DEPTH_MAX:
                raise InvalidGrantError("json_not_plain", "only objects with string keys, to a bounded depth, are signed")
            _plain(key)
            _plain(member, depth + 1)
    elif isinstance(value, list | tuple):
        if depth >= DEPTH_MAX:
            raise InvalidGrantError("json_not_plain", "only values of a bounded depth are signed")
        for member in value:
            _plain(member, depth + 1)
    elif value is not None and not isinstance(value, int):
        raise InvalidGrantError("json_not_plain", f"a {type(value).__name__} is no JSON value")
