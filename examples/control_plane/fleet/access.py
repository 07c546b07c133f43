"""Who may do what at the broker: written for nats-server whenever a host comes or goes; a server on this machine is told."""

import asyncio
import json
import logging
import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from agent.courier.natswire import parse_credentials
from agent.errors import CourierError, HostError
from agent.host.files import atomic_write
from examples.control_plane.config.fleet import Nats
from examples.control_plane.nats_config import Login, accounts, by_certificate
from examples.control_plane.plane import Plane
from examples.control_plane.signing.ca import PLANE_URI

SERVER = "nats-server"  # as /proc/PID/comm has it
AGAIN_S = 5.0
SETTLE_S = 0.1  # hosts that enrol together cost one reload
_log = logging.getLogger("tidegate.control_plane")


async def keep_accounts(plane: Plane, settings: Nats, path: Path) -> None:
    """For ever: the file says who is enrolled. What fails is told and tried again."""
    changed = asyncio.Event()

    def told(topics: frozenset[str]) -> None:
        if any(topic.startswith("host:") for topic in topics):
            changed.set()

    with plane.hub.tapped(told):
        while True:
            changed.clear()
            try:
                if await plane.run(write, plane, settings, path):
                    await plane.run(reload, settings.pid_file)
            except (HostError, CourierError, OSError, sqlite3.Error, ValueError) as error:
                _log.warning("nats: %s is not as it should be, and tried again: %s", path, error)
                changed.set()
                await asyncio.sleep(AGAIN_S)
            await changed.wait()
            await asyncio.sleep(SETTLE_S)


def write(plane: Plane, settings: Nats, path: Path) -> bool:
    """Write the file if it is not so already; returns whether it was changed."""
    with plane.store.read() as db:
        found = db.execute("SELECT token FROM host WHERE state = 'enrolled' ORDER BY token").fetchall()
    text = rendered(settings, [str(row["token"]) for row in found]).encode("ascii")
    try:
        if path.read_bytes() == text:
            return False
    except FileNotFoundError:
        pass
    atomic_write(path, text, 0o644)  # names and rights; no secret is in it
    return True


def rendered(settings: Nats, hosts: Sequence[str]) -> str:
    """For nats-server's ``include``: the accounts, with every host (by its token) known by its certificate."""
    logins = [(host, by_certificate(host)) for host in hosts]
    return f"accounts: {json.dumps(accounts(_own(settings), logins, settings.bucket), indent=1)}\n"


def _own(settings: Nats) -> Login:
    if settings.credentials is None:
        return Login(user=PLANE_URI)
    return Login(nkey=parse_credentials(settings.credentials.read_text(encoding="ascii", errors="replace")).public)


def reload(pid_file: Path | None) -> None:
    """SIGHUP to the server of that file, if it is one. Who runs it elsewhere sees to that (docs/FLEET.md)."""
    if pid_file is None:
        return
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == SERVER:
            os.kill(pid, signal.SIGHUP)
            return
    except FileNotFoundError:
        pass  # it does not run, and reads the file when it starts
    except (ValueError, UnicodeError, OSError) as error:
        _log.warning("nats: the server of %s can't be told to read its accounts again: %s", pid_file, error)
        return
    _log.info("nats: no %s runs by %s; it reads its accounts when it starts", SERVER, pid_file)
