"""A person's sessions with the control plane: an opaque random bearer for an hour, of which only a hash is kept.

Roles are never part of a session: who loses one has lost it in every session at once.
"""

import hashlib
import secrets
import sqlite3
from dataclasses import dataclass

from examples.control_plane.people.person import Person, by_id
from examples.control_plane.store import Store

BEARER_MAX = 128
PREFIX = "tgs_"  # so that secret scanners find a lost one
SESSIONS_MAX = 16  # of one person; the oldest goes


@dataclass(frozen=True, slots=True)
class Opened:
    """A new session: the bearer, which is shown once, and its end in seconds since the epoch."""

    bearer: str
    expires: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """All sessions. ``life_s`` is absolute: nothing prolongs a session but a new login."""

    store: Store
    life_s: int

    def open(self, db: sqlite3.Connection, person: int, now: float, *, sid: str = "", ends_by: int | None = None) -> Opened:
        """A session for the person with this number, in the caller's transaction."""
        bearer = PREFIX + secrets.token_urlsafe(32)
        expires = int(now) + self.life_s if ends_by is None else min(int(now) + self.life_s, ends_by)
        db.execute("DELETE FROM person_session WHERE expires <= ?", (int(now),))
        db.execute(
            "DELETE FROM person_session WHERE digest IN"
            " (SELECT digest FROM person_session WHERE person = ? ORDER BY created DESC, digest LIMIT -1 OFFSET ?)",
            (person, SESSIONS_MAX - 1),
        )
        db.execute(
            "INSERT INTO person_session (digest, person, created, expires, sid) VALUES (?, ?, ?, ?, ?)",
            (_digest(bearer), person, int(now), expires, sid),
        )
        return Opened(bearer, expires)

    def person(self, bearer: str, now: float) -> Person | None:
        """Whose session this is; None when it is unknown or over, or its person has been offboarded or has no role left."""
        with self.store.read() as db:
            return self.holder(db, bearer, now)

    def holder(self, db: sqlite3.Connection, bearer: str, now: float) -> Person | None:
        """The same, as the caller's transaction sees it."""
        if len(bearer) > BEARER_MAX or not bearer.startswith(PREFIX) or not bearer.isascii():
            return None
        row = db.execute("SELECT person, expires FROM person_session WHERE digest = ?", (_digest(bearer),)).fetchone()
        found = by_id(db, row["person"]) if row is not None and row["expires"] > now else None
        return found if found is not None and found.ended is None and found.roles else None

    def end(self, db: sqlite3.Connection, bearer: str) -> None:
        """End one; an unknown one is over already."""
        db.execute("DELETE FROM person_session WHERE digest = ?", (_digest(bearer),))

    def end_all(self, db: sqlite3.Connection, person: int, *, sid: str = "") -> int:
        """End a person's sessions, or those of the provider's session ``sid`` alone. How many there were."""
        query = "DELETE FROM person_session WHERE person = ? AND (? = '' OR sid = ?)"
        return db.execute(query, (person, sid, sid)).rowcount

    def end_sid(self, db: sqlite3.Connection, issuer: str, sid: str) -> int:
        """End the sessions of the provider's session ``sid``, whosever they are."""
        query = "DELETE FROM person_session WHERE sid = ? AND person IN (SELECT id FROM person WHERE issuer = ?)"
        return db.execute(query, (sid, issuer)).rowcount


def _digest(bearer: str) -> str:
    # 256 random bits need no slow hash; looking it up by its hash tells nothing by its time.
    return hashlib.sha256(bearer.encode("ascii", "replace")).hexdigest()
