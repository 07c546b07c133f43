"""The people's section of openapi.yaml, over :class:`People`. Bodies are checked before they come here, roles and sessions too."""

import sqlite3
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TypeVar

from aiohttp import web
from cryptography.hazmat.primitives import serialization

from examples.control_plane.api.limits import Turns
from examples.control_plane.api.problems import Problem
from examples.control_plane.api.spec import bounded
from examples.control_plane.people import changing, local, offboarding
from examples.control_plane.people.errors import LoginRefusedError, ProviderError
from examples.control_plane.people.person import Person, by_id, everybody, rfc3339
from examples.control_plane.people.service import People
from examples.control_plane.people.sessions import Opened
from examples.control_plane.people.settings import public
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.workflow.leaving import end_all, end_unallowed

T = TypeVar("T")
_FORM_MAX = 20_000
_AT_ONCE, _WAITING = 4, 64  # logins, and logouts: of 16 threads, which revocations need too


def routes(people: People) -> list[web.RouteDef]:
    """The operations of openapi.yaml's first section."""
    handlers = _Handlers(people)
    return [
        web.get("/v1/login", handlers.methods),
        web.post("/v1/login/local", handlers.login_local),
        web.post("/v1/login/oidc", handlers.login_oidc),
        web.post("/v1/login/oidc/logout", handlers.back_channel_logout),
        web.delete("/v1/session", handlers.logout),
        web.get("/v1/me", handlers.me),
        web.get("/v1/ca", handlers.authority),
        web.get("/v1/people", handlers.everybody),
        web.post("/v1/people", handlers.add),
        web.post("/v1/people/{id}/offboard", handlers.offboard),
        web.post("/v1/people/{id}/restore", handlers.restore),
        web.get("/v1/people/{id}/roles", handlers.roles),
        web.put("/v1/people/{id}/roles", handlers.set_roles),
    ]


class _Waiting(Problem):
    """One that says when to try again."""

    def __init__(self, error: LoginRefusedError, wait_s: int) -> None:
        super().__init__(error.code, error.reason)
        self._wait_s = wait_s

    def response(self) -> web.Response:
        """As it is sent."""
        found = super().response()
        found.headers["Retry-After"] = str(self._wait_s)
        return found


