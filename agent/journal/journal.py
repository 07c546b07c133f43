"""The journal's sentences: each method is one thing that happened, durable when it returns.

What is journaled here is enough to undo everything with nothing else at hand: recovery replays steps and never plans anew.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent.errors import JournalError, UntrustedError
from agent.journal.anew import Anew
from agent.journal.database import Database
from agent.journal.forgetting import Forgetting
from agent.journal.notes import Notes
from agent.journal.orders import TakeOver
from agent.journal.records import (
    EndCause,
    GrantRecord,
    GrantState,
    JournaledStep,
    Refusal,
    StepState,
    dump_step,
    record_of,
    step_of,
)
from agent.journal.standing import Whole
from agent.journal.times import Times
from agent.journal.tombstones import Tombstones, dump
from agent.model import Grant, Json, Plan
from agent.model.text import one_line

_REFUSALS_KEPT = 100


class Journal(Forgetting, Notes, Times, Whole):
    """The write-ahead journal of one host. Thread-safe; every method raises JournalError when the disk says no."""

    def __init__(self, path: Path | None, *, read_only: bool = False, busy_ms: int = 2000) -> None:
        self._over(Database(path, read_only=read_only, busy_ms=busy_ms))

    def _over(self, db: Database) -> None:
        super().__init__(db)
        Notes.__init__(self)
        self.anew = Anew(db)
        self.tombstones = Tombstones(db)

    def check(self) -> None:
        """Raise JournalError ``journal_damaged`` when some of the file can't be read."""
        self._db.check()

    def in_memory(self) -> "Journal":
        """A copy in memory, to go on with where the file can't be written."""
        copy = Journal.__new__(Journal)
        copy._over(self._db.in_memory())
        return copy

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Taking a grant in

    def refuse_replay(self, grant: Grant) -> None:
        """Raise UntrustedError ``jti_replayed`` when this issuer's token id was ever taken, or may have been and is forgotten."""
        if self._db.rows("SELECT 1 FROM grants WHERE iss=? AND jti=?", (grant.iss, grant.jti)):
            raise UntrustedError("jti_replayed", "this token id was used before; sign a new grant", field="jti")
        if grant.iat < self._db.meta_int("issued_from"):
            reason = "it was signed before this host's journal began anew, so it may be a replay; sign a new grant"
            raise UntrustedError("jti_replayed", reason, field="iat")
        if grant.exp <= self._db.meta_int("forgotten_through"):
            raise UntrustedError("jti_replayed", "token ids of that time are no longer kept, so it may be a replay", field="exp")

    def knows_leftover(self, token: bytes) -> str | None:
        """The jti, when exactly these bytes were taken before and are live: what a crash left between journal and unlink."""
        rows = self._db.rows("SELECT jti FROM grants WHERE token=? AND state<>'ended'", (token,))
        return str(rows[0]["jti"]) if rows else None

    def accept(
        self,
        grant: Grant,
        *,
        token: bytes,
        summary: str,
        rule: str,
        received_ns: int,
        boot: tuple[str, int],
        plan: Plan | None,
        not_containable: Sequence[str] = (),
        fresh_within_s: int | None = None,
        over: TakeOver | None = None,
    ) -> GrantRecord:
        """Note an accepted grant; from here on its jti is used. With a plan it is OPENING, its steps intended; else PENDING.

        The first of all that are live forgets the clock's mark: years ahead once, it would cut short every grant at a reboot.
        """
        logins = json.dumps(sorted({want.identifier for want in grant.wants}))
        with self._db.transaction() as db:
            db.execute("DELETE FROM meta WHERE key='mark' AND NOT EXISTS (SELECT 1 FROM grants WHERE state<>'ended')")
            cursor = db.execute(
                "INSERT INTO grants (jti,iss,sub,state,token,digest,iat,nbf,exp,reason,ticket,summary,rule,logins,not_containable,"
                "received_ns,boot_id,boot_deadline_ns,fresh_within_s,supersedes) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(grant.jti, grant.iss, grant.sub, GrantState.PENDING, token, grant.digest, grant.iat, grant.nbf, grant.exp),
                    *(grant.reason, grant.ticket, summary, rule, logins, json.dumps(not_containable), received_ns, *boot),
                    *(fresh_within_s, grant.supersedes),
                ),
            )
            grant_id = int(cursor.lastrowid or 0)
            if over is not None:
                self.orders.take_over(grant_id, over)
            if plan is not None:
                self.intend(grant_id, plan, received_ns, fresh_within_s=fresh_within_s)
        return self.grant(grant_id)

    # Opening

    def intend(self, grant_id: int, plan: Plan, now_ns: int, *, fresh_within_s: int | None = None) -> None:
        """Write every step of the plan down before the first is done (and the UIDs with them)."""
        with self._db.transaction() as db:
            for login, uid in plan.uids.items():
                self._reserve(db, uid, grant_id, login, now_ns)
            self._move(db, grant_id, GrantState.PENDING, "state=?, fresh_within_s=?", GrantState.OPENING, fresh_within_s)
            db.executemany(
                "INSERT INTO steps (grant_id,seq,step,state) VALUES (?,?,?,?)",
                [(grant_id, seq, dump_step(step), StepState.INTEND) for seq, step in enumerate(plan.steps)],
            )

    def opened(self, grant_id: int, now_ns: int) -> None:
        """Every step is done and access stands."""
        with self._db.transaction() as db:
            self._move(db, grant_id, GrantState.OPENING, "state=?, opened_ns=?", GrantState.OPEN, now_ns)
            db.execute("UPDATE steps SET state=? WHERE grant_id=?", (StepState.DONE, grant_id))

    # Ending

    def shutting(self, grants: Sequence[tuple[int, str]], cause: EndCause) -> None:
        """The end of these grants ``(id, text)`` has begun; the first cause stays."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE grants SET state=?, cause=coalesce(cause,?), cause_text=CASE WHEN cause IS NULL THEN ? ELSE cause_text END,"
                " attempts=attempts+1 WHERE id=? AND state<>'ended'",
                [(GrantState.SHUTTING, cause, one_line(text), grant_id) for grant_id, text in grants],
            )

    def undone(self, grant_id: int, results: Iterable[tuple[int, str]]) -> None:
        """What became of each undo: ``(seq, error)``, an empty error meaning undone. A failed undo stays open."""
        with self._db.transaction() as db:
            db.executemany(
                "UPDATE steps SET state=CASE WHEN ?='' THEN 'undone' ELSE state END, error=? WHERE grant_id=? AND seq=?",
                [(shown, shown, grant_id, seq) for seq, error in results for shown in (one_line(error),)],
            )

    def failed_to_end(self, grant_id: int, error: str) -> None:
        """Something of the grant is left; it stays in SHUTTING and is tried again."""
        with self._db.transaction() as db:
            db.execute("UPDATE grants SET last_error=? WHERE id=?", (one_line(error), grant_id))

    def ended(
        self,
        grant_id: int,
        now_ns: int,
        *,
        residue: int,
        receipt: tuple[str, str],
        left: Mapping[int, Sequence[Json]] | None = None,
    ) -> bool:
        """Nothing of the grant stands any more: UIDs become tombstones and the receipt ``(id, jws)`` is kept, together.

        ``residue`` counts what is left of the grant; ``left`` says of each uid what, where that is known.

        False, with nothing changed, when it had ended before: the first receipt is the true one, and the UID may be another's.
        """
        with self._db.transaction() as db:
            ended = db.execute(
                "UPDATE grants SET state=?, ended_ns=?, last_error='' WHERE id=? AND state<>'ended'",
                (GrantState.ENDED, now_ns, grant_id),
            )
            if ended.rowcount != 1:
                return False
            db.execute("UPDATE uids SET state='tombstone', since_ns=?, residue=? WHERE grant_id=?", (now_ns, residue, grant_id))
            for uid, found in (left or {}).items():
                db.execute(
                    "UPDATE uids SET residue=?, found=? WHERE grant_id=? AND uid=?", (len(found), dump(found), grant_id, uid)
                )
            db.execute(
                "INSERT OR REPLACE INTO receipts (id,grant_id,issued_ns,jws) VALUES (?,?,?,?)",
                (receipt[0], grant_id, now_ns, receipt[1]),
            )
        return True

    def unshipped(self) -> list[tuple[str, str]]:
        """``(id, jws)`` of receipts that are not in the outbox yet (the disk was full, or the agent stopped), oldest first."""
        rows = self._db.rows("SELECT id, jws FROM receipts WHERE shipped=0 ORDER BY issued_ns LIMIT 1000")
        return [(row["id"], row["jws"]) for row in rows]

    def shipped(self, receipt_ids: Sequence[str]) -> None:
        """These lie in the outbox now."""
        with self._db.transaction() as db:
            db.executemany("UPDATE receipts SET shipped=1 WHERE id=?", [(ident,) for ident in receipt_ids])

    # Looking

    def live(self) -> list[GrantRecord]:
        """Every grant that is not ended, in the order they came."""
        return self._grants("state<>'ended' ORDER BY id")

    def grant(self, grant_id: int) -> GrantRecord:
        """One grant by its id."""
        found = self._grants("id=?", (grant_id,))
        if not found:
            raise JournalError("grant_unknown", f"no grant {grant_id}")
        return found[0]

    def by_jti(self, jti: str) -> list[GrantRecord]:
        """Grants of that token id (more than one only when several issuers chose the same)."""
        return self._grants("jti=? ORDER BY id", (jti,))

    def recent(self, limit: int) -> list[GrantRecord]:
        """The latest grants, live or ended, newest first."""
        return self._grants("1 ORDER BY id DESC LIMIT ?", (limit,))

    def steps(self, grant_id: int) -> list[JournaledStep]:
        """The grant's steps in the order they were applied."""
        rows = self._db.rows("SELECT * FROM steps WHERE grant_id=? ORDER BY seq", (grant_id,))
        return [JournaledStep(row["seq"], step_of(row["step"]), StepState(row["state"]), row["error"]) for row in rows]

    def receipts(self, limit: int = 1000) -> list[tuple[str, str]]:
        """``(id, jws)`` of the latest receipts, newest first."""
        return [
            (row["id"], row["jws"]) for row in self._db.rows("SELECT * FROM receipts ORDER BY issued_ns DESC LIMIT ?", (limit,))
        ]

    def receipts_of(self, grant_id: int) -> list[tuple[str, str]]:
        """``(id, jws)`` of one grant's receipts, oldest first."""
        rows = self._db.rows("SELECT * FROM receipts WHERE grant_id=? ORDER BY issued_ns", (grant_id,))
        return [(row["id"], row["jws"]) for row in rows]

    def spoken_for_uids(self) -> frozenset[int]:
        """UIDs that are in use, or are tombstones with something of them left."""
        return frozenset(row["uid"] for row in self._db.rows("SELECT uid FROM uids WHERE state='reserved' OR residue>0"))

    def last_uid(self) -> int:
        """The UID given out last; the next search begins after it, so a UID comes back as late as it can."""
        return self._db.meta_int("last_uid")

    # Refusals and housekeeping

    def refused(self, *refusals: Refusal) -> None:
        """Keep refusals for ``tidegate status``; only the latest hundred stay."""
        with self._db.transaction() as db:
            db.executemany(
                "INSERT INTO refusals (at_ns,source,code,reason,field,jti,sub) VALUES (?,?,?,?,?,?,?)",
                [(found.at_ns, found.source, found.code, found.reason, found.field, found.jti, found.sub) for found in refusals],
            )
            db.execute(
                "DELETE FROM refusals WHERE id <= (SELECT id FROM refusals ORDER BY id DESC LIMIT 1 OFFSET ?)", (_REFUSALS_KEPT,)
            )

    def refusals(self) -> list[Refusal]:
        """The latest refusals, newest first."""
        rows = self._db.rows("SELECT * FROM refusals ORDER BY id DESC")
        return [Refusal(**{key: row[key] for key in Refusal.__slots__}) for row in rows]

    def _move(self, db: sqlite3.Connection, grant_id: int, before: GrantState, sets: str, *values: object) -> None:
        """One step in a grant's life. One whose end has begun meanwhile never comes back to life."""
        moved = db.execute(f"UPDATE grants SET {sets} WHERE id=? AND state=?", (*values, grant_id, before))  # noqa: S608  # sets is ours
        if moved.rowcount != 1:
            raise JournalError("grant_state", f"grant {grant_id} is not {before} any more")

    def _reserve(self, db: sqlite3.Connection, uid: int, grant_id: int, login: str, now_ns: int) -> None:
        """Give the UID to this grant; raises when another grant has it or has left something of it behind."""
        taken = db.execute(
            "INSERT INTO uids (uid,grant_id,login,state,since_ns) VALUES (?,?,?,'reserved',?) ON CONFLICT (uid) DO UPDATE"
            " SET grant_id=excluded.grant_id, login=excluded.login, state='reserved', since_ns=excluded.since_ns"
            " WHERE uids.grant_id=excluded.grant_id OR (uids.state='tombstone' AND uids.residue=0)",
            (uid, grant_id, login, now_ns),
        )
        if taken.rowcount != 1:
            raise JournalError("uid_spoken_for", f"uid {uid} is another grant's, or something of it is left")
        self._db.set_meta("last_uid", str(uid))

    def _grants(self, where: str, parameters: tuple[object, ...] = ()) -> list[GrantRecord]:
        rows = self._db.rows(f"SELECT * FROM grants WHERE {where}", parameters)  # noqa: S608  # where is ours, values are bound
        return [self._record(row) for row in rows]

    def _record(self, row: sqlite3.Row) -> GrantRecord:
        uids = self._db.rows("SELECT login, uid FROM uids WHERE grant_id=?", (row["id"],))
        return record_of(row, {found["login"]: found["uid"] for found in uids})
