"""The parts put together: two listeners, the clock's work, the ways out. Everything ends when the context does."""

import asyncio
import contextlib
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from examples.control_plane import housekeeping
from examples.control_plane.api import app as people_app
from examples.control_plane.config import Settings
from examples.control_plane.config.fleet import Nats
from examples.control_plane.config.settings import Listener
from examples.control_plane.events.kinds import Kind
from examples.control_plane.hosts import app as hosts_app
from examples.control_plane.hosts.taking import Taking
from examples.control_plane.outside import sinks
from examples.control_plane.people import People
from examples.control_plane.people.person import PEOPLE_SCHEMA
from examples.control_plane.plane import Hub, Plane
from examples.control_plane.recordings.taking import Recordings
from examples.control_plane.signing import ca, keys
from examples.control_plane.store import Store, audit
from examples.control_plane.workflow.opening import check_templates

THREADS = 16
_RENEW_EVERY_S = 86400.0
_SHUTDOWN_S = 2.0
_log = logging.getLogger("tidegate.control_plane")


@dataclass(frozen=True, slots=True)
class Running:
    """A control plane that serves: the ports it got."""

    plane: Plane
    people_port: int
    hosts_port: int


@contextlib.asynccontextmanager
async def running(settings: Settings, data: Path, *, restored: bool = False) -> AsyncIterator[Running]:
    """Serve until the block ends. ``restored``: the database was put back from a backup; hosts count their tokens anew.

    Raises:
        ConfigError: a key is missing or damaged (`init` makes them).
        DataLockedError: another process serves this folder.
        ValueError: a template is nothing that a host would take; openapi.yaml and the routes differ.
        OSError: a port is taken.
    """
    found = keys.load(data / "keys", settings.issuer)
    check_templates(found, settings.policy)
    async with contextlib.AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(THREADS, "control-plane"))
        store = Store(data, PEOPLE_SCHEMA)
        stack.callback(store.close)
        if restored:
            store.new_epoch()
        hub = Hub(asyncio.get_running_loop())
        store.listener = hub.tell
        plane = Plane(settings, store, found, People.configured(store, settings.people), hub, threads)
        recordings = Recordings(data / "recordings")
        taking = Taking.of(plane, recordings)
        await plane.write(lambda db: audit.note(db, Kind.STARTED))
        people_port = await _serve(stack, people_app.application(plane, recordings), settings.people_listener, plane, hosts=False)
        hosts_port = await _serve(stack, hosts_app.application(plane, taking), settings.hosts_listener, plane, hosts=True)
        stack.callback(_end, plane)  # before the listeners: whoever waits is let go first
        _task(stack, housekeeping.keep_house(plane))
        for name, sink in sinks.sinks(plane).items():
            _task(stack, sinks.forward(plane, name, sink))
        if settings.nats is not None:
            _fleet(stack, plane, settings.nats, taking)
        try:
            yield Running(plane, people_port, hosts_port)
        finally:
            await plane.write(lambda db: audit.note(db, Kind.STOPPED))


def _fleet(stack: contextlib.AsyncExitStack, plane: Plane, settings: Nats, taking: Taking) -> None:
    """NATS, beside the stream: which of the two a host reads is the host's choice, and may change at any time."""
    try:
        from examples.control_plane.fleet import access, link  # noqa: PLC0415  # nats-py is needed by who uses it
    except ImportError as error:
        raise ValueError(f"the section nats needs the extra nats: {error.name} is missing") from error
    if settings.accounts_file is not None:
        _task(stack, access.keep_accounts(plane, settings, settings.accounts_file))
    _task(stack, link.FleetLink(plane, settings, taking).run())


def _end(plane: Plane) -> None:
    plane.ending.set()
    plane.hub.tell_all()


async def _serve(stack: contextlib.AsyncExitStack, app: web.Application, listener: Listener, plane: Plane, *, hosts: bool) -> int:
    """Listen; returns the port."""
    context = tls_context(plane.keys, listener, hosts=hosts)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S, keepalive_timeout=75)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, listener.address, listener.port, ssl_context=context)
    await site.start()
    if listener.certificate is None:
        _task(stack, _renew(plane.keys, listener, context))
    return int(runner.addresses[0][1])


def tls_context(found: keys.Keys, listener: Listener, *, hosts: bool) -> ssl.SSLContext:
    """TLS 1.2 or later. For hosts a client certificate of our own CA is asked for; none is let in to enrol only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(found, listener, context)
    if hosts:
        context.load_verify_locations(cadata=found.ca.pem())
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _load(found: keys.Keys, listener: Listener, context: ssl.SSLContext) -> None:
    """The listener's certificate: the admin's files, or one made now by our own CA."""
    if listener.certificate is not None:
        context.load_cert_chain(listener.certificate, listener.key)
        return
    chain, secret = ca.server_certificate(found.ca, [listener.host])
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:  # the ssl module takes files only; mode 0600
        file.write(secret + chain)
        file.flush()
        context.load_cert_chain(file.name)


async def _renew(found: keys.Keys, listener: Listener, context: ssl.SSLContext) -> None:
    while True:
        await asyncio.sleep(_RENEW_EVERY_S)
        _load(found, listener, context)


def _task(stack: contextlib.AsyncExitStack, work: Coroutine[object, object, None]) -> None:
    """Run it until the end; one that dies is told."""
    task = asyncio.create_task(work)

    def over(done: "asyncio.Task[None]") -> None:
        if not done.cancelled() and done.exception() is not None:
            _log.error("a background task died", exc_info=done.exception())

    task.add_done_callback(over)

    async def stop() -> None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task

    stack.push_async_callback(stop)
