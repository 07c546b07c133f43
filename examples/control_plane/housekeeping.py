"""What happens by the clock: requests lapse and end, bulletins go out, what is old is forgotten, certificates are made anew."""

import asyncio
import logging
import sqlite3

from examples.control_plane.plane import Plane
from examples.control_plane.workflow import acts, ending

EVERY_S = 1.0
FORGET_EVERY_S = 600.0
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
                await plane.write(lambda db: forget(plane, db))
        except (sqlite3.Error, OSError):
            _log.exception("housekeeping failed, and is tried again")
        await asyncio.sleep(EVERY_S)


def _tick(plane: Plane, db: sqlite3.Connection) -> None:
    acts.lapse(plane, db)
    ending.bulletins_due(plane, db)


def forget(plane: Plane, db: sqlite3.Connection) -> None:
    """Words that have expired; events and keys of records past their time, or over the bound; used tokens."""
    now, keep = plane.now(), plane.settings.keep_events_s
    db.execute("DELETE FROM outbox WHERE expires_at <= ?", (now,))
    db.execute("DELETE FROM certificate WHERE not_after <= ?", (now - 86400,))
    db.execute("DELETE FROM enrolment_token WHERE expires_at <= ?", (now - keep,))
    db.execute("DELETE FROM event WHERE at_ms < ?", ((now - keep) * 1000,))
    db.execute("DELETE FROM event WHERE id <= (SELECT max(id) FROM event) - ?", (plane.settings.caps.events_kept,))
    db.execute("DELETE FROM record WHERE kind = 'event' AND at < ?", (now - keep,))
