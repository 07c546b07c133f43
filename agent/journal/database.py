"""The SQLite file under the journal: opened once, one transaction at a time, every commit on disk before it returns."""

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from agent.errors import JournalError
from agent.journal.upgrade import SCHEMA_VERSION, bring_up, index, refuse_newer, version_of
from agent.model.text import one_line

_BUSY_MS = 2000
_CACHE_KIB = 512  # of the file, in memory: SQLite would take 2 MB; the kernel has it all the same

# What sqlite3 raises for a disk that says no, for an integer over 64 bits, and for text that is no UTF-8.
_UNWRITABLE = (sqlite3.Error, OverflowError, UnicodeEncodeError)


class Database:
    """A connection shared by the daemon's threads under one lock.

    WAL with ``synchronous=FULL``: one fsync a commit, and a reader (the command line) never holds up a writer.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False, busy_ms: int = _BUSY_MS) -> None:
        """``path`` None: in memory, and gone with the process."""
        self._lock = threading.RLock()
        self._depth = 0
        try:
            if path is None:
                self._connection = _in_memory()
            else:
                self._connection = _open_read_only(path) if read_only else _open(path, busy_ms)
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

    @contextlib.contextmanager
    def one_moment(self) -> Iterator[None]:
        """Reads in here see the file as of the first of them, whatever another process writes meanwhile. Raises JournalError."""
        with self._lock:
            if self._depth:
                yield  # of a transaction, which sees no other's anyway
                return
            try:
                self._roll_back()
                self._connection.execute("BEGIN")
                yield
            except _UNWRITABLE as error:
                raise JournalError("journal_failed", str(error)) from error
            finally:
                self._roll_back()

    def rows(self, sql: str, parameters: tuple[object, ...] = (), *, plain: bool = False) -> list[sqlite3.Row]:
        """A read. ``plain``: tuples, which are made and taken apart faster; as a row each has its columns in order only."""
        with self._lock:
            try:
                cursor = self._connection.cursor()
                if plain:
                    cursor.row_factory = None
                return cursor.execute(sql, parameters).fetchall()
            except _UNWRITABLE as error:
                raise JournalError("journal_failed", str(error)) from error

    def meta_int(self, key: str, *, damaged: int | None = None) -> int:
        """A number of the table ``meta``; 0 where there is none.

        Raises:
            JournalError: ``journal_damaged``: it is no number, and ``damaged`` does not say what to take it for.
        """
        rows = self.rows("SELECT value FROM meta WHERE key=?", (key,))
        try:
            return int(rows[0]["value"]) if rows else 0
        except ValueError as error:
            if damaged is not None:
                return damaged
            raise JournalError("journal_damaged", f"the journal's {key} is no number") from error

    def set_meta(self, key: str, value: str) -> None:
        """Put a value there; part of the transaction that is open, where one is."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta (key,value) VALUES (?,?)", (key, value))

    def check(self) -> None:
        """Look at every page (SQLite's quick_check). Raises JournalError ``journal_damaged``."""
        try:
            said = [str(row[0]) for row in self.rows("PRAGMA quick_check(1)")]
        except JournalError as error:
            raise JournalError("journal_damaged", error.reason) from error
        if said != ["ok"]:
            raise JournalError("journal_damaged", one_line(" ".join(" ".join(said).split()), 300))

    def in_memory(self) -> "Database":
        """A copy that can be written to, and is gone with the process."""
        copy = Database(None)
        try:
            self._connection.backup(copy._connection)
        except sqlite3.Error as error:
            raise JournalError("journal_damaged", str(error)) from error
        return copy

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


def _in_memory() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    bring_up(connection, None)
    return connection


def _open(path: Path, busy_ms: int) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _make(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_ms / 1000)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        bring_up(connection, path)
        connection.execute("PRAGMA foreign_keys=ON")
        index(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """For root alone. One that is there is not opened: closing it would let go of all locks that this process has on it (fcntl(2)).

    A connection of ours would then count for nobody: whoever closes theirs takes the WAL away under it, and the file is damaged.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def _open_read_only(path: Path) -> sqlite3.Connection:
    wal = path.with_name(f"{path.name}-wal")
    if wal.is_file() and wal.stat().st_size:
        connection = _copy(path, wal)
    else:
        # immutable: no lock, no -shm file is made, nothing on disk changes.
        connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
        if version_of(connection) < SCHEMA_VERSION:
            memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            connection.backup(memory)
            connection.close()
            connection = memory
    refuse_newer(connection, path)
    bring_up(connection, None)  # in memory where it is an older one's
    connection.execute("PRAGMA query_only=ON")
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
    return memory
