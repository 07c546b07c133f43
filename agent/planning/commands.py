"""Whether somebody else than root could change what a sudo rule runs: the program, a folder above it, or a file it is given.

A command may be harmless as text and root all the same, where its file can be replaced. Pure but for a Reader that looks.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import HostError
from agent.host.contract import Node, Reader
from agent.model import SudoWant

_INTERPRETERS = 4  # an interpreter that is a script itself, and so on
_EXECUTABLE = 0o111
_GROUP_WRITES, _OTHERS_WRITE, _STICKY = 0o020, 0o002, 0o1000


@dataclass(frozen=True, slots=True)
class _Trusted:
    """Who may own, and which groups may write, what is run: everybody else could replace it."""

    uids: frozenset[int]
    gids: frozenset[int]

    def weakness(self, node: Node) -> str | None:
        if node.uid not in self.uids:
            return f"belongs to uid {node.uid}"
        if node.mode & _GROUP_WRITES and node.gid not in self.gids:
            return f"can be written by group {node.gid}"
        return "can be written by everybody" if node.mode & _OTHERS_WRITE else None


@dataclass(frozen=True, slots=True)
class _Tenant:
    """Who gets the rule: a file that is only read may be others', but not be given by the tenant."""

    uids: frozenset[int]
    gids: frozenset[int]

    def weakness(self, node: Node) -> str | None:
        if node.uid in self.uids:
            return f"belongs to uid {node.uid}, who gets the rule"
        if node.mode & _GROUP_WRITES and node.gid in self.gids:
            return f"can be written by group {node.gid}, which the account is in"
        shared = node.mode & _OTHERS_WRITE and not (node.folder and node.mode & _STICKY)
        return "can be written by everybody" if shared else None


def changeable(want: SudoWant, words: tuple[str, ...], groups: Collection[str], reader: Reader) -> str | None:
    """Why what ``words`` runs can be changed by others than root (and than the one account it is run as); None when it can't.

    Args:
        want: whose command it is: the login's files are the tenant's own, ``run_as`` says whose are trusted.
        groups: those that the grant gives the login.
        reader: looks at the files, as they are now.
    """
    users = [user for user in (reader.user(name) for name in want.run_as) if user is not None]
    alone = users[:1] if len(want.run_as) == 1 else []
    trusted = _Trusted(frozenset({0, *(user.uid for user in alone)}), frozenset({0, *(user.gid for user in alone)}))
    try:
        return _program(words[0], trusted, reader) or _arguments(words[1:], trusted, _tenant(want, groups, reader), reader)
    except HostError as error:
        return f"can't be looked at: {error.reason}"


def _program(path: str, trusted: _Trusted, reader: Reader) -> str | None:
    for _ in range(_INTERPRETERS):
        nodes = reader.chain(Path(path))
        for node in nodes:
            if why := trusted.weakness(node):
                return f"can be replaced: {node.path} {why}"
        path = nodes[-1].interpreter if nodes else ""
        if not path.startswith("/"):
            return None
    return "is a script whose interpreter is a script, and so on"


def _arguments(words: Collection[str], trusted: _Trusted, tenant: _Tenant, reader: Reader) -> str | None:
    for path in (path for word in words for path in _paths(word)):
        nodes = reader.chain(Path(path))
        runs = bool(nodes) and not nodes[-1].folder and (nodes[-1].mode & _EXECUTABLE or nodes[-1].interpreter)
        if runs and str(nodes[-1].path) and (why := _program(path, trusted, reader)):
            return f"is given {path[:64]}, a program that {why}"
        for node in nodes:
            if why := tenant.weakness(node):
                return f"is given {path[:64]}: {node.path} {why}"
    return None


def _tenant(want: SudoWant, groups: Collection[str], reader: Reader) -> _Tenant:
    user = reader.user(want.identifier)
    names = {*groups, *(reader.groups_of(want.identifier) if user else ())}
    gids = {group.gid for group in map(reader.group, names) if group is not None and group.gid != 0}
    return _Tenant(frozenset({user.uid} if user and user.uid else ()), frozenset(gids))


def _paths(word: str) -> Iterator[str]:
    """Absolute paths in an argument: all of it, after ``=``, ``:``, ``,`` or ``@``, or glued to a short option."""
    yield from (part for part in re.split(r"[=:,@]", word) if part.startswith("/"))
    if re.match(r"-[A-Za-z0-9]/", word):
        yield word[2:]
