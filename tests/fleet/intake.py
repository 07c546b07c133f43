"""The control plane's intake, in a process of its own: counts records by key, and acks them."""

import asyncio
import logging
import ssl
import time
from multiprocessing.connection import Connection
from typing import Any

from nats.aio.client import Client

from examples.control_plane.nats import Fleet


async def _quiet(_error: Exception) -> None:
    """The server is restarted under us on purpose."""


async def _take(url: str, counted: dict[str, Any], tls: Any) -> None:
    client = Client()
    options: dict[str, Any] = {"tls": tls} if tls else {"user": "control", "password": "secret"}
    await client.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=1, error_cb=_quiet, **options)
    keys: set[tuple[str, str]] = counted["keys"]
    async for batch in Fleet(client).intake("fleet", 128):
        for record in batch.records:
            counted["records"] += 1
            keys.add((record.host[:10], record.key))
        counted["bad"] += batch.bad
        counted["at"] = time.monotonic()
        await batch.ack()


def main(pipe: Connection, url: str, tls_files: tuple[str, str, str] | None) -> None:
    """The process: answers every word with what was counted until now."""
    logging.getLogger().setLevel(logging.ERROR)  # that the server is killed is known
    asyncio.run(_serve(pipe, url, tls_files))


async def _serve(pipe: Connection, url: str, tls_files: tuple[str, str, str] | None) -> None:
    tls = None
    if tls_files:
        tls = ssl.create_default_context(cafile=tls_files[0])
        tls.load_cert_chain(tls_files[1], tls_files[2])
    counted: dict[str, Any] = {"records": 0, "keys": set(), "bad": 0, "at": 0.0}
    taking = asyncio.create_task(_take(url, counted, tls))
    loop = asyncio.get_running_loop()
    while True:
        try:
            word, _ = await loop.run_in_executor(None, pipe.recv)
        except EOFError:
            word = "stop"
        broken = repr(taking.exception()) if taking.done() and not taking.cancelled() else ""
        if word == "stop":
            taking.cancel()
            pipe.send(None)
            return
        pipe.send({"records": counted["records"], "unique": len(counted["keys"]), "bad": counted["bad"], "at": counted["at"],
                   "broken": broken})  # fmt: skip
