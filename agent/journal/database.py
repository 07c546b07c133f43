"""The SQLite file under the journal: opened once, one transaction at a time, every commit on disk before it returns."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from agent.errors import JournalError

SCHEMA_VERSION = 1
_BUSY_MS = 2000

# What sqlite3 raises for a disk that says no, for an integer over 64 bits, and for text that is no UTF-8.
_UNWRITABLE = (sqlite3.Error, OverflowError, UnicodeEncodeError)


class Database:
    """A connection shared by the daemon's threads under one lock.

    WAL with ``synchronous=FULL``: one fsync a commit, and a reader (the command line) never holds up a writer.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._connection = _open_read_only(path) if read_only else _open(path)
        except (sqlite3.Error, OSError) as error:
            raise JournalError("journal_unreadable", f"{path}: {error}") from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One atomic, durable change; nested calls join the outer one. Raises JournalError, having changed nothing."""
        with self._lock:
            try:
                if self._depth == 0:
                    self._roll_back()  # what a failed rollback left open: without this no later transaction could begin
                    self._connection.execute("BEGIN IMMEDIATE")
                self._depth += 1
                try:
                    yield self._connection
                finally:
                    self._depth -= 1
                if self._depth == 0:
                    self._connection.execute("COMMIT")
            except _UNWRITABLE as error:
                raise JournalError("journal_failed", str(error)) from error
            finally:
                if self._depth == 0:
                    self._roll_back()

    def rows(self, sql: str, parameters: tuple[object, ...] = ()) -> list[sqlite3.Row]:
        """A read."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except _UNWRITABLE as error:
                raise JournalError("journal_failed", str(error)) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _roll_back(self) -> None:
        """End what is still open: an error in the body, or a failed COMMIT (a full disk), leaves the transaction standing.

        SQLite has rolled back by itself after some errors (SQLITE_FULL, SQLITE_IOERR); a second ROLLBACK would only hide why.
        """
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        _bring_up(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise JournalError("journal_newer", f"{path} was written by a newer Tidegate (schema {version})")
    if version < SCHEMA_VERSION:
        script = (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8")
        connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version={SCHEMA_VERSION};\nCOMMIT;")


def _open_read_only(path: Path) -> sqlite3.Connection:
    wal = path.with_name(f"{path.name}-wal")
    if wal.is_file() and wal.stat().st_size:
        connection = _copy(path, wal)
    else:
        # immutable: no lock, no -shm file is made, nothing on disk changes.
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    return connection


def _copy(path: Path, wal: Path) -> sqlite3.Connection:
    """In memory, what a daemon that was killed has left: its latest entries are in the WAL, which reading in place would move."""
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    with tempfile.TemporaryDirectory() as folder:  # mode 0700
        for file in (path, wal):
            shutil.copyfile(file, Path(folder) / file.name)
        with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as whole:
            whole.backup(memory)
    memory.execute("PRAGMA query_only=ON")
    return memory
