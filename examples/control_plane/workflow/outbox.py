"""Signed words, put into the outbox in the transaction that decided them, and what is still to be sent from it."""

import sqlite3
from dataclasses import dataclass

from examples.control_plane.store import touch

BATCH_MAX = 100


@dataclass(frozen=True, slots=True)
class Word:
    """One token on its way. ``ident`` is the stream's id."""

    ident: int
    token: str


def put(db: sqlite3.Connection, host: str, kind: str, token: str, *, about: str, expires_at: int) -> None:
    """Add one for a host; a bulletin takes the place of the host's older ones."""
    if kind == "bulletin":
        db.execute("DELETE FROM outbox WHERE host = ? AND kind = 'bulletin'", (host,))
    db.execute(
        "INSERT INTO outbox (host, kind, about, token, expires_at) VALUES (?, ?, ?, ?, ?)", (host, kind, about, token, expires_at)
    )
    touch(db, f"outbox:{host}")


def take_back(db: sqlite3.Connection, jti: str) -> None:
    """A grant that is revoked is not sent any more; its revocation goes out all the same, since it may have been."""
    db.execute("DELETE FROM outbox WHERE kind = 'grant' AND about = ?", (jti,))


def after(db: sqlite3.Connection, host: str, last: int, now: int) -> list[Word]:
    """What the host has not had yet, oldest first, at most 100."""
    found = db.execute(
        "SELECT id, token FROM outbox WHERE host = ? AND id > ? AND expires_at > ? ORDER BY id LIMIT ?",
        (host, last, now, BATCH_MAX),
    )
    return [Word(row["id"], row["token"]) for row in found]


def idents(db: sqlite3.Connection, host: str, now: int) -> list[int]:
    """All that an enrolled host is to have, oldest first: ids alone."""
    found = db.execute(
        "SELECT o.id FROM outbox o JOIN host h ON h.token = o.host"
        " WHERE o.host = ? AND o.expires_at > ? AND h.state = 'enrolled' ORDER BY o.id",
        (host, now),
    )
    return [int(row["id"]) for row in found]


def token(db: sqlite3.Connection, ident: int) -> str | None:
    """One of these; None if it was taken back."""
    row = db.execute("SELECT token FROM outbox WHERE id = ?", (ident,)).fetchone()
    return None if row is None else str(row["token"])


def stream(db: sqlite3.Connection) -> str:
    """The epoch of the ids."""
    return str(db.execute("SELECT value FROM meta WHERE name = 'stream'").fetchone()[0])
