"""Somebody known to the control plane, as rows and as a value. What is not in the rows now is not believed."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.model.text import folded

PEOPLE_SCHEMA = (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8")
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Person:
    """One person. ``subject`` (the ``sub`` of their grants) and ``login`` are theirs for ever; ``email`` is verified, or empty."""

    id: int
    issuer: str
    subject: str
    login: str
    name: str
    email: str
    roles: frozenset[str]
    ended: int | None = None

    def view(self) -> dict[str, object]:
        """As the API shows it."""
        return {
            "id": self.id,
            "subject": self.subject,
            "name": self.name,
            "email": self.email or None,
            "login": self.login,
            "roles": sorted(self.roles),
            "issuer": self.issuer,
            "ended": None if self.ended is None else rfc3339(self.ended),
        }


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def by_id(db: sqlite3.Connection, ident: int) -> Person | None:
    """The person with this number, offboarded or not."""
    return _person(db, db.execute("SELECT * FROM person WHERE id = ?", (ident,)).fetchone())


def by_subject(db: sqlite3.Connection, subject: str) -> Person | None:
    """The person with this subject, offboarded or not; compared without case, as subjects are unique."""
    return _person(db, db.execute("SELECT * FROM person WHERE subject_folded = ?", (folded(subject),)).fetchone())


def by_issuer(db: sqlite3.Connection, issuer: str, issuer_subject: str) -> Person | None:
    """The person whom the provider ``issuer`` calls ``issuer_subject``, offboarded or not."""
    row = db.execute("SELECT * FROM person WHERE issuer = ? AND issuer_subject = ?", (issuer, issuer_subject)).fetchone()
    return _person(db, row)


def everybody(db: sqlite3.Connection) -> list[Person]:
    """All, by number."""
    return [found for row in db.execute("SELECT * FROM person ORDER BY id") if (found := _person(db, row)) is not None]


def set_roles(db: sqlite3.Connection, ident: int, roles: Iterable[str]) -> None:
    """Exactly these roles from now on."""
    db.execute("DELETE FROM person_role WHERE person = ?", (ident,))
    db.executemany("INSERT INTO person_role (person, role) VALUES (?, ?)", [(ident, role) for role in sorted(set(roles))])


def _person(db: sqlite3.Connection, row: sqlite3.Row | None) -> Person | None:
    if row is None:
        return None
    roles = frozenset(role for (role,) in db.execute("SELECT role FROM person_role WHERE person = ?", (row["id"],)))
    return Person(
        id=row["id"],
        issuer=row["issuer"],
        subject=row["subject"],
        login=row["login"],
        name=row["name"],
        email=row["email"],
        roles=roles if row["ended"] is None else frozenset(),
        ended=row["ended"],
    )
