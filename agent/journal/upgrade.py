"""A journal's tables as today's schema has them: made in an empty file, or an older one's brought up, whole or not at all.

A copy of the older one is kept first (``state.db.~1~``; one, the latest). Then every table is made anew and filled, in one
transaction: a kill at any moment leaves the old journal or the new one, and what is live in it is the same.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent.errors import JournalError
from agent.host.files import TEMPORARY, opened_folder

# 2: several shapes had gone by the number 1. From here on every change of schema.sql has a number of its own.
SCHEMA_VERSION = 2

# Beside those of schema.sql: each for what is looked for with every grant, in a table with a row for every grant of months.
INDEXES = (
    "CREATE INDEX IF NOT EXISTS uids_of_grant ON uids (grant_id)",
    "CREATE INDEX IF NOT EXISTS grants_jti ON grants (jti)",
    "CREATE INDEX IF NOT EXISTS receipts_of_grant ON receipts (grant_id)",
    "CREATE INDEX IF NOT EXISTS receipts_unshipped ON receipts (issued_ns) WHERE shipped=0",
)

# What a row that lacks a column has there, where the schema says no default. A grant that was signed nobody knows when counts as
# signed before any revocation of its subject.
_FILLED = {("grants", "iat"): "0", ("grants", "not_containable"): "'[]'"}


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's number; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def bring_up(connection: sqlite3.Connection, path: Path | None) -> None:
    """To today's schema. Foreign keys are not yet enforced on the connection. ``path`` None: in memory, so that no copy is kept.

    Raises:
        JournalError: ``journal_newer``: a newer Tidegate wrote it, and nothing was changed.
        sqlite3.Error, OSError: it could not be done, and nothing was changed.
    """
    refuse_newer(connection, path)
    if version_of(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_of(connection)  # another process may have done it meanwhile
        if version < SCHEMA_VERSION:
            if version and path is not None:
                _keep_copy(path, version)
            _rebuild(connection)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def index(connection: sqlite3.Connection) -> None:
    """Make :data:`INDEXES` where a journal of today's schema has not all of them yet.

    No row says anything else by it, so it has no number: an older Tidegate reads that journal, and keeps them up. A full disk goes
    without, and finds the same rows more slowly.
    """
    for statement in INDEXES:
        with contextlib.suppress(sqlite3.Error):
            connection.execute(statement)


def refuse_newer(connection: sqlite3.Connection, path: Path | None) -> None:
    """Raise JournalError ``journal_newer``."""
    version = version_of(connection)
    if version > SCHEMA_VERSION:
        raise JournalError("journal_newer", f"{path} was written by a newer Tidegate (schema {version})")


def _rebuild(connection: sqlite3.Connection) -> None:
    tables = _names(connection, "table")
    for index in _names(connection, "index"):
        connection.execute(f"DROP INDEX {index}")
    for table in tables:
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in _statements():
        connection.execute(statement)
    for table in tables:
        known, had = _columns(connection, table), _columns(connection, f"old_{table}")
        if not known:
            raise JournalError("journal_unreadable", f"the older journal has a table {table}, which no version had")
        values = {column: column if column in had else _FILLED.get((table, column)) for column in known}
        given = {column: value for column, value in values.items() if value is not None}
        columns, selected = ",".join(given), ",".join(given.values())
        connection.execute(f"INSERT INTO {table} ({columns}) SELECT {selected} FROM old_{table}")  # noqa: S608  # names of ours
        connection.execute("DELETE FROM sqlite_sequence WHERE name=?", (table,))
        connection.execute("UPDATE sqlite_sequence SET name=? WHERE name=?", (table, f"old_{table}"))
    for table in tables:
        connection.execute(f"DROP TABLE old_{table}")
    for statement in INDEXES:
        connection.execute(statement)


def _names(connection: sqlite3.Connection, kind: str) -> list[str]:
    """Those that somebody made: not SQLite's own."""
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type=? AND name NOT LIKE 'sqlite_%'", (kind,)).fetchall()
    return [str(row[0]) for row in rows]


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]


def _statements() -> Iterator[str]:
    """Those of schema.sql, one by one: sqlite3's executescript would end the transaction that they are to be in."""
    statement = ""
    for line in (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _keep_copy(path: Path, version: int) -> None:
    """As it is, synced, under a name of its own; those of other versions go. Nobody writes meanwhile: the lock is held."""
    half, copy = path.with_name(f"{TEMPORARY}{path.name}.copy"), path.with_name(f"{path.name}.~{version}~")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(half)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        os.fsync(descriptor)
        half.rename(copy)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    for other in path.parent.glob(f"{path.name}.~*~"):
        if other != copy:
            other.unlink()
    with opened_folder(path.parent) as folder:
        os.fsync(folder)
