"""All that is live, read whole: what a start takes over, in a few reads however many grants there are."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from agent.journal.database import Database
from agent.journal.records import Standing, notes_of, record_of

_LIVE = "(SELECT id FROM grants WHERE state<>'ended')"


class Whole:
    """The part of :class:`agent.journal.journal.Journal` that a start reads."""

    _db: Database

    def standing(self) -> Iterator[Standing]:
        """Every grant that is not ended, in the order they came, all as of one moment. Raises JournalError before the first."""
        with self._db.one_moment():
            grants = self._db.rows("SELECT * FROM grants WHERE state<>'ended' ORDER BY id")
            uids = self._by_grant("SELECT grant_id, login, uid FROM uids WHERE grant_id IN", "")
            steps = self._by_grant(
                "SELECT grant_id, seq, step FROM steps WHERE state<>'taken' AND grant_id IN", "ORDER BY grant_id, seq"
            )
            notes = self._by_grant("SELECT grant_id, name, value FROM notes WHERE grant_id IN", "")
        return (
            Standing(record_of(row, dict(uids[row["id"]])), tuple(steps[row["id"]]), notes_of(notes[row["id"]])) for row in grants
        )

    def _by_grant(self, select: str, order: str) -> defaultdict[int, list[tuple[Any, Any]]]:
        """Of live grants, two columns each. As tuples: there are many times more of these rows than grants."""
        found: defaultdict[int, list[tuple[Any, Any]]] = defaultdict(list)
        for grant_id, first, second in self._db.rows(f"{select} {_LIVE} {order}", plain=True):
            found[grant_id].append((first, second))
        return found
