"""The one connection to NATS: made, lost, made again. Requests, approvals and https hosts never wait for it."""

import asyncio
import contextlib
import logging
import random
import ssl
import tempfile
from pathlib import Path

import nats.errors
from nats.aio.client import Client

from agent.courier.natswire import Credentials, parse_credentials
from agent.errors import CourierError
from agent.model.text import one_line
from examples.control_plane.config.fleet import Nats
from examples.control_plane.events.kinds import Kind
from examples.control_plane.fleet.intake import Taker
from examples.control_plane.fleet.pushing import Pusher
from examples.control_plane.fleet.tasks import first
from examples.control_plane.hosts.taking import Taking
from examples.control_plane.nats import Fleet, PushError
from examples.control_plane.plane import Plane
from examples.control_plane.signing import ca
from examples.control_plane.store import audit

AGAIN_S, AGAIN_MAX_S = 0.5, 10.0
_CONNECT_S, _CLOSE_S = 5, 3.0
_PING_S = 10  # two unanswered, and the connection is given up
_log = logging.getLogger("tidegate.control_plane")
Troubles = (nats.errors.Error, PushError, CourierError, OSError, TimeoutError)


class FleetLink:
    """What is to be pushed is in the outbox, what is to be taken in is at the broker: nothing is kept here."""

    def __init__(self, plane: Plane, settings: Nats, taking: Taking) -> None:
        self._plane, self._settings = plane, settings
        self._pusher, self._taker = Pusher(plane), Taker(plane, taking)
        self._up: bool | None = None  # None: not tried yet

    async def run(self) -> None:
        """Connect, work until the connection is lost, tell it, connect again with full jitter."""
        pause, number = AGAIN_S, random.randrange(len(self._settings.servers))  # noqa: S311  # spreads load, keeps no secret
        with self._plane.hub.tapped(self._pusher.told):
            while True:
                server = self._settings.servers[number % len(self._settings.servers)]
                try:
                    await self._connected(server)
                except Troubles as error:
                    if self._up:
                        pause = AGAIN_S
                    await self._say(up=False, why=f"{server}: {type(error).__name__} {error}")
                except Exception as fault:  # NATS may fail in ways that nobody thought of: hosts wait for it to be tried again
                    _log.exception("nats: a fault in the connection to %s", server)
                    await self._say(up=False, why=f"{server}: {type(fault).__name__}")
                await asyncio.sleep(random.uniform(pause / 10, pause))  # noqa: S311
                pause, number = min(pause * 2, AGAIN_MAX_S), number + 1

    async def _connected(self, server: str) -> None:
        """One connection, to its end. Raises one of Troubles."""
        client, over = Client(), asyncio.Event()

        async def ended() -> None:
            over.set()

        try:
            await self._connect(client, server, ended)
            fleet = Fleet(client, self._settings.bucket, replicas=self._settings.replicas)
            await fleet.prepare()
            await self._say(up=True, why=server)
            await first(self._pusher.run(fleet), self._taker.run(fleet), over.wait())
            raise nats.errors.ConnectionClosedError
        finally:
            with contextlib.suppress(*Troubles):
                await asyncio.wait_for(client.close(), _CLOSE_S)

    async def _connect(self, client: Client, server: str, ended: object) -> None:
        found = await self._plane.run(_credentials, self._settings.credentials)
        if found is not None and not found.jwt:
            client._public_nkey = found.public  # nats-py sets it only from a seed, with a library of its own
        context = await self._plane.run(tls_context, self._plane, self._settings) if self._settings.encrypted else None
        await client.connect(
            server,
            name="tidegate control plane",
            tls=context,
            signature_cb=found.sign if found else None,
            user_jwt_cb=found.jwt.encode if found and found.jwt else None,
            allow_reconnect=False,
            connect_timeout=_CONNECT_S,
            ping_interval=_PING_S,
            error_cb=_noted,
            closed_cb=ended,  # type: ignore[arg-type]  # a coroutine function, as _connected has it
        )
        if context is not None and client._transport is not None and not _is_encrypted(client):
            raise nats.errors.SecureConnRequiredError

    async def _say(self, *, up: bool, why: str) -> None:
        """Once for each change, in the log and in the trail."""
        if self._up is up:
            return
        self._up = up
        (_log.info if up else _log.warning)("nats: %s: %s", "connected" if up else "not there, and tried again", one_line(why))
        with contextlib.suppress(Exception):  # the log has it
            await self._plane.write(lambda db: audit.note(db, Kind.NATS_UP if up else Kind.NATS_DOWN, reason=one_line(why), ok=up))


def tls_context(plane: Plane, settings: Nats) -> ssl.SSLContext:
    """TLS 1.2 or later; without files of the admin's our own CA is believed, and makes us a client certificate now."""
    context = ssl.create_default_context(cafile=str(settings.ca)) if settings.ca else _own_ca(plane)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    elif settings.credentials is None:
        chain, secret = ca.plane_certificate(plane.keys.ca)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # the ssl module takes files only; mode 0600
            file.write(secret + chain)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _own_ca(plane: Plane) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=plane.keys.ca.pem())


def _is_encrypted(client: Client) -> bool:
    writer = getattr(client._transport, "_io_writer", None)
    return writer is not None and writer.get_extra_info("ssl_object") is not None


def _credentials(path: Path | None) -> Credentials | None:
    return None if path is None else parse_credentials(path.read_text(encoding="ascii", errors="replace"))


async def _noted(error: Exception) -> None:
    _log.debug("nats: %r", error)
