"""The database file: opened, migrated, written by one thread at a time, read by many.

Everything that belongs together is written in one transaction: a change of state, its row in the trail, the signed words that
follow from it. So a crash between any two steps leaves the whole of it or nothing, and what must still be sent is in the outbox.
"""

import contextlib
import contextvars
import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_MS = 5000
_IDLE_MAX = 8  # readers kept open

# Asked at the begin of each transaction, within it: who is served may be gone since they were let in. It raises, or all is well.
GUARD: contextvars.ContextVar[Callable[[sqlite3.Connection], None] | None] = contextvars.ContextVar("guard", default=None)


class DataLockedError(Exception):
    """Another process serves this folder."""


class _Writer(sqlite3.Connection):
    """A connection that remembers which topics the running transaction touches."""

    touched: set[str]


def touch(db: sqlite3.Connection, topic: str) -> None:
    """Say what this transaction changes (``outbox:HOST``, ``events``, ``request:ID``): who waits for it is woken by the commit."""
    if isinstance(db, _Writer):
        db.touched.add(topic)


class Store:
    """One folder's database. ``write`` and ``read`` may be used from any thread; never one ``write`` inside another."""

    def __init__(self, folder: Path, *extra_schemas: str) -> None:
        """Open, migrate, run ``extra_schemas`` (each with IF NOT EXISTS).

        Raises:
            DataLockedError: another process has it open.
            sqlite3.Error, OSError: it can't be opened.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / "state.db"
        self._lock_file = _locked(folder / "lock")
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._idle_lock = threading.Lock()
        self.listener: Callable[[frozenset[str]], None] = lambda _: None  # told what a commit touched, in the writer's thread
        self._writer = self._connect(_Writer)
        self._migrate(extra_schemas)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction; committed and on disk when the block ends well, else as if it had never been.

        Raises:
            Whatever :data:`GUARD` raises, before anything is done.
        """
        with self._lock:
            db = self._writer
            db.touched = set()
            db.execute("BEGIN IMMEDIATE")
            try:
                if (guard := GUARD.get()) is not None:
                    guard(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            touched = frozenset(db.touched)
        self.listener(touched)

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent look."""
        with self._idle_lock:
            db = self._idle.pop() if self._idle else None
        if db is None:
            db = self._connect(sqlite3.Connection)
            db.execute("PRAGMA query_only = ON")
        try:
            db.execute("BEGIN")
            yield db
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            with self._idle_lock:
                keep = len(self._idle) < _IDLE_MAX
                if keep:
                    self._idle.append(db)
            if not keep:
                db.close()

    def new_epoch(self) -> None:
        """Say that ids of tokens count anew: after a backup was put back, which knows less than hosts have seen."""
        with self.write() as db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'stream'", (secrets.token_hex(8),))
            # NATS keeps the order of ids by refusing what is not above the last: go on above all that can have been given. Ids
            # grow by less than one a millisecond, so the clock is above them.
            lift = int(time.time() * 1000)
            db.execute("UPDATE outbox SET id = -id - :lift", {"lift": lift})  # in two steps: no id meets another on its way
            db.execute("UPDATE outbox SET id = -id")
            db.execute("INSERT INTO sqlite_sequence SELECT 'outbox', 0 WHERE 'outbox' NOT IN (SELECT name FROM sqlite_sequence)")
            db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'outbox'", (lift,))

    def close(self) -> None:
        """Close the files. Nobody may be reading or writing any more."""
        with self._lock, self._idle_lock:
            for db in self._idle:
                db.close()
            self._idle = []
            self._writer.close()
            os.close(self._lock_file)

    def _connect(self, factory: type[sqlite3.Connection]) -> "_Writer":
        db = sqlite3.connect(
            self._path,
            factory=factory,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_MS / 1000,
            cached_statements=256,
        )
        db.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
            db.execute(f"PRAGMA {pragma}")
        return db  # type: ignore[return-value]  # readers are plain connections, and are used as such

    def _migrate(self, extra_schemas: tuple[str, ...]) -> None:
        done = self._writer.execute("PRAGMA user_version").fetchone()[0]
        for number, path in enumerate(sorted(MIGRATIONS.glob("[0-9]*.sql")), start=1):
            if number > done:
                script = path.read_text(encoding="utf-8")
                self._writer.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        for schema in extra_schemas:
            self._writer.executescript(schema)
        with self.write() as db:
            db.execute("INSERT OR IGNORE INTO meta (name, value) VALUES ('stream', ?)", (secrets.token_hex(8),))


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as caught:
        os.close(descriptor)
        raise DataLockedError(f"{path.parent} is served by another process") from caught
    return descriptor
