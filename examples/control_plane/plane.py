"""The control plane as one object: what every part needs, put together by server.py."""

import asyncio
import contextvars
import functools
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from aiohttp import web

from examples.control_plane.config import Settings
from examples.control_plane.people import People
from examples.control_plane.signing.keys import Keys
from examples.control_plane.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class Hub:
    """Who waits for what: topics as :func:`examples.control_plane.store.touch` names them. A waiter looks again when it is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._taps: set[Callable[[frozenset[str]], None]] = set()

    @contextmanager
    def listening(self, *topics: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the topics changes. Begin to listen first, then look: nothing is missed."""
        event = asyncio.Event()
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._waiting[topic].discard(event)
                if not self._waiting[topic]:
                    del self._waiting[topic]

    @contextmanager
    def tapped(self, told: Callable[[frozenset[str]], None]) -> Iterator[None]:
        """Have ``told`` called, in the loop, with the topics of every commit."""
        self._taps.add(told)
        try:
            yield
        finally:
            self._taps.discard(told)

    def tell(self, topics: frozenset[str]) -> None:
        """From any thread."""
        if topics and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told, topics)

    def tell_all(self) -> None:
        """Wake everybody, as at the end."""
        self._told(frozenset(self._waiting))

    def listeners(self, topic: str) -> int:
        """How many listen to it."""
        return len(self._waiting.get(topic, ()))

    def _told(self, topics: frozenset[str]) -> None:
        for tap in tuple(self._taps):
            tap(topics)
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()


@dataclass(frozen=True, slots=True)
class Plane:
    """All parts. ``threads`` run what blocks: the database, files, signatures."""

    settings: Settings
    store: Store
    keys: Keys
    people: People
    hub: Hub
    threads: Executor
    clock: Callable[[], float] = time.time
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def now(self) -> int:
        """Whole seconds since the epoch."""
        return int(self.clock())

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in a thread, in the caller's context (whom it acts for: :data:`examples.control_plane.store.database.GUARD`)."""
        act = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.threads, act)

    async def read(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Look at the database, in a thread."""

        def look() -> T:
            with self.store.read() as db:
                return function(db)

        return await self.run(look)

    async def write(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction, in a thread; durable when it returns."""

        def act() -> T:
            with self.store.write() as db:
                return function(db)

        return await self.run(act)

    def wake(self) -> None:
        """Nothing to do: a commit wakes who waits for what it touched."""


PLANE = web.AppKey("plane", Plane)
