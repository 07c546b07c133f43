"""The listener for hosts: routes, and what comes in as plain values. One way in needs no client certificate: enrolment."""

import json

from aiohttp import web

from agent.model.text import one_line
from agent.sessions.recording.catalogue import IDENT
from examples.control_plane.api.limits import Limiter
from examples.control_plane.api.problems import Problem, problems
from examples.control_plane.api.spec import bounded
from examples.control_plane.events.kinds import Kind
from examples.control_plane.hosts import enrolment, records, stream
from examples.control_plane.hosts.identity import caller
from examples.control_plane.hosts.taking import Taking
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.recordings.taking import PIECE_MAX
from examples.control_plane.store import audit

ENROL_MAX = 32 * 1024
TRIES, TRIES_PER_S = 120, 60.0  # of one address: a site behind one may enrol many
_TAKING = web.AppKey("taking", Taking)
_LIMITER = web.AppKey("limiter", Limiter)


def application(plane: Plane, taking: Taking) -> web.Application:
    """The whole API for hosts."""
    app = web.Application(middlewares=[problems], client_max_size=records.BATCH_MAX + 1024)
    app[PLANE], app[_TAKING], app[_LIMITER] = plane, taking, Limiter(TRIES, TRIES_PER_S)
    app.add_routes(
        [
            web.post("/v1/enroll", enrol),
            web.post("/v1/host/renew", renew),
            web.get("/v1/host/stream", stream.follow, allow_head=False),
            web.get("/v1/host/tokens", stream.ask, allow_head=False),
            web.post("/v1/host/records", take_records),
            web.get("/v1/host/recordings/{id}", recording_size, allow_head=False),
            web.put("/v1/host/recordings/{id}", take_recording),
        ]
    )
    return app


async def enrol(request: web.Request) -> web.Response:
    """POST /v1/enroll."""
    plane = request.app[PLANE]
    if not request.app[_LIMITER].take(request.remote or ""):
        raise Problem("rate_limited", "too many tries from this address")
    body = await _object(request, ENROL_MAX)
    texts = {name: body.get(name) for name in ("token", "host_id", "csr", "hostname", "version", "proof")}
    key = body.get("host_key")
    for name, value in texts.items():
        if not isinstance(value, str) or not 1 <= len(value) <= 16_384 or any("\ud800" <= one <= "\udfff" for one in value):
            raise Problem("body_invalid", "must be a text", field=name)
    if not isinstance(key, dict):
        raise Problem("body_invalid", "must be a public JWK", field="host_key")
    said = enrolment.Enrolment(
        token=str(texts["token"]),
        host_id=str(texts["host_id"]),
        host_key=key,
        csr=str(texts["csr"]),
        hostname=one_line(str(texts["hostname"]), 253),
        version=one_line(str(texts["version"]), 100),
        proof=str(texts["proof"]),
    )
    try:
        answer = await plane.write(lambda db: enrolment.enrol(plane, db, said))
    except Problem as refused:
        detail = {"entity": said.hostname, "from": request.remote}
        why = (refused.code, refused.detail)
        await plane.write(lambda db: audit.note(db, Kind.HOST_REFUSED, code=why[0], reason=why[1], detail=detail, ok=False))
        raise
    return web.json_response(answer)


async def renew(request: web.Request) -> web.Response:
    """POST /v1/host/renew."""
    plane = request.app[PLANE]
    host = await caller(plane, request)
    csr = (await _object(request, ENROL_MAX)).get("csr")
    if not isinstance(csr, str):
        raise Problem("body_invalid", "must be a text", field="csr")
    return web.json_response(await plane.write(lambda db: enrolment.renew(plane, db, host, csr)))


async def take_records(request: web.Request) -> web.Response:
    """POST /v1/host/records."""
    plane = request.app[PLANE]
    host = await caller(plane, request)
    found, refused = records.parse(await bounded(request, records.BATCH_MAX))
    taken = await request.app[_TAKING].records(host, found)
    return web.json_response({"acked": taken["acked"], "refused": [*refused, *taken["refused"]]})


async def recording_size(request: web.Request) -> web.Response:
    """GET /v1/host/recordings/{id}."""
    plane = request.app[PLANE]
    host, ident = await caller(plane, request), _ident(request)
    found = await plane.read(lambda db: request.app[_TAKING].recordings.size(db, host.token, ident))
    return web.json_response({"size": found.size, "complete": found.complete})


async def take_recording(request: web.Request) -> web.Response:
    """PUT /v1/host/recordings/{id}?offset=N[&complete=true]."""
    plane = request.app[PLANE]
    host, ident = await caller(plane, request), _ident(request)
    offset, complete = request.query.get("offset", ""), request.query.get("complete", "false")
    if not offset.isascii() or not offset.isdigit() or len(offset) > 15:
        raise Problem("parameter_invalid", "must be a whole number", field="offset")
    if complete not in ("true", "false"):
        raise Problem("parameter_invalid", "must be true or false", field="complete")
    data = await bounded(request, PIECE_MAX)
    size = await request.app[_TAKING].piece(host, ident, int(offset), data, complete=complete == "true")
    return web.json_response({"size": size.size})


def _ident(request: web.Request) -> str:
    found = request.match_info["id"]
    if not IDENT.fullmatch(found):
        raise Problem("not_found", "that is no recording's id")
    return found


async def _object(request: web.Request, most: int) -> dict[str, object]:
    data = await bounded(request, most)
    try:
        found = json.loads(data, parse_constant=str)
    except (ValueError, RecursionError) as caught:
        raise Problem("body_invalid", "is no JSON") from caught
    if not isinstance(found, dict):
        raise Problem("body_invalid", "must be an object")
    return found
