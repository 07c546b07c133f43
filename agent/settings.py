"""A typed reader over one mapping of a YAML file; every refusal names file, line and full key.

Values go through field rules ``rule(value, key) -> typed``, the same shape as those of :mod:`agent.model.fields`, so one rule
serves grants and the admin's files; a rule's refusal becomes a ConfigError at the right line.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from agent.errors import ConfigError, RefusedError
from agent.strictyaml import Node, Rule

T = TypeVar("T")

LIST_MAX = 256
FILES_MAX = 256
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Section:
    """One mapping, read member by member; a key that is unknown or missing refuses it at once.

    Raises:
        ConfigError: codes ``not_a_mapping``, ``unknown_key``, ``missing_key``, and the rules' own.
    """

    def __init__(self, node: Node, *, required: Collection[str] = (), optional: Collection[str] = ()) -> None:
        if not isinstance(node.value, Mapping):
            raise node.error("not_a_mapping", "must be a mapping of settings")
        known = [*required, *optional]
        for key, member in node.value.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
                raise member.error("unknown_key", f"unknown setting{hint}")
        for key in required:
            if key not in node.value:
                raise node.error("missing_key", f"setting {key!r} is missing")
        self._members: Mapping[str, Node] = node.value
        self.node = node

    def member(self, key: str) -> Node | None:
        """The node of a member, None when absent."""
        return self._members.get(key)

    def one(self, key: str, rule: Rule[T]) -> T:
        """A required member through its rule."""
        return self._members[key].read(rule)

    def optional(self, key: str, rule: Rule[T], default: T) -> T:
        """A member that may be absent; an explicit null is no value of it."""
        found = self._members.get(key)
        return found.read(rule) if found is not None else default

    def many(self, key: str, rule: Rule[T], *, default: tuple[T, ...] = (), least: int = 1) -> tuple[T, ...]:
        """A list of distinct members, ``default`` when absent.

        Raises:
            ConfigError: ``not_a_list``, ``list_length`` (``least`` to 256), ``duplicate_entry``.
        """
        found = self._members.get(key)
        if found is None:
            return default
        items: dict[T, Node] = {}
        for node in elements(found, least=least):
            value = node.read(rule)
            if value in items:
                raise node.error("duplicate_entry", f"stands already at line {items[value].line}")
            items[value] = node
        return tuple(items)


def elements(node: Node, *, least: int = 1) -> tuple[Node, ...]:
    """The nodes of a list. Raises ConfigError ``not_a_list``, ``list_length``."""
    if not isinstance(node.value, tuple):
        raise node.error("not_a_list", "must be a list")
    if not least <= len(node.value) <= LIST_MAX:
        raise node.error("list_length", f"must have {least} to {LIST_MAX} entries, has {len(node.value)}")
    return node.value


def members(node: Node) -> Iterable[tuple[str, Node]]:
    """Names and nodes of a mapping with free keys. Raises ConfigError ``not_a_mapping``."""
    if not isinstance(node.value, Mapping):
        raise node.error("not_a_mapping", "must be a mapping")
    return node.value.items()


def duration(value: object, field: str) -> int:
    """``90s``, ``15m``, ``8h`` or ``30d`` → seconds; a bare number says no unit and is refused. Code ``duration_invalid``."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise RefusedError("duration_invalid", "must be a whole number and its unit: 90s, 15m, 8h or 30d", field=field)
    return int(found[1]) * _SECONDS[found[2]]


def yaml_files(folder: Path) -> Iterator[Path]:
    """The ``*.yaml`` files of a folder by name, hidden ones left out; a folder that is absent has none.

    Raises:
        ConfigError: ``file_unreadable`` when the folder can't be listed, ``too_many_files`` over 256.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError("file_unreadable", error.strerror or "can't be listed", path=folder) from error
    chosen = [name for name in names if name.endswith(".yaml") and not name.startswith(".")]
    if len(chosen) > FILES_MAX:
        raise ConfigError("too_many_files", f"more than {FILES_MAX} files", path=folder)
    yield from (folder / name for name in chosen)
