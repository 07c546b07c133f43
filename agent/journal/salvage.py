"""What can still be read of a damaged journal, or of a newer Tidegate's, row by row, and how it goes into a new one."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from agent.journal.records import EndCause

Row: TypeAlias = dict[str, object]
_IDS_TRIED = 100_000
_TABLES = ("meta", "grants", "steps", "notes", "uids", "receipts")
_EMPTY: dict[str, object] = {"INTEGER": 0, "BLOB": b""}  # by a column's type, where a row has none; text otherwise


@dataclass(slots=True)
class Salvaged:
    """Rows as they are in the file, by table. ``unread``: how many reads failed; 0 only when nothing is known to be missing."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {table: [] for table in _TABLES})
    unread: int = 0

    def live(self) -> list[Row]:
        """Grants that had not ended."""
        return [row for row in self.rows["grants"] if row.get("state") != "ended"]

    def last_uid(self) -> int:
        """The highest UID that is named anywhere in it."""
        noted = [row.get("value") for row in self.rows["meta"] if row.get("key") == "last_uid"]
        known = [row.get("uid") for row in self.rows["uids"]]
        numbers = [int(value) for value in noted if isinstance(value, str) and value.isdigit()]
        return max([0, *numbers, *(uid for uid in known if isinstance(uid, int))])


def read(path: Path) -> Salvaged:
    """Everything that the file still gives, at worst nothing. Never raises, and never writes to it."""
    found = Salvaged()
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            for table in ("meta", "uids", "receipts"):
                found.rows[table] = list(_all(db, found, f"SELECT * FROM {table}"))  # noqa: S608  # a constant
            for ident in sorted(_ids(db, found)):
                grant = list(_all(db, found, "SELECT * FROM grants WHERE id=?", ident))
                found.rows["grants"] += grant
                for table in ("steps", "notes") if grant else ():
                    sql = f"SELECT * FROM {table} WHERE grant_id=?"  # noqa: S608  # a constant
                    found.rows[table] += list(_all(db, found, sql, ident))
    except sqlite3.Error:
        found.unread += 1
    return found


def set_aside(path: Path, stamp: str) -> Path:
    """Rename the file, and what SQLite keeps beside it; returns its new name, or ``path`` when there is none. Raises OSError.

    ``stamp``: why and when, such as ``damaged-20261122T181500Z``.
    """
    aside = path.with_name(f"{path.name}.{stamp}")
    for suffix in ("-shm", "-wal", ""):  # the file itself last: a kill before that leaves it to be found damaged again
        with contextlib.suppress(FileNotFoundError):
            path.with_name(f"{path.name}{suffix}").rename(f"{aside}{suffix}")
    return aside if aside.exists() else path


def copy_into(db: sqlite3.Connection, salvaged: Salvaged, why: str) -> None:
    """Put the rows into a new journal, inside its transaction. A row that it would not take is left out.

    A grant that was live is to be ended, and says why; one that has no end on record can't be opened again either. A column that
    another version's row does not have is empty: better ended with a gap than not known.
    """
    for table in _TABLES:
        about = db.execute(f"PRAGMA table_info({table})").fetchall()
        columns = {str(row[1]) for row in about}
        needed = {str(row[1]): _EMPTY.get(row[2], "") for row in about if row[3] and row[4] is None and not row[5]}
        for row in salvaged.rows[table]:
            kept = needed | {name: value for name, value in row.items() if name in columns}
            if table == "grants":
                kept |= {name: _list(kept.get(name)) for name in ("logins", "not_containable")}
                kept["cause"] = kept.get("cause") if kept.get("cause") in set(EndCause) else None
                if kept.get("state") != "ended":
                    kept |= {"state": "shutting", "cause": "failed", "cause_text": why}
            names, marks = ",".join(kept), ",".join("?" * len(kept))
            with contextlib.suppress(sqlite3.Error):
                db.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", tuple(kept.values()))  # noqa: S608


def _list(value: object) -> str:
    """A JSON list, or an empty one: what can't be parsed would keep the whole journal from being loaded."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(value, str) and isinstance(json.loads(value), list):
            return value
    return "[]"


def _ids(db: sqlite3.Connection, found: Salvaged) -> set[int]:
    """Ids of grants, from both ends of the table and by its index: a bad page ends a walk, and seldom all of them."""
    ids: set[int] = set()
    for sql in (
        "SELECT id FROM grants ORDER BY id",
        "SELECT id FROM grants ORDER BY id DESC",
        "SELECT id FROM grants INDEXED BY grants_live WHERE state<>'ended'",
        "SELECT grant_id AS id FROM uids WHERE state='reserved'",
    ):
        ids |= {row["id"] for row in _all(db, found, f"{sql} LIMIT {_IDS_TRIED}") if isinstance(row["id"], int)}
    return ids


def _all(db: sqlite3.Connection, found: Salvaged, sql: str, *parameters: object) -> Iterator[Row]:
    try:
        for row in db.execute(sql, parameters):
            yield dict(row)
    except (sqlite3.Error, UnicodeDecodeError, OverflowError):
        found.unread += 1
