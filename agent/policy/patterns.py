"""The three small pattern languages of a policy. None is a regular expression, so none can be made to take long.

* names: exact, or ``*@example.com`` for any local part of exactly that domain;
* tickets: ``INC-#``, ``[A-Z]{2,10}-[0-9]+`` (see :class:`TicketPattern`);
* commands: exact words, no wildcard at all.
"""

import re
import shlex
import string
from dataclasses import dataclass

from agent.errors import RefusedError
from agent.model import fields

TICKET_INPUT_MAX = fields.TEXT_MAX
TICKET_PATTERN_MAX = 200
TICKET_ATOMS_MAX = 256
WORDS_MAX = 64
COMMAND_MAX = 1024

_ATOM = re.compile(r"(?P<set>\[[^\]]*\])|(?P<digits>#)|(?P<one>[A-Za-z0-9_/: -])")
_REPEAT = re.compile(r"(?P<plus>\+)|\{(?P<low>[1-9][0-9]?)(?:,(?P<high>[1-9][0-9]?))?\}")
_SET_ITEM = re.compile(r"([A-Z])-([A-Z])|([a-z])-([a-z])|([0-9])-([0-9])|([A-Za-z0-9_./: -])")
_NOT_LITERAL = frozenset("*?[]\\")  # wildcards and escape of sudoers; a backslash is refused before shlex reads it


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A subject or principal: exact, or with a ``*`` that stands for one non-empty local part."""

    text: str

    def matches(self, name: str) -> bool:
        """Whether ``name`` is meant; case counts."""
        if not self.text.startswith("*@"):
            return name == self.text
        local, at, domain = name.partition("@")
        return bool(local) and bool(at) and domain == self.text[2:]


def name_pattern(value: object, field: str) -> NamePattern:
    """Text with no wildcard, or ``*@`` and a domain. Code ``name_pattern_invalid``, and those of ``fields.text``."""
    found = fields.text(value, field)
    rest = found[2:] if found.startswith("*@") else found
    if "*" in rest or not rest or (rest != found and "@" in rest):
        raise RefusedError("name_pattern_invalid", "must be an exact name or *@domain; no other wildcard", field=field)
    return NamePattern(found)


@dataclass(frozen=True, slots=True)
class _Atom:
    """One character of ``allowed``; ``again`` lets it repeat, ``skip`` lets it be absent."""

    allowed: frozenset[str]
    again: bool = False
    skip: bool = False


@dataclass(frozen=True, slots=True)
class TicketPattern:
    """A ticket's whole form, matched by stepping through all alternatives at once: time is length times atoms, at most.

    ``A``, ``-``, ``_``, ``/``, ``:``, space stand for themselves; ``#`` is a number (``[0-9]+``); ``[A-Z0-9.]`` is one of a set;
    ``+`` after any of these is one or more, ``{3}`` and ``{2,10}`` count. Nothing else: no groups, no ``*``, no ``.``.
    """

    text: str
    atoms: tuple[_Atom, ...]

    def matches(self, ticket: str) -> bool:
        """Whether all of ``ticket`` has this form; over 500 characters none has."""
        if len(ticket) > TICKET_INPUT_MAX:
            return False
        places = self._past_skips({0})
        for character in ticket:
            stepped: set[int] = set()
            for place in places:
                if place < len(self.atoms) and character in self.atoms[place].allowed:
                    stepped.add(place + 1)
                    if self.atoms[place].again:
                        stepped.add(place)
            places = self._past_skips(stepped)
            if not places:
                return False
        return len(self.atoms) in places

    def _past_skips(self, places: set[int]) -> set[int]:
        found = set(places)
        for place in places:
            at = place
            while at < len(self.atoms) and self.atoms[at].skip:
                at += 1
                found.add(at)
        return found


def ticket_pattern(value: object, field: str) -> TicketPattern:
    """The mini-language of :class:`TicketPattern`. Code ``ticket_pattern_invalid``."""
    found = value if isinstance(value, str) else ""
    atoms: list[_Atom] = []
    at = 0
    while at < len(found) <= TICKET_PATTERN_MAX:
        atom = _ATOM.match(found, at)
        allowed = _characters(atom) if atom else None
        if atom is None or not allowed:
            reason = f"{found[at : at + 10]!a} is none of A-Z a-z 0-9 - _ / : space, # (a number), [A-Z0-9], +, {{2}}, {{2,10}}"
            raise RefusedError("ticket_pattern_invalid", reason, field=field)
        repeat = _REPEAT.match(found, atom.end())
        atoms.extend(_repeated(allowed, repeat, digits=atom["digits"] is not None, field=field))
        at = repeat.end() if repeat else atom.end()
    if not 1 <= len(atoms) <= TICKET_ATOMS_MAX or len(found) > TICKET_PATTERN_MAX:
        raise RefusedError("ticket_pattern_invalid", "must be text such as INC-# or [A-Z]+-[0-9]+, and not this long", field=field)
    return TicketPattern(found, tuple(atoms))


def _characters(atom: re.Match[str]) -> frozenset[str] | None:
    """The characters an atom stands for; None when a set is malformed."""
    if atom["set"] is None:
        return frozenset(string.digits if atom["digits"] else atom[0])
    inner = atom["set"][1:-1]
    allowed: set[str] = set()
    at = 0
    while at < len(inner):
        item = _SET_ITEM.match(inner, at)
        stray = inner[at] == "-" and 0 < at < len(inner) - 1  # of a range that is none, such as a-Z
        if item is None or stray:
            return None
        ends = [end for end in item.groups() if end]
        if ends[0] > ends[-1]:
            return None
        allowed.update(chr(code) for code in range(ord(ends[0]), ord(ends[-1]) + 1))
        at = item.end()
    return frozenset(allowed)


def _repeated(allowed: frozenset[str], repeat: re.Match[str] | None, *, digits: bool, field: str) -> list[_Atom]:
    if repeat is None:
        return [_Atom(allowed, again=digits)]
    if repeat["plus"]:
        return [_Atom(allowed, again=True)]
    low = int(repeat["low"])
    high = int(repeat["high"] or low)
    if low > high:
        raise RefusedError("ticket_pattern_invalid", f"{repeat[0]} counts down", field=field)
    return [_Atom(allowed)] * low + [_Atom(allowed, skip=True)] * (high - low)


def command(value: object, field: str) -> tuple[str, ...]:
    """A command line as its words, by shell quoting; the first a normalised absolute path, the others literal.

    Raises:
        RefusedError: ``command_invalid``, and ``path_invalid`` of the first word.
    """
    found = fields.string(value, field)
    try:
        plain = len(found) <= COMMAND_MAX and found.isprintable() and "\\" not in found
        words = tuple(shlex.split(found)) if plain else ()
    except ValueError:
        words = ()
    if not 1 <= len(words) <= WORDS_MAX:
        reason = f"must be printable words, quoted but without backslash, at most {WORDS_MAX} and {COMMAND_MAX} characters"
        raise RefusedError("command_invalid", reason, field=field)
    fields.absolute_path(words[0], field)
    for word in words[1:]:
        if not word or set(word) & _NOT_LITERAL or word.startswith("^") or ".." in word.split("/"):
            reason = f"argument {word[:40]!a} is not literal: no wildcard, backslash, leading '^', '..' segment, nor empty"
            raise RefusedError("command_invalid", reason, field=field)
    return words
