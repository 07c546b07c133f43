"""The end of somebody here: one transaction, so that a crash leaves either nothing of it or all of it.

With that transaction durable the person has no session, no role and no credential, what they asked for is withdrawn, their unused
approvals count no more, and for every host that has a live grant of theirs a signed revocation stands in line. Carrying those
to the hosts is the workflow's, which goes on with it after any crash. Doing it again revokes again, and harms nothing.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from examples.control_plane.events.kinds import Kind
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.people.person import Person, by_id, everybody, set_roles
from examples.control_plane.people.service import People
from examples.control_plane.store import audit

E = TypeVar("E")
_ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Offboarded(Generic[E]):
    """Who it was, and what the workflow says it ended."""

    person: Person
    ended: E


def offboard(people: People, ident: int, by: str, reason: str, end_all: Callable[[sqlite3.Connection, str], E]) -> Offboarded[E]:
    """End everything of the person with this number. ``end_all`` is the workflow's part, given their subject.

    Raises:
        LoginRefusedError: ``person_unknown``; ``last_admin``: nobody would be left who can undo anything.
    """
    with people.store.write() as db:
        person = _known(db, ident)
        if only_admin(db, person):
            raise LoginRefusedError("last_admin", "is the only admin: give somebody else that role first")
        if person.ended is None:
            update = "UPDATE person SET ended = ?, ended_by = ?, ended_reason = ? WHERE id = ?"
            db.execute(update, (int(people.wall()), by, reason, ident))
        sessions = people.sessions.end_all(db, ident)
        set_roles(db, ident, ())
        db.execute("DELETE FROM local_account WHERE person = ?", (ident,))
        ended = end_all(db, person.subject)
        detail = {"sessions": sessions, "again": person.ended is not None}
        audit.note(db, Kind.PERSON_OFFBOARDED, actor=by, subject=person.subject, reason=reason, detail=detail)
        return Offboarded(by_id(db, ident) or person, ended)


def restore(people: People, ident: int, by: str, reason: str) -> Person:
    """Let somebody log in again, without any role until their next login, or until an admin gives one. What was ended stays ended.

    Raises:
        LoginRefusedError: ``person_unknown``.
    """
    with people.store.write() as db:
        person = _known(db, ident)
        db.execute("UPDATE person SET ended = NULL, ended_by = NULL, ended_reason = NULL WHERE id = ?", (ident,))
        audit.note(db, Kind.PERSON_CHANGED, actor=by, subject=person.subject, reason=reason, detail={"restored": True})
        return by_id(db, ident) or person


def only_admin(db: sqlite3.Connection, person: Person) -> bool:
    """Whether nobody else has the role."""
    return _ADMIN in person.roles and sum(_ADMIN in other.roles for other in everybody(db)) == 1


def _known(db: sqlite3.Connection, ident: int) -> Person:
    person = by_id(db, ident)
    if person is None:
        raise LoginRefusedError("person_unknown", f"there is no person {ident}")
    return person
