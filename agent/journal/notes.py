"""What is noted about a grant beside its steps: JSON under a name, durable when it returns, or with the others of one moment."""

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping

from agent.errors import JournalError
from agent.journal.database import Database
from agent.journal.records import notes_of
from agent.model import Json


class Notes:
    """The part of :class:`agent.journal.journal.Journal` that keeps observations."""

    _db: Database

    def __init__(self) -> None:
        self._held: dict[int, dict[str, Json]] = {}  # grant → what is to be written with the rest
        self._holding = threading.Lock()

    def note(self, grant_id: int, name: str, value: Json) -> None:
        """Keep an observation about a grant (JSON) under a name; a later one of the same name replaces it."""
        with self._holding:
            held = self._held.get(grant_id)
            if held is not None:
                held[name] = value
                return
        self._write(grant_id, {name: value})

    @contextlib.contextmanager
    def noted_together(self, grant_id: int) -> Iterator[None]:
        """What is noted of this grant meanwhile, by whichever thread, is durable at the end: one commit, one wait for the disk.

        Raises:
            JournalError: none of it is. Where the block fails, its own error goes on.
        """
        with self._holding:
            self._held[grant_id] = {}
        try:
            yield
        except BaseException:
            with contextlib.suppress(JournalError):
                self._release(grant_id)
            raise
        self._release(grant_id)

    def notes(self, grant_id: int) -> dict[str, Json]:
        """Every observation kept about a grant, by name. One that can't be read is left out: no end waits for it."""
        return notes_of(tuple(row) for row in self._db.rows("SELECT name, value FROM notes WHERE grant_id=?", (grant_id,)))

    def _release(self, grant_id: int) -> None:
        with self._holding:
            held = self._held.pop(grant_id, {})
        if held:
            self._write(grant_id, held)

    def _write(self, grant_id: int, notes: Mapping[str, Json]) -> None:
        with self._db.transaction() as db:  # whoever writes later writes what is so by then
            rows = [(grant_id, name, json.dumps(value)) for name, value in notes.items()]
            db.executemany("INSERT OR REPLACE INTO notes (grant_id,name,value) VALUES (?,?,?)", rows)
