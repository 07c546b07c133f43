"""A broker with hosts on it, for tests: server, control plane's side, transports, and clients that do what no courier does."""

import asyncio
import base64
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nats.aio.client import Client

from agent.courier.nats import NatsSettings, NatsTransport
from agent.courier.natswire import parse_credentials
from agent.courier.transport import Cursor, Received
from examples.control_plane.nats import Fleet
from examples.control_plane.nats_config import Login, server_config
from tests.nats import pki
from tests.nats.server import Server

Got = TypeVar("Got")


def token_of(name: str) -> str:
    """A host token."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()


ALICE, BOB = token_of("urn:tidegate:alice"), token_of("urn:tidegate:bob")


class Bed:
    """A server on loopback with two hosts, known by their nkeys, and the control plane by its password."""

    def __init__(self, folder: Path) -> None:
        self.server = Server(folder)
        self.seeds: dict[str, Path] = {}
        logins = []
        for token in (ALICE, BOB):
            self.seeds[token] = folder / f"{token}.nk"
            self.seeds[token].write_text(pki.seed())
            logins.append((token, Login(nkey=parse_credentials(self.seeds[token].read_text()).public)))
        control = Login("control", "secret")
        self.config = server_config(control, logins, store=self.server.store, listen=self.server.listen)
        self.server.configure(self.config)
        self._open: list[NatsTransport] = []

    @property
    def url(self) -> str:
        return f"nats://{self.server.listen}"

    def settings(self, token: str = ALICE) -> NatsSettings:
        return NatsSettings((self.url,), token, credentials=self.seeds[token])

    def transport(self, token: str = ALICE, **changed: object) -> NatsTransport:
        made = NatsTransport(replace(self.settings(token), **changed))  # type: ignore[arg-type]
        self._open.append(made)
        return made

    def close(self) -> None:
        for transport in self._open:
            transport.close()
        self.server.stop()

    @contextlib.asynccontextmanager
    async def control(self) -> AsyncIterator[tuple[Fleet, Client]]:
        """The control plane's side, prepared."""
        client = Client()
        await client.connect(self.url, user="control", password="secret", allow_reconnect=False, error_cb=_quiet)
        try:
            fleet = Fleet(client)
            await fleet.prepare()
            yield fleet, client
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def host(self, token: str, errors: list[str] | None = None) -> AsyncIterator[Client]:
        """A client with a host's own credentials, to do with them what it likes."""
        credentials = parse_credentials(self.seeds[token].read_text())
        client = Client()
        client._public_nkey = credentials.public

        async def note(error: Exception) -> None:
            if errors is not None:
                errors.append(str(error))

        await client.connect(
            self.url, signature_cb=credentials.sign, allow_reconnect=False, inbox_prefix=f"_INBOX.{token}".encode(), error_cb=note
        )
        try:
            yield client
        finally:
            await client.close()

    def do(self, work: Callable[[Fleet, Client], Awaitable[Got]]) -> Got:
        """Run ``work`` with the control plane's side, and hang up."""

        async def run() -> Got:
            async with self.control() as (fleet, client):
                return await work(fleet, client)

        return asyncio.run(asyncio.wait_for(run(), 20))

    def push(self, *idents: int, token: str = ALICE) -> None:
        async def work(fleet: Fleet, _client: Client) -> None:
            for ident in idents:
                await fleet.push(token, ident, b"token %d" % ident)

        self.do(work)


async def _quiet(_error: Exception) -> None:
    """What goes wrong is raised where it is waited for."""


class Receiving:
    """A transport's receive in a thread, as the courier has it. ``error`` is what ended it."""

    def __init__(self, transport: NatsTransport, cursor: Cursor | None = None) -> None:
        self.got: list[Received] = []
        self.error: Exception | None = None
        self.stop = threading.Event()
        self.hold = threading.Event()  # cleared: the inbox takes nothing
        self.hold.set()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(transport, cursor or Cursor()), daemon=True)
        self._thread.start()

    def _run(self, transport: NatsTransport, cursor: Cursor) -> None:
        try:
            for received in transport.receive(cursor, self.stop):
                self.hold.wait(20)
                with self._news:
                    self.got.append(received)
                    self._news.notify_all()
        except Exception as error:
            self.error = error
        with self._news:
            self._news.notify_all()

    @property
    def tokens(self) -> list[bytes]:
        return [received.token for received in self.got]

    def wait(self, count: int, timeout: float = 10) -> list[bytes]:
        """At least ``count`` tokens, in order."""
        with self._news:
            self._news.wait_for(lambda: len(self.got) >= count or not self._thread.is_alive(), timeout)
        assert len(self.got) >= count, f"{self.tokens} {self.error!r}"
        return self.tokens

    def end(self, timeout: float = 10) -> Exception | None:
        """Wait until it ends by itself."""
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        return self.error

    def __enter__(self) -> "Receiving":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.hold.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def bed(folder: Path) -> Iterator[Bed]:
    """A running bed."""
    made = Bed(folder)
    try:
        made.server.start()
        yield made
    finally:
        made.close()
