"""Which host speaks: by its client certificate alone, which must be one that was issued here and not taken back since."""

import re
import sqlite3
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from agent.courier.places import HOST_URI
from examples.control_plane.api.problems import Problem
from examples.control_plane.plane import Plane

_URI = re.compile(re.escape(HOST_URI) + r"([A-Za-z0-9_-]{43})")
_SEEN_EVERY_S = 30


@dataclass(frozen=True, slots=True)
class Caller:
    """A host that has proved who it is. ``serial``: of the certificate it came with; empty where a broker saw it."""

    token: str
    name: str
    host_id: str
    serial: str
    key: str
    record_bytes: int
    recording_bytes: int


async def caller(plane: Plane, request: web.Request) -> Caller:
    """The host at the other end.

    Raises:
        Problem: ``client_certificate``: none, another's, one that is not known here, or of a host that was expelled.
    """
    token, serial = _claimed(request)
    now = plane.now()

    def look(db: sqlite3.Connection) -> sqlite3.Row | None:
        query = (
            "SELECT h.* FROM certificate c JOIN host h ON h.token = c.host"
            " WHERE c.serial = ? AND c.host = ? AND c.not_after > ? AND h.state = 'enrolled'"
        )
        found: sqlite3.Row | None = db.execute(query, (serial, token, now)).fetchone()
        return found

    row = await plane.read(look)
    if row is None:
        raise Problem("client_certificate", "this certificate is not, or not any more, good here")
    return await _seen(plane, row, serial)


async def known(plane: Plane, token: str) -> Caller | None:
    """The enrolled host of that token, which a broker has let in by its certificate; None if there is none (any more)."""

    def look(db: sqlite3.Connection) -> sqlite3.Row | None:
        query = "SELECT * FROM host WHERE token = ? AND state = 'enrolled'"
        found: sqlite3.Row | None = db.execute(query, (token,)).fetchone()
        return found

    row = await plane.read(look)
    return None if row is None else await _seen(plane, row, "")


async def _seen(plane: Plane, row: sqlite3.Row, serial: str) -> Caller:
    token, now = str(row["token"]), plane.now()
    if row["seen_at"] is None or row["seen_at"] + _SEEN_EVERY_S <= now:
        await plane.write(lambda db: db.execute("UPDATE host SET seen_at = ? WHERE token = ?", (now, token)))
    return Caller(token, row["name"], row["host_id"], serial, row["host_key"], row["record_bytes"], row["recording_bytes"])


def _claimed(request: web.Request) -> tuple[str, str]:
    """Host token and serial of the certificate that TLS has verified."""
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    found = tls.getpeercert() if isinstance(tls, ssl.SSLObject | ssl.SSLSocket) else None
    if not isinstance(found, Mapping) or not found:
        raise Problem("client_certificate", "a client certificate is needed")
    names = found.get("subjectAltName")
    uris = [str(entry[1]) for entry in names if isinstance(entry, tuple) and entry[0] == "URI"] if isinstance(names, tuple) else []
    match = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    serial = found.get("serialNumber")
    if match is None or not isinstance(serial, str):
        raise Problem("client_certificate", "this certificate names no host")
    return match[1], serial.lower().lstrip("0")
