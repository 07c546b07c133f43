"""tidegated in a fork: `agent.daemon.Daemon` as it is, with clocks that the sweep can move and a journal that can kill.

The clocks are moved together, for this process alone: machines of the test bed share one clock, which no test may set.
"""

import asyncio
import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import agent.assembly
import agent.daemon
from agent.daemon import Daemon
from agent.host import service
from agent.host.clock import DeadlineTimer, RealClock
from agent.host.config_store import ConfigStore
from agent.journal.database import Database
from tests.crash.flags import Flags


def serve(config: Path, flags: Flags) -> None:
    """Run until killed. SIGUSR2 does what the deadline timer's waking does, for when the clock was moved."""

    class Clock(RealClock):
        """This host's clocks, ahead by ``flags.offset_ns``."""

        def wall_ns(self) -> int:
            """See RealClock."""
            return super().wall_ns() + flags.offset_ns

        def boot_ns(self) -> int:
            """See RealClock."""
            return super().boot_ns() + flags.offset_ns

    class Timer(DeadlineTimer):
        """Armed by the moved clocks, due by the real ones."""

        def arm(self, wall_ns: int | None, boot_ns: int | None) -> None:
            """See DeadlineTimer."""
            offset = flags.offset_ns
            super().arm(wall_ns and wall_ns - offset, boot_ns and boot_ns - offset)

    agent.assembly.RealClock = Clock  # type: ignore[attr-defined]
    agent.daemon.DeadlineTimer = Timer  # type: ignore[attr-defined]
    Database.transaction = _killing(flags)  # type: ignore[method-assign]
    service.log_to_stderr(verbose=True)
    asyncio.run(_serve(config))


async def _serve(config: Path) -> None:
    loop = asyncio.get_running_loop()
    daemon = Daemon(ConfigStore(config), loop)
    loop.add_signal_handler(signal.SIGUSR2, daemon._on_timer)
    await daemon.run()


def _killing(flags: Flags):  # type: ignore[no-untyped-def]
    """``Database.transaction`` that kills this process just before or just after the commit of ``flags.boundary``."""
    original = Database.transaction
    count = 0

    def here(number: int) -> None:
        if flags.armed and flags.boundary == number:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def transaction(self: Database) -> Iterator[sqlite3.Connection]:
        nonlocal count
        mine = 0
        with original(self) as connection:
            outermost = self._depth == 1
            yield connection
            if outermost and flags.armed:
                count += 1
                mine = flags.commits = count
                here(2 * mine - 1)
        if mine:
            here(2 * mine)

    return transaction
