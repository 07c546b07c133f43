"""The trail on its way out: to each sink at least once, in order, from a cursor that moves only after the sink has taken it."""

import asyncio
import contextlib
import json
import logging
import random
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from examples.control_plane.config.outside import HttpSink, Webhook
from examples.control_plane.events.kinds import Kind
from examples.control_plane.outside.posting import OutsideError, post, secret, send
from examples.control_plane.outside.syslog import SyslogSink
from examples.control_plane.plane import Plane

BATCH = 100
BATCH_BYTES = 1 << 20  # more than that only for one event that is longer: collectors refuse what is too long, and then for ever
_BACKOFF_S = (0.5, 60.0)
_TIMEOUT_S = 15.0
_FAILURES = (OutsideError, OSError, ValueError, sqlite3.Error)  # whatever it was, the trail goes on when it is over
_log = logging.getLogger("tidegate.control_plane")
Item = tuple[Mapping[str, Any], str, int]  # the event, who said it, when it came (ms)


class Sink(Protocol):
    """Something that takes events."""

    async def send(self, batch: Sequence[Item]) -> None:
        """Raises OutsideError: none of the batch counts as taken."""
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


class HttpBatches:
    """A JSON array of OCSF events in each POST; any 2xx is an acknowledgement."""

    def __init__(self, settings: HttpSink) -> None:
        self._settings = settings

    async def send(self, batch: Sequence[Item]) -> None:
        """See Sink."""
        headers = {"Content-Type": "application/json"}
        if self._settings.token_file is not None:
            headers["Authorization"] = f"Bearer {secret(self._settings.token_file).decode('latin-1')}"
        body = json.dumps([event for event, _, _ in batch], ensure_ascii=True).encode("ascii")
        status, _ = await send(self._settings.url, body, headers, timeout_s=_TIMEOUT_S, ca=self._settings.ca)
        if not 200 <= status < 300:
            raise OutsideError(f"{self._settings.url} answers {status}")

    async def close(self) -> None:
        """Nothing is kept open."""


class Hook:
    """Break-glass alone, each in a POST of its own: for a pager, or whatever sends mail."""

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings

    async def send(self, batch: Sequence[Item]) -> None:
        """See Sink."""
        for event, source, _ in batch:
            metadata = event.get("metadata")
            code = metadata.get("event_code") if isinstance(metadata, Mapping) else None
            if source == "control-plane" and code == Kind.BREAK_GLASS.value:
                await post(self._settings, {"text": event["message"], "event": event})

    async def close(self) -> None:
        """Nothing is kept open."""


def sinks(plane: Plane) -> dict[str, Sink]:
    """Those that are configured, by the name of their cursor."""
    outside = plane.settings.outside
    found: dict[str, Sink] = {f"hook {hook.url}": Hook(hook) for hook in outside.hooks}
    if outside.syslog is not None:
        found[f"syslog {outside.syslog.host}:{outside.syslog.port}"] = SyslogSink(outside.syslog)
    if outside.http is not None:
        found[f"http {outside.http.url}"] = HttpBatches(outside.http)
    return found


async def forward(plane: Plane, name: str, sink: Sink) -> None:
    """For ever: what is behind the cursor, then what comes. What fails is tried again, later each time."""
    wait = _BACKOFF_S[0]
    try:
        with plane.hub.listening("events") as news:
            while True:
                news.clear()
                try:
                    more = await _one_batch(plane, name, sink)
                    wait = _BACKOFF_S[0]
                except _FAILURES as caught:
                    _log.warning("events are not taken, and are sent again: %s", caught)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311  # jitter
                    wait = min(wait * 2, _BACKOFF_S[1])
                    continue
                if not more:
                    await news.wait()
    finally:
        with contextlib.suppress(OSError):
            await sink.close()


async def _one_batch(plane: Plane, name: str, sink: Sink) -> bool:
    batch, last = await plane.read(lambda db: _behind(db, name))
    if not batch:
        return False
    await sink.send(batch)
    query = "INSERT INTO cursor (sink, last) VALUES (?, ?) ON CONFLICT (sink) DO UPDATE SET last = excluded.last"
    await plane.write(lambda db: db.execute(query, (name, last)))
    return True


def _behind(db: sqlite3.Connection, name: str) -> tuple[list[Item], int]:
    row = db.execute("SELECT last FROM cursor WHERE sink = ?", (name,)).fetchone()
    query = (
        "SELECT e.id, e.ocsf, e.at_ms, coalesce(h.name, 'control-plane') AS source FROM event e"
        " LEFT JOIN host h ON h.token = e.source WHERE e.id > ? ORDER BY e.id LIMIT ?"
    )
    batch: list[Item] = []
    size = last = 0
    for one in db.execute(query, (row["last"] if row else 0, BATCH)):
        size += len(one["ocsf"])
        if batch and size > BATCH_BYTES:
            break
        batch.append((json.loads(one["ocsf"]), one["source"], one["at_ms"]))
        last = one["id"]
    return batch, last
