"""The journal's sentences: each method is one thing that happened, durable when it returns.

What is journaled here is enough to undo everything with nothing else at hand: recovery replays steps and never plans anew.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from agent.errors import JournalError, UntrustedError
from agent.host.clock import Mark
from agent.journal.database import Database
from agent.journal.records import (
    EndCause,
    GrantRecord,
    GrantState,
    JournaledStep,
    Refusal,
    StepState,
    cause_of,
    mark_of,
    step_of,
    texts_of,
)
from agent.model import Grant, Json, Plan, Step
from agent.model.text import one_line

_REFUSALS_KEPT = 100
_USED_KEPT_S = 7 * 86400


class Journal:
    """The write-ahead journal of one host. Thread-safe; every method raises JournalError when the disk says no."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._db = Database(path, read_only=read_only)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # Taking a grant in

    def refuse_replay(self, grant: Grant) -> None:
        """Raise UntrustedError ``jti_replayed`` when this issuer's token id was ever taken, or may have been and is forgotten."""
        if self._db.rows("SELECT 1 FROM grants WHERE iss=? AND jti=?", (grant.iss, grant.jti)):
            raise UntrustedError("jti_replayed", "this token id was used before; sign a new grant", field="jti")
        if grant.exp <= self._meta_int("forgotten_through"):
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
    ) -> GrantRecord:
        """Note an accepted grant; from here on its jti is used. With a plan it is OPENING, its steps intended; else PENDING.

        The first of all that are live forgets the clock's mark: years ahead once, it would cut short every grant at a reboot.
        """
        logins = json.dumps(sorted({want.identifier for want in grant.wants}))
        with self._db.transaction() as db:
            db.execute("DELETE FROM meta WHERE key='mark' AND NOT EXISTS (SELECT 1 FROM grants WHERE state<>'ended')")
            cursor = db.execute(
                "INSERT INTO grants (jti,iss,sub,state,token,digest,nbf,exp,reason,ticket,summary,rule,logins,"
                "not_containable,received_ns,boot_id,boot_deadline_ns) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    *(grant.jti, grant.iss, grant.sub, GrantState.PENDING, token, grant.digest, grant.nbf, grant.exp),
                    *(grant.reason, grant.ticket, summary, rule, logins, json.dumps(not_containable), received_ns, *boot),
                ),
            )
            grant_id = int(cursor.lastrowid or 0)
            if plan is not None:
                self.intend(grant_id, plan, received_ns)
        return self.grant(grant_id)

    # Opening

    def intend(self, grant_id: int, plan: Plan, now_ns: int) -> None:
        """Write every step of the plan down before the first is done (and the UIDs with them)."""
        with self._db.transaction() as db:
            for login, uid in plan.uids.items():
                self._reserve(db, uid, grant_id, login, now_ns)
            self._move(db, grant_id, GrantState.PENDING, "state=?", GrantState.OPENING)
            db.executemany(
                "INSERT INTO steps (grant_id,seq,step,state) VALUES (?,?,?,?)",
                [(grant_id, seq, _dump(step), StepState.INTEND) for seq, step in enumerate(plan.steps)],
            )

    def opened(self, grant_id: int, now_ns: int) -> None:
        """Every step is done and access stands."""
        with self._db.transaction() as db:
            self._move(db, grant_id, GrantState.OPENING, "state=?, opened_ns=?", GrantState.OPEN, now_ns)
            db.execute("UPDATE steps SET state=? WHERE grant_id=?", (StepState.DONE, grant_id))

    def note(self, grant_id: int, name: str, value: Json) -> None:
        """Keep an observation about a grant (JSON) under a name; a later one of the same name replaces it."""
        with self._db.transaction() as db:
            db.execute("INSERT OR REPLACE INTO notes (grant_id,name,value) VALUES (?,?,?)", (grant_id, name, json.dumps(value)))

    def notes(self, grant_id: int) -> dict[str, Json]:
        """Every observation kept about a grant, by name. One that can't be read is left out: no end waits for it."""
        found: dict[str, Json] = {}
        for row in self._db.rows("SELECT name, value FROM notes WHERE grant_id=?", (grant_id,)):
            with contextlib.suppress(ValueError, RecursionError):
                found[row["name"]] = json.loads(row["value"])
        return found

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

    def ended(self, grant_id: int, now_ns: int, *, residue: int, receipt: tuple[str, str]) -> bool:
        """Nothing of the grant stands any more: UIDs become tombstones and the receipt ``(id, jws)`` is kept, together.

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
        return self._meta_int("last_uid")

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

    def forget_before(self, now_s: int, keep_s: int = 90 * 86400) -> int:
        """Drop grants that ended and expired more than ``keep_s`` ago; their token ids stay refused by expiry. Returns how many."""
        through = now_s - max(keep_s, _USED_KEPT_S)
        with self._db.transaction() as db:
            rows = db.execute("SELECT id, exp FROM grants WHERE state='ended' AND exp<?", (through,)).fetchall()
            if rows:
                forgotten = max(self._meta_int("forgotten_through"), *(row["exp"] for row in rows))
                self._set_meta(db, "forgotten_through", str(forgotten))
            for row in rows:
                db.execute("DELETE FROM steps WHERE grant_id=?", (row["id"],))
                db.execute("DELETE FROM notes WHERE grant_id=?", (row["id"],))
                db.execute("DELETE FROM receipts WHERE grant_id=?", (row["id"],))
                db.execute("DELETE FROM uids WHERE grant_id=? AND residue=0 AND state='tombstone'", (row["id"],))
                db.execute("DELETE FROM grants WHERE id=?", (row["id"],))
        return len(rows)

    def mark(self, mark: Mark) -> None:
        """Raise the high-water mark of the clock; while a grant is live it never goes back."""
        with self._db.transaction() as db:  # the look and the write are one, or a slower thread could set it back
            last = self.last_mark()
            if last is None or mark.wall_ns > last.wall_ns:
                self._set_meta(db, "mark", json.dumps([mark.wall_ns, mark.boot_id, mark.boot_ns]))

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

    def _meta_int(self, key: str) -> int:
        rows = self._db.rows("SELECT value FROM meta WHERE key=?", (key,))
        try:
            return int(rows[0]["value"]) if rows else 0
        except ValueError as error:
            raise JournalError("journal_damaged", f"the journal's {key} is no number") from error

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
        self._set_meta(db, "last_uid", str(uid))

    def _set_meta(self, db: sqlite3.Connection, key: str, value: str) -> None:
        db.execute("INSERT INTO meta (key,value) VALUES (?,?) ON CONFLICT (key) DO UPDATE SET value=excluded.value", (key, value))

    def _grants(self, where: str, parameters: tuple[object, ...] = ()) -> list[GrantRecord]:
        rows = self._db.rows(f"SELECT * FROM grants WHERE {where}", parameters)  # noqa: S608  # where is ours, values are bound
        return [self._record(row) for row in rows]

    def _record(self, row: sqlite3.Row) -> GrantRecord:
        uids = self._db.rows("SELECT login, uid FROM uids WHERE grant_id=?", (row["id"],))
        names = set(GrantRecord.__slots__) - {"uids", "logins", "not_containable", "state", "cause"}
        return GrantRecord(
            **{name: row[name] for name in names},
            state=GrantState(row["state"]),
            cause=cause_of(row["cause"]),
            uids={found["login"]: found["uid"] for found in uids},
            logins=texts_of(row["logins"]),
            not_containable=texts_of(row["not_containable"]),
        )


def _dump(step: Step) -> str:
    return json.dumps(step.to_json(), sort_keys=True, separators=(",", ":"))
