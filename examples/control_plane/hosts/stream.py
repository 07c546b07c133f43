"""Signed words to hosts: server-sent events, or by asking now and then. Whatever is in the outbox and not expired is sent."""

import asyncio
import contextlib
import time

from aiohttp import web

from examples.control_plane.api.problems import Problem
from examples.control_plane.hosts.identity import Caller, caller
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.workflow import outbox

HEARTBEAT_S = 10.0
WAIT_MAX_S = 30
ID_MAX = (1 << 63) - 1
_WRITE_S = 30.0  # one that does not read is hung up on


async def follow(request: web.Request) -> web.StreamResponse:
    """GET /v1/host/stream: text/event-stream, from behind Last-Event-ID on."""
    plane = request.app[PLANE]
    host = await caller(plane, request)
    last = _number(request.headers.get("Last-Event-ID", "0"), "Last-Event-ID")
    epoch = await plane.read(outbox.stream)
    if request.headers.get("Tidegate-Stream", epoch) != epoch:
        last = 0  # the number is of another numbering
    headers = {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "Tidegate-Stream": epoch,
    }
    response = web.StreamResponse(headers=headers)
    with plane.hub.listening(f"outbox:{host.token}", f"host:{host.token}") as news:
        if plane.hub.listeners(f"outbox:{host.token}") > 4:
            raise Problem("busy", "this host has several streams open already")
        await response.prepare(request)
        await response.write(b": tidegate\n\n")
        with contextlib.suppress(ConnectionError, TimeoutError):
            await _send(plane, host, response, news, last)
    return response


async def _send(plane: Plane, host: Caller, response: web.StreamResponse, news: asyncio.Event, last: int) -> None:
    while not plane.ending.is_set():
        news.clear()
        if not await _still_welcome(plane, host):
            return
        words = await plane.read(lambda db, last=last: outbox.after(db, host.token, last, plane.now()))  # type: ignore[misc]  # the default binds it
        for word in words:
            event = f"id: {word.ident}\nevent: token\ndata: {word.token}\n\n".encode("ascii")
            await asyncio.wait_for(response.write(event), _WRITE_S)
            last = word.ident
        if len(words) >= outbox.BATCH_MAX:
            continue
        try:
            await asyncio.wait_for(news.wait(), HEARTBEAT_S)
        except TimeoutError:
            await asyncio.wait_for(response.write(f": {int(time.time())}\n\n".encode("ascii")), _WRITE_S)


async def _still_welcome(plane: Plane, host: Caller) -> bool:
    query = (
        "SELECT 1 FROM host h JOIN certificate c ON c.host = h.token"
        " WHERE h.token = ? AND h.state = 'enrolled' AND c.serial = ? AND c.not_after > ?"
    )
    return await plane.read(lambda db: db.execute(query, (host.token, host.serial, plane.now())).fetchone() is not None)


async def ask(request: web.Request) -> web.Response:
    """GET /v1/host/tokens?after=N&wait=S: the same by long polling."""
    plane = request.app[PLANE]
    host = await caller(plane, request)
    last, wait = _number(request.query.get("after", "0"), "after"), _number(request.query.get("wait", "0"), "wait")
    epoch = await plane.read(outbox.stream)
    with plane.hub.listening(f"outbox:{host.token}", f"host:{host.token}") as news:
        words = await plane.read(lambda db: outbox.after(db, host.token, last, plane.now()))
        if not words and wait and not plane.ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), min(wait, WAIT_MAX_S))
            if await _still_welcome(plane, host):
                words = await plane.read(lambda db: outbox.after(db, host.token, last, plane.now()))
    tokens = [{"id": word.ident, "token": word.token} for word in words]
    return web.json_response({"stream": epoch, "tokens": tokens}, headers={"Tidegate-Stream": epoch, "Cache-Control": "no-store"})


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > ID_MAX:
        raise Problem("parameter_invalid", "must be a whole number", field=name)
    return int(text)
