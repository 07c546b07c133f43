"""The listener for people: for every request who it is, whether they may, whether it is well formed; then one handler."""

import contextlib
import sqlite3
from collections.abc import Iterator

from aiohttp import web

from examples.control_plane.api import admin, looking, requests, watching
from examples.control_plane.api.limits import Limiter
from examples.control_plane.api.problems import Handler, Problem, problems
from examples.control_plane.api.spec import BODY_MAX, Operation, Spec, body, parameters
from examples.control_plane.people.person import Person
from examples.control_plane.people.routes import routes as people_routes
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.recordings.taking import Recordings
from examples.control_plane.store.database import GUARD

LOGINS, LOGINS_PER_S = 10, 60.0
_SPEC = web.AppKey("spec", Spec)
_LIMITER = web.AppKey("limiter", Limiter)


def application(plane: Plane, recordings: Recordings) -> web.Application:
    """The whole API for people. Raises ValueError when it is not what openapi.yaml says."""
    spec = Spec()
    app = web.Application(middlewares=[problems, _uncached, _checked], client_max_size=BODY_MAX)
    app[PLANE], app[_SPEC], app[_LIMITER] = plane, spec, Limiter(LOGINS, LOGINS_PER_S)
    app[watching.RECORDINGS] = recordings
    handlers = {**requests.HANDLERS, **looking.HANDLERS, **watching.HANDLERS, **admin.HANDLERS, "document": document}
    for operation in spec.operations.values():
        if operation.ident in handlers:
            app.router.add_route(operation.method, operation.path, handlers[operation.ident])
    for route in people_routes(plane.people):
        app.router.add_route(route.method, route.path, route.handler)  # one by one: web.get would answer HEAD too
    spec.check_routes(app)
    return app


async def document(request: web.Request) -> web.Response:
    """GET /openapi.yaml."""
    return web.Response(text=request.app[_SPEC].text, content_type="application/yaml")


@web.middleware
async def _uncached(request: web.Request, handler: Handler) -> web.StreamResponse:
    """No cache keeps what is answered well, unless its handler says otherwise."""
    response = await handler(request)
    if not response.prepared:
        response.headers.setdefault("Cache-Control", "no-store")
    return response


@web.middleware
async def _checked(request: web.Request, handler: Handler) -> web.StreamResponse:
    operation = request.app[_SPEC].matching(request)
    if operation is None:
        return await handler(request)  # aiohttp's own 404 or 405
    if operation.limit and not request.app[_LIMITER].take(f"{operation.limit} {request.remote}"):
        raise Problem("rate_limited", "too many tries from this address: wait a minute")
    person = None if operation.public else await _person(request, operation)
    if person is not None:
        request["person"] = person
    request["parameters"] = parameters(operation, request)
    request["body"] = await body(operation, request)
    with _acting(request, person):
        return await handler(request)


@contextlib.contextmanager
def _acting(request: web.Request, person: Person | None) -> Iterator[None]:
    """Whatever is written meanwhile is written only while the person may still act.

    A body takes its time, and so does another system that is asked: who is let in here may be offboarded before the transaction.
    """
    plane, bearer = request.app[PLANE], _bearer(request)

    def still(db: sqlite3.Connection) -> None:
        if person is None:
            return
        found = plane.people.sessions.holder(db, bearer, plane.clock())
        if found is None:
            raise Problem("session_invalid", "this session is over: log in again")
        if not person.roles <= found.roles:
            raise Problem("role_missing", "your roles have changed meanwhile: look again at what you may do")

    token = GUARD.set(still)
    try:
        yield
    finally:
        GUARD.reset(token)  # the next request over this connection may be another's


def _bearer(request: web.Request) -> str:
    return request.headers.get("Authorization", "").partition(" ")[2].strip()


async def _person(request: web.Request, operation: Operation) -> Person:
    plane = request.app[PLANE]
    scheme, bearer = request.headers.get("Authorization", "").partition(" ")[0], _bearer(request)
    if scheme.lower() != "bearer" or not bearer:
        raise Problem("session_missing", "log in first")
    person = await plane.run(plane.people.sessions.person, bearer, plane.clock())
    if person is None:
        raise Problem("session_invalid", "this session is over: log in again")
    if operation.roles and not operation.roles & person.roles:
        raise Problem("role_missing", f"it is for {' or '.join(sorted(operation.roles))}")
    return person
