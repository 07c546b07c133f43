"""Lists: offers, requests, grants, reviews, events, keys."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from agent import VERSION
from examples.control_plane.api.problems import Handler
from examples.control_plane.api.requests import party
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.signing import keys as signing_keys
from examples.control_plane.signing import ssh
from examples.control_plane.workflow import decide, rows

_HEARTBEAT_S = 10.0
_WRITE_S = 30.0


async def offers(request: web.Request) -> web.Response:
    """GET /v1/offers."""
    plane, who = request.app[PLANE], party(request)

    def look(db: sqlite3.Connection) -> list[dict[str, Any]]:
        hosts = list(rows.hosts(db).values())
        return [
            {
                "template": template.name,
                "title": template.title,
                "hosts": [host.name for host in reached],
                "max_duration_s": rule.max_duration_s,
                "approvals": rule.approvals,
                "ticket_required": rule.ticket,
                "break_glass": rule.break_glass,
            }
            for template, rule, reached in decide.offers(who, plane.settings.policy, hosts)
        ]

    return web.json_response({"offers": await plane.read(look)})


async def list_requests(request: web.Request) -> web.Response:
    """GET /v1/requests."""
    plane, who, asked = request.app[PLANE], party(request), request["parameters"]
    everybodys = decide.sees_all(who, plane.settings.policy) and not asked["mine"]

    def look(db: sqlite3.Connection) -> list[Mapping[str, Any]]:
        query = (
            "SELECT * FROM request WHERE (:all OR subject = :subject) AND (:state = '' OR state = :state)"
            " AND (:before = '' OR number < (SELECT number FROM request WHERE id = :before)) ORDER BY number DESC LIMIT :limit"
        )
        values = {
            "all": everybodys,
            "subject": who.subject,
            "state": asked.get("state", ""),
            "before": asked.get("before", ""),
            "limit": asked["limit"],
        }
        return [rows.view(db, rows.from_row(db, row)) for row in db.execute(query, values)]

    return web.json_response({"requests": await plane.read(look)})


async def list_grants(request: web.Request) -> web.Response:
    """GET /v1/grants."""
    plane, who, asked = request.app[PLANE], party(request), request["parameters"]
    condition = (
        "(:all OR g.subject = :subject) AND (:host = '' OR g.host = :host)"
        " AND (NOT :live OR (g.exp > :now AND g.state IN ('sent', 'accepted', 'revoking')))"
    )
    values: dict[str, str | int] = {
        "all": decide.sees_all(who, plane.settings.policy),
        "subject": who.subject,
        "host": asked.get("host", ""),
        "live": asked["live"],
        "now": plane.now(),
    }
    found = await plane.read(lambda db: rows.grants_where(db, condition, values, limit=asked["limit"]))
    return web.json_response({"grants": [rows.grant_view(one) for one in found]})


async def list_reviews(request: web.Request) -> web.Response:
    """GET /v1/reviews."""
    query = "SELECT * FROM request WHERE review = 'open' ORDER BY number LIMIT 500"
    found = await request.app[PLANE].read(
        lambda db: [rows.view(db, rows.from_row(db, row)) for row in db.execute(query).fetchall()]
    )
    return web.json_response({"requests": found})


async def list_events(request: web.Request) -> web.Response:
    """GET /v1/events."""
    plane, asked = request.app[PLANE], request["parameters"]
    return web.json_response({"events": await plane.read(lambda db: events_after(db, asked["after"], asked["limit"]))})


async def follow_events(request: web.Request) -> web.StreamResponse:
    """GET /v1/events/stream: server-sent events."""
    plane, asked = request.app[PLANE], request["parameters"]
    last = asked.get("after")
    if last is None:
        last = await plane.read(lambda db: db.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0])
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError, TimeoutError), plane.hub.listening("events") as news:
        while not plane.ending.is_set() and await still_in(plane, request):
            news.clear()
            last = await _send_events(plane, response, last)
            try:
                await asyncio.wait_for(news.wait(), _HEARTBEAT_S)
            except TimeoutError:
                await asyncio.wait_for(response.write(b": alive\n\n"), _WRITE_S)
    return response


async def still_in(plane: Plane, request: web.Request) -> bool:
    """Whether the session of a long answer is still good."""
    bearer = request.headers.get("Authorization", "").partition(" ")[2].strip()
    person = await plane.run(plane.people.sessions.person, bearer, plane.clock())
    return person is not None and bool(person.roles & request["person"].roles)


async def _send_events(plane: Plane, response: web.StreamResponse, last: int) -> int:
    while found := await plane.read(lambda db, last=last: events_after(db, last, 200)):  # type: ignore[misc]  # the default binds it
        for one in found:
            last = one["id"]
            line = json.dumps(one, separators=(",", ":"))
            await asyncio.wait_for(response.write(f"id: {last}\nevent: event\ndata: {line}\n\n".encode()), _WRITE_S)
    return last


def events_after(db: sqlite3.Connection, after: int, limit: int) -> list[dict[str, Any]]:
    """Rows of the trail, oldest first."""
    query = (
        "SELECT e.id, e.ocsf, coalesce(h.name, 'control-plane') AS source FROM event e LEFT JOIN host h ON h.token = e.source"
        " WHERE e.id > ? ORDER BY e.id LIMIT ?"
    )
    return [
        {"id": row["id"], "source": row["source"], "ocsf": json.loads(row["ocsf"])} for row in db.execute(query, (after, limit))
    ]


async def keys(request: web.Request) -> web.Response:
    """GET /v1/keys."""
    plane = request.app[PLANE]
    found: dict[str, object] = {
        "issuer": plane.keys.issuer,
        "signing_keys": plane.keys.public_set(),
        "thumbprints": [plane.keys.thumbprint()],
        "ca_fingerprint": signing_keys.fingerprint(plane.keys.ca.certificate),
    }
    if plane.settings.ssh_certificates:
        line = ssh.public_line(plane.keys.ssh_ca)
        found |= {"ssh_user_ca": line, "ssh_user_ca_fingerprint": ssh.fingerprint(line)}
    return web.json_response(found)


async def health(request: web.Request) -> web.Response:
    """GET /v1/health: the database answers."""
    await request.app[PLANE].read(lambda db: db.execute("SELECT 1 FROM meta").fetchone())
    return web.json_response({"status": "ok", "version": VERSION})


HANDLERS: Mapping[str, Handler] = {
    "listOffers": offers,
    "listRequests": list_requests,
    "listGrants": list_grants,
    "listReviews": list_reviews,
    "listEvents": list_events,
    "followEvents": follow_events,
    "keys": keys,
    "health": health,
}
