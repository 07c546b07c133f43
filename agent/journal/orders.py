"""What control planes have said about their grants, in the journal: revocations, kept for what has not come yet, and bulletins.

Nothing here ever un-revokes: a later revocation of a subject only reaches further, and what is dropped for age or number is
replaced by a floor, below which every grant of that issuer is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agent.errors import JournalError, UntrustedError
from agent.journal.database import Database
from agent.journal.records import HeldBulletin
from agent.model import Bulletin, Revocation, SubjectFormat
from agent.model.text import folded, one_line

KEPT_S = 180 * 86400  # a grant lasts 90 days at most, and may come some time after it was issued
KEPT_OF_ONE_ISSUER = 20_000
REPLACES = "replaces"  # note of a grant that takes another's place: the logins whose processes end before it is open
# Notes about the host before the accounts or rules were made: as true of the grant that takes them over.
CARRIED = ("baseline", "sudo_before")


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What :meth:`Orders.take_over` needs of the old grant."""

    old_id: int
    taken: tuple[int, ...]
    told: str
    narrowed: tuple[str, ...] | None


class Orders:
    """A part of the journal: same file, same rules. Raises JournalError when the disk says no."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def revoke(self, revocation: Revocation, now_s: int) -> None:
        """From here on no grant that it means is taken. The same one twice, or an older one, changes nothing."""
        value = folded(revocation.value) if revocation.format is SubjectFormat.EMAIL else revocation.value
        told = f"by event {revocation.jti} of {revocation.iss}" + (f": {revocation.reason}" if revocation.reason else "")
        self._note([(issuer, revocation.format, value, revocation.iat, told) for issuer in revocation.issuers], now_s)

    def take_bulletin(self, bulletin: Bulletin, held: HeldBulletin, *, again: bool = False) -> None:
        """Keep the latest bulletin of an issuer, and what it revokes, in one.

        ``again``: it may be the very one that a crash kept from being answered.

        Raises:
            UntrustedError: ``bulletin_replayed``: its seq is not above the last one.
        """
        with self._db.transaction() as db:
            rows = db.execute("SELECT seq,iat,exp FROM issuers WHERE iss=?", (bulletin.iss,)).fetchall()
            last = tuple(rows[0]) if rows else (-1, 0, 0)
            if again and last == (bulletin.seq, bulletin.iat, bulletin.exp):
                return
            if bulletin.seq <= last[0]:
                raise UntrustedError("bulletin_replayed", f"seq {bulletin.seq} does not come after {last[0]}", field="seq")
            values = (bulletin.seq, bulletin.iat, bulletin.exp, held.wall_ns, held.boot_id, held.boot_ns)
            db.execute(
                "INSERT INTO issuers (iss,seq,iat,exp,wall_ns,boot_id,boot_ns) VALUES (?,?,?,?,?,?,?)"
                " ON CONFLICT (iss) DO UPDATE SET seq=excluded.seq, iat=excluded.iat, exp=excluded.exp,"
                " wall_ns=excluded.wall_ns, boot_id=excluded.boot_id, boot_ns=excluded.boot_ns",
                (bulletin.iss, *values),
            )
            told = f"by bulletin {bulletin.seq} of {bulletin.iss}"
            found = [(bulletin.iss, SubjectFormat.JWT_ID, jti, bulletin.iat, told) for jti in bulletin.revoked]
            self._note(found, held.wall_ns // 1_000_000_000)

    def bulletins(self) -> list[HeldBulletin]:
        """The latest of each issuer."""
        rows = self._db.rows("SELECT * FROM issuers WHERE seq>=0")
        return [HeldBulletin(**{name: row[name] for name in HeldBulletin.__slots__}) for row in rows]

    def anchor(self, held: Sequence[HeldBulletin]) -> None:
        """After a reboot: the moments their age is counted from, on the new boot clock."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE issuers SET wall_ns=?, boot_id=?, boot_ns=? WHERE iss=?",
                [(found.wall_ns, found.boot_id, found.boot_ns, found.iss) for found in held],
            )

    def revoked(self, iss: str, jti: str, sub: str, iat: int) -> str | None:
        """Why the grant with these claims is revoked, None when it is not."""
        rows = self._db.rows(
            "SELECT told FROM revocations WHERE iss=? AND ((format='jwt_id' AND value=?) OR (format='iss_sub' AND value=?"
            " AND iat>=?) OR (format='email' AND value=? AND iat>=?)) LIMIT 1",
            (iss, jti, sub, iat, folded(sub), iat),
        )
        return str(rows[0]["told"]) if rows else None

    def revokers(self) -> frozenset[str]:
        """Issuers of whom anything is revoked: of another's grants nobody need ask."""
        return frozenset(row["iss"] for row in self._db.rows("SELECT DISTINCT iss FROM revocations"))

    def refuse_revoked(self, iss: str, jti: str, sub: str, iat: int) -> None:
        """Raise UntrustedError ``grant_revoked`` when it was revoked before it came, or may have been and is forgotten."""
        told = self.revoked(iss, jti, sub, iat)
        if told is not None:
            raise UntrustedError("grant_revoked", f"was revoked before it came: {one_line(told)}", field="jti")
        if self._db.rows("SELECT 1 FROM issuers WHERE iss=? AND revoked_through>=?", (iss, iat)):
            reason = "was issued so long ago that this host no longer knows whether it was revoked; sign a new grant"
            raise UntrustedError("grant_revoked", reason, field="iat")

    def suspended(self, grant_id: int, suspended: bool) -> None:
        """OPEN → SUSPENDED, written before its doors are shut; or back, once they are open again.

        Raises:
            JournalError: ``grant_state``: its end has begun.
        """
        state = "suspended" if suspended else "open"  # from either: a disk that was full may have missed the last change
        with self._db.transaction() as db:
            moved = db.execute("UPDATE grants SET state=? WHERE id=? AND state IN ('open','suspended')", (state, grant_id))
            if moved.rowcount != 1:
                raise JournalError("grant_state", f"grant {grant_id} is not open any more")

    def take_over(self, new_id: int, over: TakeOver) -> None:
        """The new grant takes the old one's place: its accounts, and the steps ``taken``; what is left of the old is being shut.

        Part of the transaction that accepts the new one, so that after a crash either the old stands whole, or the new goes on.
        ``over.narrowed``: logins whose processes end first; None where nothing of the old ever stood.

        Raises:
            JournalError: ``grant_state``: the old one's end has begun.
        """
        with self._db.transaction() as db:
            moved = db.execute(
                "UPDATE grants SET state='shutting', cause='superseded', cause_text=?, attempts=attempts+1 WHERE id=?"
                " AND state IN ('open','pending')",
                (one_line(over.told), over.old_id),
            )
            if moved.rowcount != 1:
                raise JournalError("grant_state", f"grant {over.old_id} is not open any more")
            db.executemany("UPDATE steps SET state='taken' WHERE grant_id=? AND seq=?", [(over.old_id, seq) for seq in over.taken])
            db.execute("UPDATE uids SET grant_id=? WHERE grant_id=?", (new_id, over.old_id))
            for name in CARRIED:
                db.execute(
                    "INSERT OR IGNORE INTO notes (grant_id,name,value) SELECT ?,name,value FROM notes WHERE grant_id=? AND name=?",
                    (new_id, over.old_id, name),
                )
            if over.narrowed is not None:
                db.execute("INSERT INTO notes (grant_id,name,value) VALUES (?,?,?)", (new_id, REPLACES, json.dumps(over.narrowed)))

    def forget_before(self, now_s: int) -> None:
        """Drop revocations that no grant in use can need any more; what they said stays said, as a floor."""
        with self._db.transaction() as db:
            for row in db.execute("SELECT DISTINCT iss FROM revocations WHERE noted_s<?", (now_s - KEPT_S,)).fetchall():
                self._drop(row["iss"], "noted_s<?", (row["iss"], now_s - KEPT_S))

    def _note(self, found: Sequence[tuple[str, SubjectFormat, str, int, str]], now_s: int) -> None:
        with self._db.transaction() as db:
            db.executemany(
                "INSERT INTO revocations (iss,format,value,iat,told,noted_s) VALUES (?,?,?,?,?,?) ON CONFLICT (iss,format,value) DO"
                " UPDATE SET iat=excluded.iat, told=excluded.told, noted_s=excluded.noted_s WHERE excluded.iat>revocations.iat",
                [(iss, form.value, value, iat, one_line(told), now_s) for iss, form, value, iat, told in found],
            )
            for iss in {each[0] for each in found}:
                row = db.execute("SELECT count(*) AS many FROM revocations WHERE iss=?", (iss,)).fetchone()
                if row["many"] > KEPT_OF_ONE_ISSUER:
                    through = db.execute(
                        "SELECT iat FROM revocations WHERE iss=? ORDER BY iat LIMIT 1 OFFSET ?",
                        (iss, row["many"] - KEPT_OF_ONE_ISSUER),
                    ).fetchone()
                    self._drop(iss, "iat<=?", (iss, through["iat"]))

    def _drop(self, iss: str, where: str, parameters: tuple[object, ...]) -> None:
        with self._db.transaction() as db:
            row = db.execute(f"SELECT max(iat) AS through FROM revocations WHERE iss=? AND {where}", parameters).fetchone()  # noqa: S608  # where is ours
            db.execute(
                "INSERT INTO issuers (iss,revoked_through) VALUES (?,?) ON CONFLICT (iss) DO UPDATE"
                " SET revoked_through=max(revoked_through,excluded.revoked_through)",
                (iss, row["through"]),
            )
            db.execute(f"DELETE FROM revocations WHERE iss=? AND {where}", parameters)  # noqa: S608  # as above
