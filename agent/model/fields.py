"""The shapes of single fields in a grant, and a reader that names the field in every refusal.

Used by the grant's own claims (agent.trust.decode), by the enforcers' ``decode`` and by roles in a policy, so that one
rule holds everywhere. Patterns are those of the contract in docs/PROTOCOL.md; ``re.fullmatch`` throughout, because ``$``
matches before a trailing newline.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from agent.errors import InvalidGrantError
from agent.model.text import unseen

T = TypeVar("T")

TEXT_MAX = 500
LIST_MAX = 64
LOGIN = re.compile(r"[a-z][a-z0-9-]{0,30}")
GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
JTI = re.compile(r"[A-Za-z0-9._-]{1,128}")
PRINCIPAL = re.compile(r"[A-Za-z0-9._@+-]{1,128}")
ROLE = re.compile(r"[a-z][a-z0-9-]{0,62}")
ABSOLUTE_PATH = re.compile(r"(?:/[A-Za-z0-9._+-]+)+")
PATH_MAX = 255
PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")


class FieldReader:
    """One JSON object of a grant, read member by member. Unknown members refuse it at once.

    Raises:
        InvalidGrantError: codes ``not_an_object``, ``unknown_member``, ``missing_member``, and the field rules' own.
    """

    def __init__(self, value: object, field: str, *, required: Collection[str], optional: Collection[str] = ()) -> None:
        if not isinstance(value, Mapping):
            raise InvalidGrantError("not_an_object", "must be an object", field=field)
        for key in value:
            if key not in required and key not in optional:
                raise InvalidGrantError("unknown_member", f"unknown member {str(key)[:40]!r}", field=field)
        for key in required:
            if key not in value:
                raise InvalidGrantError("missing_member", f"member {key!r} is missing", field=field)
        self._value: Mapping[str, object] = value
        self._field = field

    def path(self, key: str) -> str:
        """The full field name of a member, for errors."""
        return f"{self._field}.{key}" if self._field else key

    def has(self, key: str) -> bool:
        """Whether the member is there."""
        return key in self._value

    def raw(self, key: str) -> object:
        """The member as parsed, None when absent."""
        return self._value.get(key)

    def one(self, key: str, rule: Callable[[object, str], T]) -> T:
        """A member that must be there, checked by ``rule(value, field)``."""
        return rule(self._value[key], self.path(key))

    def optional(self, key: str, rule: Callable[[object, str], T], default: T) -> T:
        """The same for one that may be absent; an explicit null is no value of it."""
        return rule(self._value[key], self.path(key)) if key in self._value else default

    def many(self, key: str, rule: Callable[[object, str], T], *, least: int = 1, most: int = LIST_MAX) -> tuple[T, ...]:
        """A list of ``least`` to ``most`` distinct members; an absent one is empty when ``least`` is 0."""
        field = self.path(key)
        if key not in self._value and least == 0:
            return ()
        value = self._value.get(key)
        if not isinstance(value, list):
            raise InvalidGrantError("not_a_list", "must be a list", field=field)
        if not least <= len(value) <= most:
            raise InvalidGrantError("list_length", f"must have {least} to {most} entries, has {len(value)}", field=field)
        items = tuple(rule(item, f"{field}[{index}]") for index, item in enumerate(value))
        if len(set(items)) != len(items):
            raise InvalidGrantError("duplicate_entry", "an entry stands there twice", field=field)
        return items


def string(value: object, field: str) -> str:
    """A JSON string. Code ``not_a_string``."""
    if not isinstance(value, str):
        raise InvalidGrantError("not_a_string", "must be a string", field=field)
    return value


def text(value: object, field: str) -> str:
    """Printable text of 1 to 500 characters; no control or bidirectional ones. Codes ``text_length``, ``text_unprintable``."""
    found = string(value, field)
    if not 1 <= len(found) <= TEXT_MAX:
        raise InvalidGrantError("text_length", f"must have 1 to {TEXT_MAX} characters", field=field)
    for character in found:
        if unseen(character):
            raise InvalidGrantError("text_unprintable", f"character U+{ord(character):04X} is not printable text", field=field)
    return found


def full_name(value: object, field: str) -> str:
    """Text that fits a GECOS field: no ``:`` (the row's separator) and no ``,`` (the subfields'). Code ``full_name_invalid``."""
    found = text(value, field)
    if ":" in found or "," in found:
        raise InvalidGrantError("full_name_invalid", "must not have ':' or ','", field=field)
    return found


def matching(pattern: re.Pattern[str], code: str, what: str) -> Callable[[object, str], str]:
    """A rule for strings that match ``pattern`` as a whole."""

    def rule(value: object, field: str) -> str:
        found = string(value, field)
        if not pattern.fullmatch(found):
            raise InvalidGrantError(code, f"{found[:64]!a} is no {what} ({pattern.pattern})", field=field)
        return found

    return rule


login = matching(LOGIN, "login_invalid", "login")
group_name = matching(GROUP, "group_invalid", "group name")
jti = matching(JTI, "jti_invalid", "token id")
principal = matching(PRINCIPAL, "principal_invalid", "certificate principal")
role_name = matching(ROLE, "role_invalid", "role name")


def absolute_path(value: object, field: str) -> str:
    """A normalised absolute path of plain characters: no dot segments, no doubled or trailing slash. Code ``path_invalid``."""
    found = string(value, field)
    plain = len(found) <= PATH_MAX and ABSOLUTE_PATH.fullmatch(found)
    if not plain or any(segment in {".", ".."} for segment in found.split("/")):
        raise InvalidGrantError("path_invalid", f"{found[:64]!a} is no normalised absolute path of plain characters", field=field)
    return found


def source_address(value: object, field: str) -> str:
    """A plain address or strict CIDR (no host bits set), in its canonical form. Code ``source_address_invalid``."""
    found = string(value, field)
    _, slash, length = found.partition("/")
    if slash and not PREFIX_LENGTH.fullmatch(length):  # ip_network also takes netmasks, host masks and leading zeros
        raise InvalidGrantError("source_address_invalid", f"{found[:64]!a} is no address or strict CIDR", field=field)
    try:
        network = ipaddress.ip_network(found, strict=True)
    except ValueError as error:
        raise InvalidGrantError("source_address_invalid", f"{found[:64]!a} is no address or strict CIDR", field=field) from error
    if "%" in found:
        raise InvalidGrantError("source_address_invalid", "a zone is not allowed", field=field)
    return str(network.network_address) if "/" not in found else str(network)


def choice(*allowed: str) -> Callable[[object, str], str]:
    """A rule for one of a few words. Code ``unknown_value``."""

    def rule(value: object, field: str) -> str:
        found = string(value, field)
        if found not in allowed:
            raise InvalidGrantError("unknown_value", f"{found[:40]!a} is none of {', '.join(allowed)}", field=field)
        return found

    return rule


def integer(low: int, high: int) -> Callable[[object, str], int]:
    """A rule for a JSON integer in ``low``..``high``; true and false are none. Codes ``not_an_integer``, ``out_of_range``."""

    def rule(value: object, field: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidGrantError("not_an_integer", "must be an integer", field=field)
        if not low <= value <= high:
            raise InvalidGrantError("out_of_range", f"must be {low} to {high}", field=field)
        return value

    return rule


def boolean(value: object, field: str) -> bool:
    """A JSON true or false. Code ``not_a_boolean``."""
    if not isinstance(value, bool):
        raise InvalidGrantError("not_a_boolean", "must be true or false", field=field)
    return value
