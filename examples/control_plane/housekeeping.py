"""What happens by the clock: requests lapse and end, bulletins go out, what is old is forgotten, certificates are made anew."""

import asyncio
import logging
import sqlite3
from collections.abc import Mapping

from examples.control_plane.events.kinds import ROWS
from examples.control_plane.plane import Plane
from examples.control_plane.workflow import acts, ending

EVERY_S = 1.0
FORGET_EVERY_S = 600.0
_MEDIUM = 3  # OCSF's severity_id
_log = logging.getLogger("tidegate.control_plane")


async def keep_house(plane: Plane) -> None:
    """For ever. What fails is told and tried again a second later."""
    loop = asyncio.get_running_loop()
    forget_at = loop.time()
    while True:
        try:
            await plane.write(lambda db: _tick(plane, db))
            if loop.time() >= forget_at:
                forget_at = loop.time() + FORGET_EVERY_S
                over = await plane.read(lambda db: over_bounds(plane, db))
                await plane.write(lambda db, over=over: forget(plane, db, over))  # type: ignore[misc]  # the default binds it
        except Exception:  # whatever it was: bulletins must go on, and requests lapse
            _log.exception("housekeeping failed, and is tried again")
        await asyncio.sleep(EVERY_S)


def _tick(plane: Plane, db: sqlite3.Connection) -> None:
    acts.lapse(plane, db)
    ending.bulletins_due(plane, db)


def forget(plane: Plane, db: sqlite3.Connection, over: Mapping[tuple[str, str, str], int]) -> None:
    """Words that have expired; events and keys of records past their time, or ``over`` their bounds; used tokens."""
    now, keep = plane.now(), plane.settings.keep_events_s
    db.execute("DELETE FROM outbox WHERE expires_at <= ?", (now,))
    db.execute("DELETE FROM certificate WHERE not_after <= ?", (now - 86400,))
    db.execute("DELETE FROM enrolment_token WHERE expires_at <= ?", (now - keep,))
    db.execute("DELETE FROM event WHERE at_ms < ?", ((now - keep) * 1000,))
    db.execute("DELETE FROM record WHERE kind = 'event' AND at < ?", (now - keep,))
    for (table, number, condition), last in over.items():
        db.execute(f"DELETE FROM {table} WHERE {number} <= ? AND ({condition})", (last,))  # noqa: S608  # the code's own texts


# What a host or a stranger can cause as often as they like. It must never push out what people did: that has a bound of its own,
# and what is of medium severity or more (break-glass, revocations) goes by its age alone.
_REFUSALS = ", ".join(f"'{kind.value}'" for kind, row in ROWS.items() if not row.success)
_TOLD_BY_OTHERS = f"source <> '' OR kind IN ({_REFUSALS})"


_BOUNDED = (
    ("event", "id", _TOLD_BY_OTHERS),
    ("event", "id", f"NOT ({_TOLD_BY_OTHERS}) AND severity < {_MEDIUM}"),
    ("record", "rowid", "kind = 'event'"),
)


def over_bounds(plane: Plane, db: sqlite3.Connection) -> dict[tuple[str, str, str], int]:
    """Up to which row each kind of rows goes beyond ``caps.events_kept``. Over millions of rows it takes a second: read apart."""
    found = {}
    for table, number, condition in _BOUNDED:
        query = f"SELECT {number} FROM {table} WHERE {condition} ORDER BY {number} DESC LIMIT 1 OFFSET ?"  # noqa: S608  # as above
        row = db.execute(query, (plane.settings.caps.events_kept,)).fetchone()
        if row is not None:
            found[table, number, condition] = row[0]
    return found
