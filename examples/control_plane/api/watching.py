"""Sessions: what came in, whether it is as the host wrote it, to replay and to follow. Who looked is in the trail."""

import asyncio
import contextlib
import itertools
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from aiohttp import web

from agent import trust
from agent.sessions.recording import read, verify
from agent.sessions.recording.export import FORMATS
from agent.sessions.recording.reader import opened
from agent.sessions.recording.sealing import seal_key
from examples.control_plane.api.looking import still_in
from examples.control_plane.api.problems import Handler, Problem
from examples.control_plane.api.requests import party
from examples.control_plane.events.kinds import Kind
from examples.control_plane.plane import PLANE, Plane
from examples.control_plane.recordings.following import Growing, lines
from examples.control_plane.recordings.taking import Recordings
from examples.control_plane.store import audit
from examples.control_plane.workflow import rows

RECORDINGS = web.AppKey("recordings", Recordings)
_TYPES = {"text": "text/plain", "ndjson": "application/x-ndjson"}
_BATCH = 200  # lines written at once
_WRITE_S = 30.0
_QUEUE = 64  # batches that may wait for one who reads slowly
_HEARTBEAT_S = 10.0
_LOOK_S = 2.0  # so often it is asked whether who follows may still
_ROWS = (
    "SELECT r.*, h.name AS host_name, h.host_key AS host_key, g.request AS request FROM recording r"
    " JOIN host h ON h.token = r.host LEFT JOIN grant_ g ON g.jti = r.jti AND g.host = r.host"
)


async def list_recordings(request: web.Request) -> web.Response:
    """GET /v1/recordings."""
    asked = request["parameters"]
    condition = "(:host = '' OR r.host = :host) AND (:request = '' OR g.request = :request)"
    query = f"{_ROWS} WHERE {condition} ORDER BY r.came_at DESC, r.id LIMIT :limit"
    values = {"host": asked.get("host", ""), "request": asked.get("request", ""), "limit": asked["limit"]}
    found = await request.app[PLANE].read(lambda db: db.execute(query, values).fetchall())
    return web.json_response({"recordings": [_view(row) for row in found]})


async def get_recording(request: web.Request) -> web.Response:
    """GET /v1/recordings/{host}/{recording}: verified anew each time."""
    plane, row = request.app[PLANE], await _row(request)
    ring = trust.keyring({"keys": [json.loads(row["host_key"])]})
    path = request.app[RECORDINGS].path(row["host"], row["id"])
    try:
        verdict = await plane.run(verify, path, seal_key(ring), ident=row["id"])
    except OSError as caught:
        raise Problem("recording_unreadable", "its file can't be read here") from caught
    problems = [f"byte {one.offset}: {one.what} [{one.code}]" for one in verdict.problems]
    found = {"ok": verdict.ok, "unfinished": verdict.unfinished, "sealed_bytes": verdict.sealed_bytes, "problems": problems}
    return web.json_response({**_view(row), "verified": found})


async def export(request: web.Request) -> web.StreamResponse:
    """GET /v1/recordings/{host}/{recording}/export."""
    plane, row, form = request.app[PLANE], await _row(request), request["parameters"]["format"]
    try:
        file: BinaryIO = await plane.run(opened, request.app[RECORDINGS].path(row["host"], row["id"]))
    except OSError as caught:
        raise Problem("recording_unreadable", "its file can't be read here") from caught
    with file:
        await _told(plane, request, row, form)
        kind = _TYPES.get(form, "application/x-asciicast")
        response = web.StreamResponse(headers={"Content-Type": f"{kind}; charset=utf-8"})
        await response.prepare(request)
        exported: Iterator[str] = iter(FORMATS[form](read(file)))
        with contextlib.suppress(ConnectionError, TimeoutError):
            while batch := await plane.run(lambda: list(itertools.islice(exported, _BATCH))):
                await asyncio.wait_for(response.write("".join(f"{line}\n" for line in batch).encode("utf-8")), _WRITE_S)
    return response


