"""How late it is, as the journal knows it: what a clock that is set back, or a reboot, can't take away."""

import json
from collections.abc import Iterable

from agent.host.clock import Mark
from agent.journal.database import Database
from agent.journal.records import mark_of


class Times:
    """The part of :class:`agent.journal.journal.Journal` that is about clocks."""

    _db: Database

    def mark(self, mark: Mark) -> None:
        """Raise the high-water mark of the clock; while a grant is live it never goes back."""
        with self._db.transaction():  # the look and the write are one, or a slower thread could set it back
            last = self.last_mark()
            if last is None or mark.wall_ns > last.wall_ns:
                self._db.set_meta("mark", json.dumps([mark.wall_ns, mark.boot_id, mark.boot_ns]))

    def carry(self, deadlines: Iterable[tuple[int, str, int]]) -> None:
        """After a reboot: the deadlines ``(grant id, boot id, boot ns)`` on the new boot clock, which the next start must find."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE grants SET boot_id=?, boot_deadline_ns=? WHERE id=?",
                [(boot_id, boot_ns, grant_id) for grant_id, boot_id, boot_ns in deadlines],
            )

    def last_mark(self) -> Mark | None:
        """The latest time noted; None where there is none or it can't be read: ends go on, and the next one mends it."""
        rows = self._db.rows("SELECT value FROM meta WHERE key='mark'")
        return mark_of(rows[0]["value"]) if rows else None
