"""Hosts, enrolment tokens, reviews: for admins."""

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from examples.control_plane.api.problems import Handler, Problem
from examples.control_plane.api.requests import party
from examples.control_plane.events.kinds import Kind
from examples.control_plane.hosts import enrolment
from examples.control_plane.plane import PLANE, Hub
from examples.control_plane.signing import keys as signing_keys
from examples.control_plane.signing import ssh
from examples.control_plane.store import audit, touch
from examples.control_plane.workflow import acts, rows


async def list_hosts(request: web.Request) -> web.Response:
    """GET /v1/hosts."""
    plane = request.app[PLANE]
    query = f"{_HOSTS} ORDER BY h.name"
    found = await plane.read(lambda db: db.execute(query).fetchall())
    return web.json_response({"hosts": [_view(row, plane.hub) for row in found]})


async def get_host(request: web.Request) -> web.Response:
    """GET /v1/hosts/{host}."""
    plane, token = request.app[PLANE], request["parameters"]["host"]
    return web.json_response(_view(await plane.read(lambda db: _host(db, token)), plane.hub))


async def set_host(request: web.Request) -> web.Response:
    """PUT /v1/hosts/{host}."""
    plane, who, said, token = request.app[PLANE], party(request), request["body"], request["parameters"]["host"]

    def act(db: sqlite3.Connection) -> sqlite3.Row:
        row = _host(db, token)
        values = (
            json.dumps(said["labels"], sort_keys=True),
            said.get("address", row["address"]),
            int(said.get("bulletins", row["bulletins"])),
            token,
        )
        db.execute("UPDATE host SET labels = ?, address = ?, bulletins = ? WHERE token = ?", values)
        audit.note(db, Kind.HOST_CHANGED, actor=who.subject, detail={"entity": row["name"], **said})
        return _host(db, token)

    return web.json_response(_view(await plane.write(act), plane.hub))


async def expel(request: web.Request) -> web.Response:
    """POST /v1/hosts/{host}/expel."""
    plane, who, said, token = request.app[PLANE], party(request), request["body"], request["parameters"]["host"]

    def act(db: sqlite3.Connection) -> sqlite3.Row:
        row = _host(db, token)
        enrolment.expel(db, token)
        touch(db, f"host:{token}")
        audit.note(db, Kind.HOST_EXPELLED, actor=who.subject, reason=said["reason"], detail={"entity": row["name"]})
        return _host(db, token)

    return web.json_response(_view(await plane.write(act), plane.hub))


async def list_tokens(request: web.Request) -> web.Response:
    """GET /v1/enrolment-tokens."""
    plane = request.app[PLANE]
    query = "SELECT * FROM enrolment_token WHERE used_at IS NULL AND expires_at > ? ORDER BY created_at LIMIT 1000"
    found = await plane.read(lambda db: db.execute(query, (plane.now(),)).fetchall())
    return web.json_response({"tokens": [_token_view(row) for row in found]})


async def create_token(request: web.Request) -> web.Response:
    """POST /v1/enrolment-tokens."""
    plane, who, said = request.app[PLANE], party(request), request["body"]
    wanted = enrolment.Invitation(
        name=said["name"],
        address=said.get("address", ""),
        labels=said.get("labels", {}),
        bulletins=said.get("bulletins", True),
        lives_s=said.get("lives_s", 3600),
        replaces=said.get("replaces", False),
    )

    def act(db: sqlite3.Connection) -> tuple[sqlite3.Row, str]:
        ident, secret, _ = enrolment.invite(plane, db, who.subject, wanted)
        return db.execute("SELECT * FROM enrolment_token WHERE id = ?", (ident,)).fetchone(), secret

    row, secret = await plane.write(act)
    command = (
        f"tidegate enroll {plane.settings.hosts_listener.url} --token {secret}"
        f" --ca-fingerprint {signing_keys.fingerprint(plane.keys.ca.certificate)} --signing-key {plane.keys.thumbprint()}"
    )
    if plane.settings.ssh_certificates:
        command += f" --ssh-ca {ssh.fingerprint(ssh.public_line(plane.keys.ssh_ca))}"
    return web.json_response({**_token_view(row), "token": secret, "command": command}, status=201)


async def delete_token(request: web.Request) -> web.Response:
    """DELETE /v1/enrolment-tokens/{token}."""
    ident = request["parameters"]["token"]

    def act(db: sqlite3.Connection) -> None:
        if not db.execute("DELETE FROM enrolment_token WHERE id = ? AND used_at IS NULL", (ident,)).rowcount:
            raise Problem("not_found", "there is no such token, or it was used")

    await request.app[PLANE].write(act)
    return web.Response(status=204)


async def review(request: web.Request) -> web.Response:
    """POST /v1/reviews/{request}."""
    plane, who, said, ident = request.app[PLANE], party(request), request["body"], request["parameters"]["request"]
    shown = await plane.write(lambda db: rows.view(db, acts.review(db, who, ident, said["verdict"], said["comment"])))
    return web.json_response(shown)


_HOSTS = "SELECT h.*, (SELECT max(not_after) FROM certificate c WHERE c.host = h.token) AS certificate_ends FROM host h"


def _host(db: sqlite3.Connection, token: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute(f"{_HOSTS} WHERE h.token = ?", (token,)).fetchone()
    if row is None:
        raise Problem("not_found", "there is no such host")
    return row


def _view(row: sqlite3.Row, hub: Hub) -> dict[str, Any]:
    return {
        "host": row["token"],
        "host_id": row["host_id"],
        "name": row["name"],
        "address": row["address"],
        "labels": json.loads(row["labels"]),
        "hostname": row["hostname"],
        "version": row["version"],
        "state": row["state"],
        "enrolled_at": rows.rfc3339(row["enrolled_at"]),
        "seen_at": rows.maybe(row["seen_at"]),
        "certificate_ends_at": rows.rfc3339(row["certificate_ends"] or row["enrolled_at"]),
        "bulletins": bool(row["bulletins"]),
        "online": hub.listeners(f"outbox:{row['token']}") > 0,
    }


def _token_view(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "labels": json.loads(row["labels"]),
        "expires": rows.rfc3339(row["expires_at"]),
        "created_by": row["created_by"],
    }


HANDLERS: Mapping[str, Handler] = {
    "listHosts": list_hosts,
    "getHost": get_host,
    "setHost": set_host,
    "expelHost": expel,
    "listEnrolmentTokens": list_tokens,
    "createEnrolmentToken": create_token,
    "deleteEnrolmentToken": delete_token,
    "review": review,
}
