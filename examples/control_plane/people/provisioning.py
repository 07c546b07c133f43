"""From a provider's claims to a person of ours: made at the first login, brought up to date at each later one.

What never changes is the subject (the ``sub`` of grants) and the login on hosts, and neither ever becomes somebody else's: an
address that the provider hands to a new colleague stays with the old one's grants, and the new one gets another subject. Only
``(issuer, sub)`` says who somebody is (OpenID Connect Core 1.0, section 5.7); name and address are for people to read.
"""

import hashlib
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.model.fields import LOGIN, PRINCIPAL
from agent.model.text import folded
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.people.oidc import Claims
from examples.control_plane.people.person import LOCAL, Person, by_issuer, set_roles

LOGIN_MAX = 31
_SAME_MAX = 99
NAME_MAX = 120

RoleMap = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A login that was taken in: who it is now, whether they are new, and what roles they had until now and have no longer."""

    person: Person
    new: bool
    lost: frozenset[str]


def roles_for(groups: Iterable[str], mapping: RoleMap) -> frozenset[str]:
    """The roles of somebody in these groups of the provider; a group that the mapping does not name gives nothing."""
    return frozenset(role for group in groups for role in mapping.get(group, ()))


def arrive(db: sqlite3.Connection, claims: Claims, mapping: RoleMap, prefix: str, now: float) -> Arrival:
    """Make or update the person of these claims, in the caller's transaction. They may be left without any role.

    Raises:
        LoginRefusedError: ``person_ended``; ``no_role`` for somebody unknown whose groups give none: no person is made of them.
    """
    roles = roles_for(claims.groups, mapping)
    before = by_issuer(db, claims.issuer, claims.subject)
    if before is None:
        if not roles:
            raise LoginRefusedError("no_role", "none of your groups gives a role here: ask whoever runs this control plane")
        return Arrival(_made(db, claims, roles, prefix, now), new=True, lost=frozenset())
    if before.ended is not None:
        raise LoginRefusedError("person_ended", "this person has been offboarded")
    update = "UPDATE person SET name = ?, email = ?, seen = ? WHERE id = ?"
    db.execute(update, (_name(claims) or before.name, claims.email, int(now), before.id))
    set_roles(db, before.id, roles)
    after = by_issuer(db, claims.issuer, claims.subject)
    return Arrival(after or before, new=False, lost=before.roles - roles)


def _made(db: sqlite3.Connection, claims: Claims, roles: frozenset[str], prefix: str, now: float) -> Person:
    local_part = claims.email.partition("@")[0]
    wished = local_part or claims.username or claims.name
    login = free_login(db, prefix, wished, f"{claims.issuer} {claims.subject}")
    # Never by what the provider did not verify: a name somebody chose could be another's address.
    subject = next(text for text in _subjects(claims, login) if not _taken(db, text))
    return add(db, claims.issuer, claims.subject, subject, login, _name(claims) or login, claims.email, roles, now)


def add(
    db: sqlite3.Connection,
    issuer: str,
    issuer_subject: str,
    subject: str,
    login: str,
    name: str,
    email: str,
    roles: frozenset[str],
    now: float,
) -> Person:
    """A new row.

    Raises:
        LoginRefusedError: ``person_known``: the subject or the login is, or was, somebody's.
    """
    columns = "issuer, issuer_subject, subject, subject_folded, login, name, email, created, seen"
    values = (issuer, issuer_subject, subject, folded(subject), login, name, email, int(now), int(now))
    try:
        row = db.execute(f"INSERT INTO person ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)  # noqa: S608  # constant names
    except sqlite3.IntegrityError as error:
        raise LoginRefusedError("person_known", f"{subject!a} is, or was, somebody's name here") from error
    ident = row.lastrowid or 0
    set_roles(db, ident, roles)
    return Person(ident, issuer, subject, login, name, email, roles)


def add_local(db: sqlite3.Connection, name: str, full_name: str, roles: frozenset[str], prefix: str, now: float) -> Person:
    """A local account's person: its name is its subject too.

    Raises:
        LoginRefusedError: ``person_known``.
    """
    return add(db, LOCAL, name, name, free_login(db, prefix, name, f"local {name}"), full_name or name, "", roles, now)


def _subjects(claims: Claims, login: str) -> Iterator[str]:
    if PRINCIPAL.fullmatch(claims.email):  # ASCII alone: no two that look the same
        yield claims.email
    yield login
    yield f"{login}.{_mark(f'{claims.issuer} {claims.subject}')}"


def _taken(db: sqlite3.Connection, subject: str) -> bool:
    return db.execute("SELECT 1 FROM person WHERE subject_folded = ?", (folded(subject),)).fetchone() is not None


def free_login(db: sqlite3.Connection, prefix: str, wished: str, identity: str) -> str:
    """A login that nobody has or had: ``jit-alice``, else ``jit-alice-2`` and so on, else one from a hash of ``identity``."""
    for login in logins(prefix, wished, identity):
        if db.execute("SELECT 1 FROM person WHERE login = ?", (login,)).fetchone() is None:
            return login
    raise LoginRefusedError("person_known", "no login is free for this person")  # a hash's first 16 digits were somebody's


def logins(prefix: str, wished: str, identity: str) -> Iterator[str]:
    """Logins to try, in turn; each matches the contract's ``[a-z][a-z0-9-]{0,30}`` (docs/PROTOCOL.md)."""
    word = slug(wished)
    if word:
        yield _fitted(prefix + word, "")
        for number in range(2, _SAME_MAX + 1):
            yield _fitted(prefix + word, f"-{number}")
    yield _fitted(prefix, f"p{_mark(identity)}")


def _fitted(text: str, end: str) -> str:
    found = text[: LOGIN_MAX - len(end)].rstrip("-") if end.startswith("-") or not end else text
    return (found + end)[:LOGIN_MAX]


def slug(text: str) -> str:
    """Letters and digits of ASCII with single dashes between: ``Zoë O'Neil`` → ``zoe-o-neil``. Empty where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")


def prefix_fits(prefix: str) -> bool:
    """Whether logins may begin so: ``jit-``; room is left for a hash."""
    return bool(LOGIN.fullmatch(prefix)) and len(prefix) <= LOGIN_MAX - 17


def _name(claims: Claims) -> str:
    """For the account's full name, which takes neither ``:`` nor ``,`` (a GECOS field)."""
    return re.sub(r"[:,]+", " ", claims.name or claims.username)[:NAME_MAX].strip()


def _mark(identity: str) -> str:
    return hashlib.sha256(identity.encode("utf-8")).hexdigest()[:16]
