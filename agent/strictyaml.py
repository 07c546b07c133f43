"""The admin's YAML files, read strictly: what is ambiguous, twice or clever is an error with its file, line and key.

Built from PyYAML's events, not its loader, because the loader keeps the last of two equal keys, builds objects from tags,
expands aliases without bound and reads plain words by YAML 1.1 (``no`` is false, ``0777`` is 511, ``12:30`` is 750, a date is
an object). Here plain words follow the core schema of YAML 1.2.2 (section 10.3) and nothing else: ``true``, ``false``,
``null`` and integers; every other word is the text it looks like. Numbers that 1.1 and 1.2 read differently are refused.
Nothing that ends the reading costs more than the file's own size, which is bounded first.
"""

import errno
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

import yaml

from agent.errors import ConfigError, TidegateError

T = TypeVar("T")
Rule: TypeAlias = Callable[[object, str], T]

FILE_MAX = 256 * 1024  # bytes
DEPTH_MAX = 16
NODES_MAX = 20_000
KEY_MAX = 128

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
_DIGITS = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# Line breaks of YAML 1.1 that 1.2 dropped, and the controls that reorder what an admin reads (CVE-2021-42574).
_DECEIVING = re.compile("[\x85\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_CONTROLS_ALLOWED = "\n\t"


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a file. ``line`` (from 1) is that of its key, or of the value itself in a list; ``key`` is its full name."""

    value: "bool | int | str | tuple[Node, ...] | Mapping[str, Node] | None"
    path: Path
    line: int
    key: str

    def error(self, code: str, reason: str) -> ConfigError:
        """A ConfigError that points here."""
        return ConfigError(code, reason, path=self.path, line=self.line, key=self.key or None)

    def plain(self) -> object:
        """The value as dict, list, str, int, bool and None."""
        if isinstance(self.value, tuple):
            return [item.plain() for item in self.value]
        if isinstance(self.value, Mapping):
            return {key: item.plain() for key, item in self.value.items()}
        return self.value

    def children(self) -> Iterator["Node"]:
        """The members of a list or mapping; none for a scalar."""
        if isinstance(self.value, tuple):
            yield from self.value
        elif isinstance(self.value, Mapping):
            yield from self.value.values()

    def locate(self, key: str | None) -> "Node":
        """The deepest node on the way to the full name ``key``; this one when it lies elsewhere."""
        for child in self.children():
            if key is not None and (key == child.key or key.startswith((f"{child.key}.", f"{child.key}["))):
                return child.locate(key)
        return self

    def read(self, rule: Rule[T]) -> T:
        """The plain value through a field rule.

        Raises:
            ConfigError: with the code of whatever TidegateError the rule raised, at the line of the field it named.
        """
        try:
            return rule(self.plain(), self.key)
        except ConfigError:
            raise
        except TidegateError as error:
            found = self.locate(error.field)
            raise ConfigError(error.code, error.reason, path=self.path, line=found.line, key=error.field or self.key) from error


def read_yaml(path: Path) -> Node:
    """The one mapping of a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: ``file_missing``, ``file_unreadable``, ``file_unsafe``, ``file_too_large`` and all of :func:`parse_yaml`.
    """
    return parse_yaml(_read_bytes(path), path)


def parse_yaml(data: bytes, path: Path) -> Node:
    """The same for bytes already read; ``path`` is for the errors.

    Raises:
        ConfigError: ``file_too_large``, ``yaml_encoding``, ``yaml_characters``, ``yaml_syntax``, ``yaml_directive``,
            ``yaml_documents``, ``yaml_alias``, ``yaml_tag``, ``yaml_key``, ``yaml_duplicate_key``, ``yaml_float``,
            ``yaml_ambiguous_number``, ``yaml_too_deep``, ``yaml_too_many``, ``not_a_mapping``.
    """
    if len(data) > FILE_MAX:
        raise ConfigError("file_too_large", f"longer than {FILE_MAX // 1024} KiB", path=path)
    text = _decoded(data, path)
    builder = _Builder(text, path)
    try:
        return builder.document()
    except yaml.YAMLError as error:
        raise _syntax(error, path) from error
    except (ValueError, OverflowError) as error:  # PyYAML's chr() and int() of escapes and directives out of range
        raise ConfigError("yaml_syntax", "an escape or number is out of range", path=path) from error
    finally:
        builder.loader.dispose()


def _read_bytes(path: Path) -> bytes:
    try:
        # Not blocking, so that a fifo can't hold the daemon; not following, so that what is checked is what is read.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise ConfigError("file_missing", "no such file", path=path) from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:
            raise ConfigError("file_unsafe", "must be a regular file, not a symlink or a device", path=path) from error
        raise ConfigError("file_unreadable", error.strerror or "can't be opened", path=path) from error
    try:
        _check_safe(os.fstat(descriptor), path)
        return b"".join(_chunks(descriptor))
    except OSError as error:
        raise ConfigError("file_unreadable", error.strerror or "can't be read", path=path) from error
    finally:
        os.close(descriptor)


def _check_safe(about: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise ConfigError("file_unsafe", "must be a regular file", path=path)
    if about.st_uid not in {0, os.geteuid()}:
        raise ConfigError("file_unsafe", f"is owned by uid {about.st_uid}; must be root's", path=path)
    if about.st_mode & 0o022:
        raise ConfigError("file_unsafe", f"mode {about.st_mode & 0o7777:04o} lets others write it", path=path)


def _chunks(descriptor: int) -> Iterator[bytes]:
    """At most one byte more than is allowed, so that a file that grows meanwhile costs no more."""
    left = FILE_MAX + 1
    while left > 0 and (chunk := os.read(descriptor, left)):
        left -= len(chunk)
        yield chunk


def _decoded(data: bytes, path: Path) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("yaml_encoding", "is not UTF-8", path=path, line=line) from error
    if found := _DECEIVING.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError("yaml_characters", f"character U+{ord(found[0]):04X} is not allowed", path=path, line=line)
    return text


def _syntax(error: yaml.YAMLError, path: Path) -> ConfigError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        reason = " ".join(f"{error.problem or error.context or 'not YAML'}".split())
        return ConfigError("yaml_syntax", reason[:200], path=path, line=mark.line + 1 if mark else None)
    return ConfigError("yaml_syntax", "a character that YAML does not allow", path=path)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Builder:
    """Events of one file → nodes. Depth and count are checked before anything is built."""

    def __init__(self, text: str, path: Path) -> None:
        try:
            self.loader: Any = yaml.SafeLoader(text)
        except yaml.YAMLError as error:
            raise _syntax(error, path) from error
        self.path = path
        self.count = 0

    def document(self) -> Node:
        """The whole file: at most one document, which is a mapping."""
        empty = Node({}, self.path, 1, "")
        self.loader.get_event()
        if self.loader.check_event(yaml.StreamEndEvent):
            return empty
        start = self.loader.get_event()
        if getattr(start, "version", None) not in {None, (1, 2)} or getattr(start, "tags", None):
            self._refuse(start, "", "yaml_directive", "directives other than %YAML 1.2 are not allowed")
        root = self._node(self.loader.get_event(), "", 1, None)
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            self._refuse(self.loader.peek_event(), "", "yaml_documents", "only one document in a file")
        if root.value is None:
            return empty
        if not isinstance(root.value, Mapping):
            raise root.error("not_a_mapping", "the file must be a mapping of settings")
        return root

    def _refuse(self, event: yaml.Event, key: str, code: str, reason: str) -> NoReturn:
        raise ConfigError(code, reason, path=self.path, line=_line(event), key=key or None)

    def _node(self, event: yaml.Event, key: str, depth: int, line: int | None) -> Node:
        self.count += 1
        if self.count > NODES_MAX:
            self._refuse(event, key, "yaml_too_many", f"more than {NODES_MAX} values")
        if depth > DEPTH_MAX:
            self._refuse(event, key, "yaml_too_deep", f"nested deeper than {DEPTH_MAX}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self._refuse(event, key, "yaml_alias", "anchors and aliases are not allowed; write the value out")
        if getattr(event, "tag", None) is not None:
            self._refuse(event, key, "yaml_tag", "tags are not allowed")
        at = line if line is not None else _line(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._sequence(key, depth), self.path, at, key)
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self._mapping(key, depth), self.path, at, key)
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, key, "yaml_syntax", "a value is missing")
        return Node(self._scalar(event, key), self.path, at, key)

    def _sequence(self, key: str, depth: int) -> tuple[Node, ...]:
        items: list[Node] = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self._node(self.loader.get_event(), f"{key}[{len(items)}]", depth + 1, None))
        self.loader.get_event()
        return tuple(items)

    def _mapping(self, key: str, depth: int) -> Mapping[str, Node]:
        members: dict[str, Node] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            event = self.loader.get_event()
            name = self._name(event, key)
            full = f"{key}.{name}" if key else name
            line = _line(event)
            if name in members:
                self._refuse(event, full, "yaml_duplicate_key", f"stands already at line {members[name].line}")
            members[name] = self._node(self.loader.get_event(), full, depth + 1, line)
        self.loader.get_event()
        return members

    def _name(self, event: yaml.Event, key: str) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse(event, key, "yaml_alias" if isinstance(event, yaml.AliasEvent) else "yaml_key", "a key must be plain text")
        name = self._node(event, key, 1, None).value
        if not isinstance(name, str) or not 1 <= len(name) <= KEY_MAX or "\n" in name:
            self._refuse(event, key, "yaml_key", f"a key must be text of 1 to {KEY_MAX} characters; quote what YAML takes for more")
        return name

    def _scalar(self, event: yaml.ScalarEvent, key: str) -> bool | int | str | None:
        text: str = event.value
        for character in text:
            if unicodedata.category(character) in {"Cc", "Cs"} and character not in _CONTROLS_ALLOWED:
                self._refuse(event, key, "yaml_characters", f"character U+{ord(character):04X} is not allowed")
        if event.style is not None:
            return text
        if text in _NULLS:
            return None
        if text in _TRUTHS:
            return _TRUTHS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DIGITS.fullmatch(text):
            reason = "leading zeros, 0o, 0x and over 18 digits mean different things to YAML's versions; write it plainly or quote"
            self._refuse(event, key, "yaml_ambiguous_number", reason)
        if _FLOAT.fullmatch(text):
            self._refuse(event, key, "yaml_float", "no setting takes a fraction; quote it if it is meant as text")
        return text
