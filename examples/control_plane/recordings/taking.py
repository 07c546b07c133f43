"""Recordings as they come: appended at the offset that is durable, synced, then told. The database's size is the truth."""

import os
import sqlite3
import threading
from dataclasses import dataclass, field
from pathlib import Path

from agent.sessions.recording import Block, Kind, Records
from agent.sessions.recording.format import described
from agent.sessions.recording.reader import CHUNK, frames
from examples.control_plane.api.problems import Problem
from examples.control_plane.hosts.identity import Caller
from examples.control_plane.plane import Plane
from examples.control_plane.store import touch

PIECE_MAX = 1 << 20
_META_WITHIN = 1 << 20  # a recording says whose it is in its first block
_LOCKS = 64
_FILE_BYTES = 4096  # what a recording costs beside its bytes: one without any takes a file and a row too


@dataclass(frozen=True, slots=True)
class Size:
    """What is durable of a recording."""

    size: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Recordings:
    """Files below ``folder``/HOST/ID.tgr. Names are checked by who calls: HOST is base64url, ID as the recorder makes them."""

    folder: Path
    locks: tuple[threading.Lock, ...] = field(default_factory=lambda: tuple(threading.Lock() for _ in range(_LOCKS)))

    def path(self, host: str, ident: str) -> Path:
        """Where it lies."""
        return self.folder / host / f"{ident}.tgr"

    def size(self, db: sqlite3.Connection, host: str, ident: str) -> Size:
        """What is durable; nothing of one that is not known."""
        row = db.execute("SELECT size, complete FROM recording WHERE host = ? AND id = ?", (host, ident)).fetchone()
        return Size(0, False) if row is None else Size(row["size"], bool(row["complete"]))

    def append(self, plane: Plane, caller: Caller, ident: str, offset: int, data: bytes, *, complete: bool) -> Size:
        """Add a piece. One that is complete takes no more.

        Raises:
            Problem: ``offset_mismatch`` (with ``size``), ``quota_exceeded``.
        """
        with self.locks[hash((caller.token, ident)) % _LOCKS]:
            with plane.store.read() as db:
                before = self.size(db, caller.token, ident)
                known = db.execute("SELECT 1 FROM recording WHERE host = ? AND id = ?", (caller.token, ident)).fetchone()
                used = db.execute("SELECT recording_bytes FROM host WHERE token = ?", (caller.token,)).fetchone()[0]
            if offset != before.size or (before.complete and data):
                raise Problem("offset_mismatch", f"{before.size} bytes are here", field="offset", extra={"size": before.size})
            added = len(data) + (0 if known else _FILE_BYTES)
            if used + added > plane.settings.caps.recording_bytes:
                raise Problem("quota_exceeded", "this host's recordings fill its quota here: an admin must look")
            path = self.path(caller.token, ident)
            _write(path, offset, data)
            after = Size(offset + len(data), complete or before.complete)
            owner = _owner(path) if offset < _META_WITHIN else None
            with plane.store.write() as db:
                _keep(db, caller.token, ident, after, plane.now(), added, owner)
            return after


def _write(path: Path, offset: int, data: bytes) -> None:
    """At ``offset``, whatever a crash has left behind it; on disk when this returns."""
    new = not path.parent.exists()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.ftruncate(descriptor, offset)
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    for folder in (path.parent, *([path.parent.parent] if new else [])):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _owner(path: Path) -> tuple[str, str, str] | None:
    """jti, subject and login, as the recording's META says; None while that is not there."""
    parser = Records()
    with path.open("rb") as file:
        while file.tell() < _META_WITHIN and (data := file.read(CHUNK)):
            for item in parser.feed(data):
                if not isinstance(item, Block):
                    return None
                for frame in frames(item):
                    meta = described(frame) if not hasattr(frame, "code") and frame.kind is Kind.META else {}
                    found = tuple(str(meta.get(name, ""))[:500] for name in ("jti", "sub", "login"))
                    return found[0], found[1], found[2]
    return None


def _keep(
    db: sqlite3.Connection, host: str, ident: str, size: Size, now: int, added: int, owner: tuple[str, str, str] | None
) -> None:
    db.execute(
        "INSERT INTO recording (host, id, size, complete, came_at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (host, id) DO UPDATE SET size = excluded.size, complete = excluded.complete",
        (host, ident, size.size, int(size.complete), now),
    )
    if owner is not None:
        db.execute("UPDATE recording SET jti = ?, subject = ?, login = ? WHERE host = ? AND id = ?", (*owner, host, ident))
    db.execute("UPDATE host SET recording_bytes = recording_bytes + ? WHERE token = ?", (added, host))
    touch(db, f"recording:{host}:{ident}")
