"""`python -m examples.control_plane serve --data DIR --config FILE`."""

import asyncio
import logging
import signal
import sqlite3
import sys
from pathlib import Path

import click

from agent.errors import TidegateError
from examples.control_plane.config import load
from examples.control_plane.server import running
from examples.control_plane.setup import make
from examples.control_plane.signing import keys
from examples.control_plane.store.database import DataLockedError


@click.group()
def main() -> None:
    """Tidegate's reference control plane."""


@main.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Where keys, database and recordings lie.")
@click.option(
    "--config", required=True, type=click.Path(path_type=Path), help="The configuration; the example is put there if it is missing."
)
def init(data: Path, config: Path) -> None:
    """Make a data folder: every key that is missing; nothing is replaced."""
    try:
        make(data, config)
    except (TidegateError, OSError) as error:
        sys.exit(f"init: {error}")


@main.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--config", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--restored", is_flag=True, help="The database was put back from a backup: hosts count their tokens anew.")
def serve(data: Path, config: Path, restored: bool) -> None:
    """Serve both APIs until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        asyncio.run(_serve(data, config, restored=restored))
    except (TidegateError, DataLockedError, OSError, ValueError, sqlite3.Error) as error:
        sys.exit(f"serve: {error}")


@main.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--config", required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--folder", required=True, type=click.Path(path_type=Path, file_okay=False), help="For nats-server: made if missing.")
@click.option("--listen", required=True, metavar="ADDRESS:PORT", help="Where nats-server is to listen.")
@click.option("--name", "names", required=True, multiple=True, help="A name or address that it is reached by; again for more.")
@click.option("--sync-always", is_flag=True, help="Acknowledge only what is on disk; nats-server 2.10 and later, and wise there.")
def nats(data: Path, config: Path, folder: Path, listen: str, names: tuple[str, ...], sync_always: bool) -> None:
    """Write what nats-server needs for the section `nats`: configuration, a certificate for a year. Run it again for a new one."""
    try:
        settings = load(config)
        if settings.nats is None:
            sys.exit("nats: the configuration has no section nats")
        from examples.control_plane.fleet import broker  # noqa: PLC0415  # as server.py: who has no fleet needs no nats-py

        wanted = broker.Broker(folder.absolute(), listen, names, sync_always)
        click.echo(broker.make(keys.load(data / "keys", settings.issuer), settings.nats, wanted))
    except (TidegateError, ImportError, OSError, ValueError) as error:
        sys.exit(f"nats: {error}")


async def _serve(data: Path, config: Path, *, restored: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings = load(config)
    async with running(settings, data, restored=restored) as found:
        people, hosts = (settings.people_listener.address, found.people_port), (settings.hosts_listener.address, found.hosts_port)
        click.echo(f"serving people on {people[0]}:{people[1]}, hosts on {hosts[0]}:{hosts[1]}")
        await stop.wait()


if __name__ == "__main__":
    main()