class _Handlers:
    def __init__(self, people: People) -> None:
        self._people = people
        self._logins, self._logouts = Turns(_AT_ONCE, _WAITING), Turns(_AT_ONCE, _WAITING)

    async def methods(self, _: web.Request) -> web.Response:
        return web.json_response(public(self._people.settings))

    async def authority(self, request: web.Request) -> web.Response:
        return web.Response(text=_pem(request.app[PLANE]), content_type="application/x-pem-file")

    async def login_local(self, request: web.Request) -> web.Response:
        body, people = request["body"], self._people
        return await self._login(request, "local", lambda: people.login_local(body["name"], body["password"]), name=body["name"])

    async def login_oidc(self, request: web.Request) -> web.Response:
        body, people, plane = request["body"], self._people, request.app[PLANE]

        def leave(db: sqlite3.Connection, person: Person) -> None:
            if person.roles:
                end_unallowed(plane, db, person.subject, person.roles, by="", reason="a role is gone")
            else:
                end_all(plane, db, person.subject, by="", reason="no role is left")

        return await self._login(request, "oidc", lambda: people.login_oidc(body["id_token"], body.get("nonce"), leave))

    async def _login(
        self, request: web.Request, method: str, act: Callable[[], tuple[Opened, Person]], name: str = ""
    ) -> web.Response:
        plane = request.app[PLANE]
        try:
            async with self._logins.one():
                opened, person = await plane.run(act)
        except LoginRefusedError as error:
            await plane.run(self._people.refused, method, error, name)
            raise _problem(error) from error
        except ProviderError as error:
            raise Problem(error.code if error.code == "provider_unreachable" else "provider_failed", error.reason) from error
        view = {"session": opened.bearer, "expires": rfc3339(opened.expires), "person": person.view()}
        return web.json_response(view, headers={"Cache-Control": "no-store"})

    async def back_channel_logout(self, request: web.Request) -> web.Response:
        try:
            form = _form(await bounded(request, _FORM_MAX))
        except Problem as caught:  # Back-Channel Logout 1.0, section 2.8: 400 for whatever is no such request
            raise Problem("request_malformed", caught.detail) from caught
        async with self._logouts.one():
            await self._acting(request, lambda: self._people.logged_out(form.get("logout_token", "")))
        return web.Response(status=200, headers={"Cache-Control": "no-store"})

    async def logout(self, request: web.Request) -> web.Response:
        bearer = request.headers.get("Authorization", "").partition(" ")[2].strip()
        await request.app[PLANE].run(self._people.logout, bearer, request["person"])
        return web.Response(status=204)

    async def me(self, request: web.Request) -> web.Response:
        return web.json_response(_me(request).view())

    async def everybody(self, request: web.Request) -> web.Response:
        found = await request.app[PLANE].read(everybody)
        return web.json_response({"people": [person.view() for person in found]})

    async def add(self, request: web.Request) -> web.Response:
        body, people = request["body"], self._people
        password = local.new_password()
        by = _me(request).subject

        def act() -> Person:
            return changing.add_local(people, body["name"], body.get("full_name", ""), frozenset(body["roles"]), password, by)

        person = await self._acting(request, act)
        return web.json_response({"person": person.view(), "password": password}, status=201, headers={"Cache-Control": "no-store"})

    async def offboard(self, request: web.Request) -> web.Response:
        plane, by, reason = request.app[PLANE], _me(request).subject, request["body"]["reason"]

        def act() -> Mapping[str, object]:
            found = offboarding.offboard(
                self._people, _ident(request), by, reason, lambda db, subject: end_all(plane, db, subject, by=by, reason=reason)
            )
            return found.ended.view()

        ended = await self._acting(request, act)
        plane.wake()
        return web.json_response(ended)

    async def restore(self, request: web.Request) -> web.Response:
        by, reason = _me(request).subject, request["body"]["reason"]
        person = await self._acting(request, lambda: offboarding.restore(self._people, _ident(request), by, reason))
        return web.json_response(person.view())

    async def roles(self, request: web.Request) -> web.Response:
        person = await request.app[PLANE].read(lambda db: by_id(db, _ident(request)))
        if person is None:
            raise Problem("not_found", f"there is no person {_ident(request)}")
        return web.json_response({"roles": sorted(person.roles)})

    async def set_roles(self, request: web.Request) -> web.Response:
        plane, by, roles = request.app[PLANE], _me(request).subject, frozenset(request["body"]["roles"])

        def leave(db: sqlite3.Connection, person: Person) -> None:
            if person.roles:
                end_unallowed(plane, db, person.subject, person.roles, by=by, reason="a role was taken")
            else:
                end_all(plane, db, person.subject, by=by, reason="the last role was taken")

        person = await self._acting(request, lambda: changing.change_roles(self._people, _ident(request), roles, by, leave))
        return web.json_response({"roles": sorted(person.roles)})

    async def _acting(self, request: web.Request, act: Callable[[], T]) -> T:
        try:
            return await request.app[PLANE].run(act)
        except LoginRefusedError as error:
            raise _problem(error) from error
        except ProviderError as error:
            raise Problem("provider_failed", error.reason) from error


def _problem(error: LoginRefusedError) -> Problem:
    return Problem(error.code, error.reason) if error.retry_after_s is None else _Waiting(error, error.retry_after_s)


def _me(request: web.Request) -> Person:
    found = request["person"]
    assert isinstance(found, Person)  # noqa: S101  # for the type checker; the middleware put it there
    return found


def _pem(plane: Plane) -> str:
    return plane.keys.ca.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def _ident(request: web.Request) -> int:
    return int(request.match_info["id"])


def _form(body: bytes) -> dict[str, str]:
    try:
        return dict(urllib.parse.parse_qsl(body.decode("ascii"), max_num_fields=8))
    except ValueError as error:
        raise Problem("request_malformed", "the body is no form") from error
