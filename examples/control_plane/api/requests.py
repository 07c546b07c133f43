"""Asking, approving, opening, extending, ending."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from examples.control_plane.api.problems import Handler, Problem
from examples.control_plane.outside import tickets
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.workflow import acts, certificates, decide, ending, leaving, rows
from examples.control_plane.workflow.model import Ask, Party, Request


def party(request: web.Request) -> Party:
    """Who asks."""
    return acts.party_of(request["person"])


async def ask(request: web.Request) -> web.Response:
    """POST /v1/requests."""
    plane, who, said = request.app[PLANE], party(request), request["body"]
    wanted = Ask(
        template=said["template"],
        hosts=tuple(said["hosts"]),
        duration_s=said["duration_s"],
        reason=said["reason"],
        ticket=said.get("ticket", ""),
        keys=tuple(said.get("keys", ())),
        source_address=tuple(said.get("source_address", ())),
        break_glass=said.get("break_glass", False),
    )
    if not wanted.break_glass:  # who breaks the glass does not wait for another system
        await tickets.check(plane, wanted.ticket, who.subject, wanted.template, wanted.hosts)
    return await _changed(plane, lambda db: acts.ask(plane, db, who, wanted), status=201)


async def extend(request: web.Request) -> web.Response:
    """POST /v1/requests/{request}/extend."""
    plane, who, said, ident = request.app[PLANE], party(request), request["body"], request["parameters"]["request"]
    old = await plane.read(lambda db: rows.request(db, ident))
    ticket = said.get("ticket", old.ticket)
    if not said.get("break_glass", False) and decide.own(old, who):
        await tickets.check(plane, ticket, who.subject, old.template, decide.restored(old.asked).hosts)

    def act(db: sqlite3.Connection) -> Request:
        glass = said.get("break_glass", False)
        return acts.extend(
            plane, db, who, ident, duration_s=said["duration_s"], reason=said["reason"], ticket=ticket, break_glass=glass
        )

    return await _changed(plane, act, status=201)


async def approve(request: web.Request) -> web.Response:
    """POST /v1/requests/{request}/approve."""
    plane, who, said, ident = request.app[PLANE], party(request), request["body"], request["parameters"]["request"]
    found = await plane.read(lambda db: rows.request(db, ident))
    await tickets.check(plane, found.ticket, found.subject, found.template, decide.restored(found.asked).hosts)
    return await _changed(plane, lambda db: acts.approve(plane, db, who, ident, said["digest"], said.get("comment", "")))


async def deny(request: web.Request) -> web.Response:
    """POST /v1/requests/{request}/deny."""
    plane, who, said, ident = request.app[PLANE], party(request), request["body"], request["parameters"]["request"]
    return await _changed(plane, lambda db: acts.deny(plane, db, who, ident, said["reason"]))


async def withdraw(request: web.Request) -> web.Response:
    """POST /v1/requests/{request}/withdraw."""
    plane, who, ident = request.app[PLANE], party(request), request["parameters"]["request"]
    return await _changed(plane, lambda db: acts.withdraw(plane, db, who, ident))


async def revoke(request: web.Request) -> web.Response:
    """POST /v1/requests/{request}/revoke."""
    plane, who, said, ident = request.app[PLANE], party(request), request["body"], request["parameters"]["request"]
    return await _changed(plane, lambda db: ending.revoke_request(plane, db, who, ident, said["reason"]))


async def revoke_grant(request: web.Request) -> web.Response:
    """POST /v1/grants/{jti}/revoke."""
    plane, who, said, jti = request.app[PLANE], party(request), request["body"], request["parameters"]["jti"]
    return web.json_response(
        await plane.write(lambda db: rows.grant_view(ending.revoke_grant(plane, db, who, jti, said["reason"])))
    )


async def revoke_subject(request: web.Request) -> web.Response:
    """POST /v1/revocations."""
    plane, who, said = request.app[PLANE], party(request), request["body"]
    ended = await plane.write(lambda db: leaving.end_all(plane, db, said["subject"], by=who.subject, reason=said["reason"]))
    return web.json_response(ended.view())


async def certify(request: web.Request) -> web.Response:
    """POST /v1/requests/{request}/certificate."""
    plane, who, said, ident = request.app[PLANE], party(request), request["body"], request["parameters"]["request"]
    return web.json_response(await plane.write(lambda db: certificates.issue(plane, db, who, ident, said["public_key"])))


async def get(request: web.Request) -> web.Response:
    """GET /v1/requests/{request}, which may wait for a change."""
    plane, who, asked = request.app[PLANE], party(request), request["parameters"]
    ident = asked["request"]

    def look(db: sqlite3.Connection) -> Mapping[str, Any]:
        found = rows.request(db, ident)
        if not (decide.own(found, who) or decide.sees_all(who, plane.settings.policy)):
            raise Problem("not_found", "there is no such request")  # as if it were not: ids are nobody else's business
        return rows.view(db, found)

    with plane.hub.listening(f"request:{ident}") as news:
        shown = await plane.read(look)
        if asked["wait"] and shown["version"] <= asked["version"] and not plane.ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), asked["wait"])
            shown = await plane.read(look)
    return web.json_response(shown)


async def _changed(plane: Plane, act: Callable[[sqlite3.Connection], Request], status: int = 200) -> web.Response:
    shown = await plane.write(lambda db: rows.view(db, act(db)))
    return web.json_response(shown, status=status)


HANDLERS: Mapping[str, Handler] = {
    "ask": ask,
    "extend": extend,
    "approve": approve,
    "deny": deny,
    "withdraw": withdraw,
    "revokeRequest": revoke,
    "revokeGrant": revoke_grant,
    "revokeSubject": revoke_subject,
    "certify": certify,
    "getRequest": get,
}
