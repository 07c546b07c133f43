"""Roles: names in a grant that the host replaces by its own entries, for the identifier the grant gives. Pure.

A role is the host admin's own text, so what it gives needs no repeating in the rule that lists it; whom it is given to, the
prefix, networks, times, privileged groups and root-equivalent commands are judged as for everything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.model import AccountWant, Enforcer, Grant, RoleWant, SshWant, Want
from agent.model.fields import FieldReader, choice, login, role_name
from agent.policy.model import Denied, Entry, Policy
from agent.policy.parse import Decoders

ROLE = "role"
ENTRIES_MAX = 64  # after expansion: 32 entries of a grant could else become 32 roles of 32 each


def decoders(enforcers: Mapping[str, Enforcer]) -> Decoders:
    """Entry type → decode, for a grant's entries: each enforcer's own, and the role's, which nothing enforces by itself."""
    return {**{name: enforcer.decode for name, enforcer in enforcers.items()}, ROLE: decode}


def decode(body: object, field: str) -> RoleWant:
    """``{"type":"role","identifier":...,"name":...}``. Codes: those of the field rules."""
    reader = FieldReader(body, field, required=("type", "identifier", "name"))
    reader.one("type", choice(ROLE))
    return RoleWant(identifier=reader.one("identifier", login), name=reader.one("name", role_name))


def expand(grant: Grant, policy: Policy) -> tuple[Entry, ...] | Denied:
    """Every want of the grant with roles replaced; order kept.

    Denied with ``role_unknown``, ``entry_twice`` (one account and one ssh entry for an identifier) or ``too_many_entries``.
    """
    entries: list[Entry] = []
    for index, want in enumerate(grant.wants):
        field = f"authorization_details[{index}]"
        if not isinstance(want, RoleWant):
            entries.append(Entry(want, field))
            continue
        role = policy.roles.get(want.name)
        if role is None:
            return Denied("role_unknown", f"this host has no role {want.name!a}", f"{field}.name")
        entries.extend(Entry(for_identifier(given, want.identifier), field, want.name) for given in role.entries)
    if len(entries) > ENTRIES_MAX:
        return Denied("too_many_entries", f"{len(entries)} entries after roles; at most {ENTRIES_MAX}", "authorization_details")
    return _first_twice(entries) or tuple(entries)


def for_identifier(want: Want, identifier: str) -> Want:
    """The same want for another login."""
    return replace(want, identifier=identifier)


def _first_twice(entries: Sequence[Entry]) -> Denied | None:
    seen: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        if not isinstance(entry.want, AccountWant | SshWant):
            continue
        key = (entry.want.type, entry.want.identifier)
        if key in seen:
            by = f", given by role {entry.role!a}" if entry.role else ""
            reason = f"a second {key[0]} entry for {key[1]!a}{by}; the first is {seen[key].field}"
            return Denied("entry_twice", reason, entry.field)
        seen[key] = entry
    return None
