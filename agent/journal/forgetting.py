"""House-keeping of the journal: what is so long over that nobody can ask for it."""

from agent.journal.database import Database
from agent.journal.orders import Orders

_USED_KEPT_S = 7 * 86400


class Forgetting:
    """The part of :class:`agent.journal.journal.Journal` that lets go of old grants."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.orders = Orders(db)

    def forget_before(self, now_s: int, keep_s: int = 90 * 86400) -> int:
        """Drop grants that ended and expired more than ``keep_s`` ago; their token ids stay refused by expiry. Returns how many."""
        through = now_s - max(keep_s, _USED_KEPT_S)
        with self._db.transaction() as db:
            rows = db.execute("SELECT id, exp FROM grants WHERE state='ended' AND exp<?", (through,)).fetchall()
            if rows:
                held = db.execute("SELECT value FROM meta WHERE key='forgotten_through'").fetchone()
                known = int(held["value"]) if held else 0
                forgotten = max(known, *(row["exp"] for row in rows))
                db.execute("INSERT OR REPLACE INTO meta (key,value) VALUES ('forgotten_through',?)", (str(forgotten),))
            self.orders.forget_before(now_s)
            for row in rows:
                db.execute("DELETE FROM steps WHERE grant_id=?", (row["id"],))
                db.execute("DELETE FROM notes WHERE grant_id=?", (row["id"],))
                db.execute("DELETE FROM receipts WHERE grant_id=?", (row["id"],))
                db.execute("DELETE FROM uids WHERE grant_id=? AND residue=0 AND state='tombstone'", (row["id"],))
                db.execute("DELETE FROM grants WHERE id=?", (row["id"],))
        return len(rows)
