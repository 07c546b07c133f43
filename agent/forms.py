"""The form that a file of the admin's is written in: its number, and what was called otherwise in an earlier one.

A file says its form by ``version: N``; one that says none is of the first, with whatever it has of later names. Each kind counts
for itself. An older form is read as well as today's, for good; a newer one is refused, since what is not known may narrow.

One table, read in two ways that know nothing of each other: here on what was parsed, by :mod:`agent.rewriting` on the text. So
each proves the other before a file is replaced. A name that was given up is never given another meaning.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from agent.errors import ConfigError
from agent.strictyaml import Node

KEY = "version"
ANY = "*"  # each entry of a list, or each member of a mapping with free keys


@dataclass(frozen=True, slots=True)
class Rename:
    """A key that was renamed: where it stood, such as ``("rules", "*", "recording", "limit")``, and its name since."""

    where: tuple[str, ...]
    name: str


Step: TypeAlias = tuple[Rename, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """One kind of file. ``steps[0]`` leads from version 1 to 2, the next from 2 to 3."""

    kind: str
    steps: tuple[Step, ...] = ()

    @property
    def version(self) -> int:
        """Today's."""
        return len(self.steps) + 1


CONFIGURATION = Form("configuration")
# 2: the only size in a policy said no unit, and was the only ceiling whose name did not begin with max.
POLICY = Form("policy", ((Rename(("rules", ANY, "recording", "limit"), "max_bytes"),),))
COURIER = Form("courier")


def version_of(root: Node, form: Form) -> int | None:
    """What the file says of itself; None where it says nothing.

    Raises:
        ConfigError: ``version_invalid``, ``version_newer``.
    """
    said = root.value.get(KEY) if isinstance(root.value, Mapping) else None
    if said is None:
        return None
    if not isinstance(said.value, int) or isinstance(said.value, bool) or said.value < 1:
        raise said.error("version_invalid", f"must be a whole number from 1 to {form.version}")
    if said.value > form.version:
        reason = f"is of version {said.value}, and this Tidegate knows {form.kind} files up to version {form.version}"
        raise said.error("version_newer", reason)
    return said.value


def current(root: Node, form: Form) -> Node:
    """The file as if it had been written in today's form, without its ``version``. Lines and keys stay those of the file.

    Raises:
        ConfigError: ``version_invalid``, ``version_newer``; ``setting_renamed``: an earlier name in a file of a later version;
            ``setting_in_two_forms``.
    """
    version = version_of(root, form) or 1
    for number, step in enumerate(form.steps, 1):
        for rename in step:
            if number < version:
                _refuse_old(_found(root, rename.where), rename.name, number + 1)
            else:
                root = _renamed(root, rename.where, rename.name)
    if isinstance(root.value, Mapping) and KEY in root.value:
        root = replace(root, value={name: node for name, node in root.value.items() if name != KEY})
    return root


def _refuse_old(nodes: Iterable[Node], name: str, since: int) -> None:
    for node in nodes:
        raise node.error("setting_renamed", f"is called {name!r} since version {since}, which this file says it is of")


def _found(node: Node, where: Sequence[str]) -> list[Node]:
    """The members at that place."""
    if not where:
        return [node]
    if where[0] == ANY:
        children = list(node.children())
    else:
        member = node.value.get(where[0]) if isinstance(node.value, Mapping) else None
        children = [] if member is None else [member]
    return [found for child in children for found in _found(child, where[1:])]


def _renamed(node: Node, where: Sequence[str], name: str) -> Node:
    head, rest = where[0], where[1:]
    if isinstance(node.value, tuple) and head == ANY:
        return replace(node, value=tuple(_renamed(item, rest, name) for item in node.value))
    if not isinstance(node.value, Mapping):
        return node
    if rest:
        changed = {key: _renamed(member, rest, name) if head in {ANY, key} else member for key, member in node.value.items()}
        return replace(node, value=changed)
    if head in node.value and name in node.value:
        old, new = node.value[head], node.value[name]
        raise _both(old, new, name)
    return replace(node, value={name if key == head else key: member for key, member in node.value.items()})


def _both(old: Node, new: Node, name: str) -> ConfigError:
    return old.error("setting_in_two_forms", f"is the earlier name of {name!r}, which stands at line {new.line}; leave one of them")
