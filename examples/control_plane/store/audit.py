"""The trail: what happened, written in the transaction in which it happens."""

import json
import sqlite3
import time
from collections.abc import Mapping

from agent.model.text import one_line
from examples.control_plane.events import ocsf
from examples.control_plane.events.kinds import ROWS, Kind
from examples.control_plane.store.database import touch


def note(
    db: sqlite3.Connection,
    kind: Kind,
    *,
    actor: str = "",
    subject: str = "",
    request: str = "",
    ticket: str = "",
    reason: str = "",
    code: str = "",
    detail: Mapping[str, object] | None = None,
    ok: bool = True,
) -> None:
    """Add one event of the control plane's own.

    ``actor`` is the subject who did it ("" for the control plane itself), ``subject`` to whom. ``detail`` is JSON, never secret.
    """
    at_ms = int(time.time() * 1000)
    told = ocsf.Told(kind, at_ms, actor, subject, request, ticket, reason, code, dict(detail or {}), ok)
    cursor = db.execute(
        "INSERT INTO event (at_ms, source, kind, severity, request, ocsf) VALUES (?, '', ?, ?, ?, '')",
        (at_ms, kind.value, ROWS[kind].severity_of(ok), request),
    )
    number = cursor.lastrowid or 0
    db.execute("UPDATE event SET ocsf = ? WHERE id = ?", (_json(ocsf.event(told, number)), number))
    touch(db, "events")


def take(db: sqlite3.Connection, host: str, event: Mapping[str, object]) -> None:
    """Add one event of a host's, as it came; it was checked to be an object."""
    kind, severity = event.get("metadata"), event.get("severity_id")
    code = kind.get("event_code") if isinstance(kind, Mapping) else None
    db.execute(
        "INSERT INTO event (at_ms, source, kind, severity, ocsf) VALUES (?, ?, ?, ?, ?)",
        (
            int(time.time() * 1000),
            host,
            one_line(code, 100) if isinstance(code, str) else "unknown",
            severity if isinstance(severity, int) and 0 <= severity <= 99 else 0,
            _json(event),
        ),
    )
    touch(db, "events")


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))
