"""UIDs whose grants have ended and of which something is left: none of them is given out until a look finds nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agent.journal.database import Database
from agent.model import Json

_KEPT_MAX = 20  # of what is left, as the journal keeps it for doctor


@dataclass(frozen=True, slots=True)
class Tombstone:
    """One UID that is kept back: whose it was, since when (wall clock, ns), how much is left and the first of it."""

    uid: int
    login: str
    grant_id: int
    since_ns: int
    count: int
    found: tuple[Json, ...] = ()


class Tombstones:
    """That part of the journal. Thread-safe; every method raises JournalError when the disk says no."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self) -> list[Tombstone]:
        """All that are kept back, by number."""
        rows = self._db.rows("SELECT * FROM uids WHERE state='tombstone' AND residue>0 ORDER BY uid")
        return [
            Tombstone(row["uid"], row["login"], row["grant_id"], row["since_ns"], row["residue"], _load(row["found"]))
            for row in rows
        ]

    def looked(self, uid: int, left: Sequence[Json]) -> None:
        """What a look found left of one; nothing frees it. One that is no tombstone any more stays as it is."""
        with self._db.transaction() as db:
            db.execute("UPDATE uids SET residue=?, found=? WHERE uid=? AND state='tombstone'", (len(left), dump(left), uid))


def dump(left: Sequence[Json]) -> str:
    """The first of what is left, as the journal keeps it."""
    return json.dumps(list(left[:_KEPT_MAX]))


def _load(text: str) -> tuple[Json, ...]:
    """What can't be read says nothing, and frees nothing: the count stands beside it."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, list) else ()
