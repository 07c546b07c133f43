"""openapi.yaml, obeyed: every request is matched to its operation and checked against that operation's own schemas.

The server starts only if routes and operations are the same set, so the document can't say other than the code does.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from aiohttp import web
from jsonschema.exceptions import best_match
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from agent.errors import RefusedError
from agent.model.text import unseen
from agent.trust import strictjson
from examples.control_plane.api.problems import Problem

DOCUMENT = Path(__file__).parents[1] / "openapi.yaml"
BODY_MAX = 64 * 1024
BODY_S = 60.0
_BASE = "urn:tidegate:control-plane"
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
_METHODS = ("get", "put", "post", "delete", "patch")
_SECRETS = frozenset({"password"})  # whatever somebody likes; never shown


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of an operation's parameters. ``place``: path or query."""

    name: str
    place: str
    kind: str
    required: bool
    default: object
    check: jsonschema.Draft202012Validator


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. ``body`` None: it takes no JSON. ``roles``: any one of them is needed; empty: whoever is logged in."""

    ident: str
    method: str
    path: str
    public: bool
    roles: frozenset[str]
    limit: str
    parameters: tuple[Parameter, ...]
    body: jsonschema.Draft202012Validator | None
    form: bool


class Spec:
    """The document, read."""

    def __init__(self, path: Path = DOCUMENT) -> None:
        self.text = path.read_text(encoding="utf-8")
        self._document: dict[str, Any] = yaml.load(self.text, Loader=_LOADER)  # noqa: S506  # a safe one
        resource = DRAFT202012.create_resource(self._document)
        self._registry: Registry[Any] = Registry().with_resource(_BASE, resource)
        self.operations = {(one.method, one.path): one for one in self._operations()}

    def matching(self, request: web.Request) -> Operation | None:
        """The operation of a request that a route took."""
        resource = request.match_info.route.resource
        return None if resource is None else self.operations.get((request.method, resource.canonical))

    def check_routes(self, app: web.Application) -> None:
        """Raises ValueError when a route has no operation, or an operation no route."""
        routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
        odd = routes ^ set(self.operations)
        if odd:
            raise ValueError(f"openapi.yaml and the routes differ: {sorted(odd)}")

    def _operations(self) -> Iterator[Operation]:
        for path, item in self._document["paths"].items():
            for method in _METHODS:
                if method in item:
                    yield self._operation(path, method, item)

    def _operation(self, path: str, method: str, item: Mapping[str, Any]) -> Operation:
        found = item[method]
        here = f"#/paths/{_escaped(path)}"
        pointers = [f"{here}/parameters/{index}" for index in range(len(item.get("parameters", ())))]
        pointers += [f"{here}/{method}/parameters/{index}" for index in range(len(found.get("parameters", ())))]
        body, pointer = self._resolved(found.get("requestBody"), f"{here}/{method}/requestBody")
        content = (body or {}).get("content", {})
        checked = self._validator(f"{pointer}/content/application~1json/schema") if "application/json" in content else None
        return Operation(
            ident=found["operationId"],
            method=method.upper(),
            path=path,
            public=found.get("security") == [],
            roles=frozenset(found.get("x-roles", ())),
            limit=found.get("x-limit", ""),
            parameters=tuple(self._parameter(pointer) for pointer in pointers),
            body=checked,
            form="application/x-www-form-urlencoded" in content,
        )

    def _parameter(self, pointer: str) -> Parameter:
        found, place = self._resolved(self._at(pointer), pointer)
        schema, _ = self._resolved(found["schema"], f"{place}/schema")
        kind = schema.get("type", "string")
        check = self._validator(f"{place}/schema")
        return Parameter(found["name"], found["in"], kind, found.get("required", False), schema.get("default"), check)

    def _at(self, pointer: str) -> Any:  # noqa: ANN401  # a node of the document
        node: Any = self._document
        for part in pointer.removeprefix("#/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            node = node[int(name)] if isinstance(node, list) else node[name]
        return node

    def _resolved(self, node: Any, pointer: str) -> tuple[Any, str]:  # noqa: ANN401  # as above
        while isinstance(node, dict) and "$ref" in node:
            pointer = node["$ref"]
            node = self._at(pointer)
        return node, pointer

    def _validator(self, pointer: str) -> jsonschema.Draft202012Validator:
        return jsonschema.Draft202012Validator({"$ref": f"{_BASE}{pointer}"}, registry=self._registry)


def parameters(operation: Operation, request: web.Request) -> dict[str, Any]:
    """Path and query, typed, with defaults.

    Raises:
        Problem: ``parameter_invalid``; for one in the path ``not_found``.
    """
    found: dict[str, Any] = {}
    known = {one.name for one in operation.parameters if one.place == "query"}
    for name in request.query:
        if name not in known or len(request.query.getall(name)) != 1:
            raise Problem("parameter_invalid", "is unknown here, or there twice", field=name[:64])
    for one in operation.parameters:
        text = request.match_info.get(one.name) if one.place == "path" else request.query.get(one.name)
        if text is None:
            if one.default is not None:
                found[one.name] = one.default
            continue
        value: object = text
        if one.kind == "integer":
            value = int(text) if _INTEGER.fullmatch(text) else text
        elif one.kind == "boolean":
            value = {"true": True, "false": False}.get(text, text)
        if not one.check.is_valid(value):
            if one.place == "path":
                raise Problem("not_found", "there is nothing of that name")
            raise Problem("parameter_invalid", "is not as openapi.yaml has it", field=one.name)
        found[one.name] = value
    return found


async def body(operation: Operation, request: web.Request) -> dict[str, Any]:
    """The JSON object, checked; an empty one for an operation that takes none.

    Raises:
        Problem: ``media_type``, ``body_too_large``, ``body_invalid``.
    """
    if operation.body is None:
        return {}
    if request.content_type != "application/json":
        raise Problem("media_type", "must be application/json")
    data = await bounded(request, BODY_MAX)
    try:
        found = strictjson.parse_object(data)
    except RefusedError as refused:
        raise Problem("body_invalid", f"{refused.reason} [{refused.code}]") from refused
    error = best_match(operation.body.iter_errors(found))
    if error is not None:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
        raise Problem("body_invalid", _clean(error.message), field=_clean(where))
    _printable(found, "")
    return found


async def bounded(request: web.Request, most: int) -> bytes:
    """The body, of at most so many bytes. Raises Problem ``body_too_large``, ``body_too_slow``."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.content.iter_chunked(16 * 1024):
                data += chunk
                if len(data) > most:
                    raise Problem("body_too_large", f"at most {most} bytes are taken")
    except TimeoutError as caught:
        raise Problem("body_too_slow", f"a body comes within {BODY_S:.0f} s") from caught
    return bytes(data)


def _printable(value: object, where: str) -> None:
    if isinstance(value, str):
        secret = where.rpartition(".")[2] in _SECRETS
        if any(unseen(character) for character in value) and not (secret and not any("\ud800" <= one <= "\udfff" for one in value)):
            raise Problem("body_invalid", "has a character that is not printable", field=where)
    elif isinstance(value, Mapping):
        for name, member in value.items():
            _printable(name, where)
            _printable(member, f"{where}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _printable(member, f"{where}[{index}]")


def _clean(text: str) -> str:
    return "".join("?" if unseen(character) else character for character in text[:300])


def _escaped(path: str) -> str:
    return path.replace("~", "~0").replace("/", "~1")