async def follow(request: web.Request) -> web.StreamResponse:
    """GET /v1/recordings/{host}/{recording}/live: server-sent events, from the begin on, until it has ended."""
    plane, row = request.app[PLANE], await _row(request)
    topic = f"recording:{row['host']}:{row['id']}"
    if plane.hub.listeners("followers") >= plane.settings.caps.followers:
        raise Problem("busy", "as many follow sessions as may")
    with plane.hub.listening("followers"), plane.hub.listening(topic) as news:
        await _told(plane, request, row, "live")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        follower = _Follower(plane, request.app[RECORDINGS], row, news)
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                await follower.send(request, response)
        finally:
            await follower.stop()
    return response


class _Follower:
    """The thread that decodes, and the queue between it and who reads."""

    def __init__(self, plane: Plane, recordings: Recordings, row: sqlite3.Row, news: asyncio.Event) -> None:
        self._plane, self._news = plane, news
        self._more, self._stop = threading.Event(), threading.Event()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(_QUEUE)
        self._loop = asyncio.get_running_loop()

        def size() -> tuple[int, bool]:
            with plane.store.read() as db:
                found = recordings.size(db, row["host"], row["id"])
            return found.size, found.complete

        self._source = Growing(recordings.path(row["host"], row["id"]), size, self._more, self._stop)
        self._thread = threading.Thread(target=self._decode, name="follower", daemon=True)
        self._thread.start()
        self._told = asyncio.create_task(self._tell())

    async def send(self, request: web.Request, response: web.StreamResponse) -> None:
        """Until the session, the follower's own session, or the server ends."""
        number, looked_at = 0, self._loop.time()
        written_at = looked_at
        while not self._plane.ending.is_set():
            line: str | None = ""
            with contextlib.suppress(TimeoutError):
                line = await asyncio.wait_for(self._queue.get(), _LOOK_S)
            if self._loop.time() - looked_at >= _LOOK_S:  # also while the session never falls silent
                if not await still_in(self._plane, request):
                    return
                looked_at = self._loop.time()
            if line == "":
                if self._loop.time() - written_at >= _HEARTBEAT_S:
                    await asyncio.wait_for(response.write(b": alive\n\n"), _WRITE_S)
                    written_at = self._loop.time()
                continue
            written_at = self._loop.time()
            event = "end" if line is None else "frame" if number else "header"
            number += 1
            await asyncio.wait_for(response.write(f"id: {number}\nevent: {event}\ndata: {line or ''}\n\n".encode()), _WRITE_S)
            if line is None:
                return

    async def stop(self) -> None:
        """The thread is gone when this returns."""
        self._stop.set()
        self._more.set()
        self._told.cancel()
        while self._thread.is_alive():  # it may wait for room
            while not self._queue.empty():
                self._queue.get_nowait()
            await asyncio.sleep(0.02)
        self._source.close()

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            self._more.set()

    def _decode(self) -> None:
        for line in lines(self._source):
            self._put(line)
            if self._stop.is_set():
                return
        self._put(None)

    def _put(self, line: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            done = asyncio.run_coroutine_threadsafe(self._queue.put(line), self._loop)
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    done.result(0.5)
                    return
            done.cancel()


async def _row(request: web.Request) -> sqlite3.Row:
    asked = request["parameters"]
    query = f"{_ROWS} WHERE r.host = ? AND r.id = ?"
    row: sqlite3.Row | None = await request.app[PLANE].read(
        lambda db: db.execute(query, (asked["host"], asked["recording"])).fetchone()
    )
    if row is None:
        raise Problem("not_found", "no such recording has come in")
    return row


async def _told(plane: Plane, request: web.Request, row: sqlite3.Row, how: str) -> None:
    who = party(request).subject
    detail = {"entity": row["id"], "host": row["host_name"], "how": how}
    await plane.write(
        lambda db: audit.note(
            db, Kind.RECORDING_WATCHED, actor=who, subject=row["subject"], request=row["request"] or "", detail=detail
        )
    )


def _view(row: sqlite3.Row) -> dict[str, Any]:
    texts: Mapping[str, str | None] = {name: row[name] for name in ("jti", "request", "subject", "login")}
    return {
        "host": row["host"],
        "host_name": row["host_name"],
        "id": row["id"],
        "size": row["size"],
        "complete": bool(row["complete"]),
        "came_at": rows.rfc3339(row["came_at"]),
        **{name: text for name, text in texts.items() if text},
    }


HANDLERS: Mapping[str, Handler] = {
    "listRecordings": list_recordings,
    "getRecording": get_recording,
    "exportRecording": export,
    "followRecording": follow,
}
