"""tidegate-cp init and reset-password: what is done on the data folder itself, with the control plane stopped."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from agent.cli.output import json_option, reporting, show
from agent.errors import ConfigError
from examples.control_plane.commands.client import shown
from examples.control_plane.config import Settings, load
from examples.control_plane.people import PEOPLE_SCHEMA, People
from examples.control_plane.people.changing import add_local, new_password
from examples.control_plane.people.local import new_password as made_up
from examples.control_plane.people.person import everybody
from examples.control_plane.setup import make
from examples.control_plane.signing import keys
from examples.control_plane.store import Store
from examples.control_plane.store.database import DataLockedError

R = TypeVar("R")
_ROLES = frozenset({"admin", "approver"})


def folder_options(command: Callable[..., R]) -> Callable[..., R]:
    """``--data`` and ``--config``, as the server has them."""
    data = click.option("--data", required=True, type=click.Path(path_type=Path, file_okay=False), help="The server's data folder.")
    config = click.option("--config", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Its configuration.")
    return data(config(command))


@click.command()
@folder_options
@click.option("--admin", metavar="NAME", default="admin", show_default=True, help="The first admin's local account.")
@json_option
@reporting
def init(data: Path, config: Path, admin: str, as_json: bool) -> None:
    """Make a control plane: the example configuration, its keys, its first admin. What is there already is left alone.

    Without local accounts (`people: {local: false}`) no account is made: whoever's group gives the role `admin` is one.
    """
    settings = make(data, config)
    password = ""
    with _people(settings, data) as people:
        with people.store.read() as db:
            known = everybody(db)
        if people.settings.local and not known:
            password = made_up()
            add_local(people, admin, "", _ROLES, password, by="")
    found = keys.load(data / "keys", settings.issuer)
    result = {
        "data": str(data),
        "config": str(config),
        "url": settings.people_listener.url,
        "ca_fingerprint": keys.fingerprint(found.ca.certificate),
        "admin": admin if password else None,
        "password": password or None,
    }
    show(result, as_json, lambda: _told(result))


def _told(result: dict[str, str | None]) -> str:
    words = [f"serve:   python -m examples.control_plane serve --data {result['data']} --config {result['config']}"]
    reach = f"--url {result['url']} --ca-fingerprint {result['ca_fingerprint']}"
    if result["password"]:
        words.append(f"admin:   {result['admin']}, with the password {result['password']} (shown this once)")
        words.append(f"log in:  tidegate-cp {reach} --user {result['admin']} login")
    else:
        words.append(f"log in:  tidegate-cp {reach} login")
    return "\n".join(map(shown, words))


@click.command("reset-password")
@click.argument("name")
@folder_options
@json_option
@reporting
def password(name: str, data: Path, config: Path, as_json: bool) -> None:
    """Give a local account a new password, for an admin who has lost theirs; its sessions end. The server must be stopped."""
    chosen = made_up()
    with _people(load(config), data) as people:
        new_password(people, name, chosen)
    result = {"name": name, "password": chosen}
    show(result, as_json, lambda: f"{shown(name)} may log in with the password\n{chosen}")


@contextlib.contextmanager
def _people(settings: Settings, data: Path) -> Iterator[People]:
    """The people of a data folder that nobody serves.

    Raises:
        ConfigError: ``data_in_use``, ``data_unusable``.
    """
    try:
        store = Store(data, PEOPLE_SCHEMA)
    except DataLockedError as error:
        raise ConfigError("data_in_use", "a control plane serves it: stop that first, or use its API", path=data) from error
    except sqlite3.Error as error:
        raise ConfigError("data_unusable", f"its database can't be opened: {error}", path=data) from error
    try:
        yield People.configured(store, settings.people)
    finally:
        store.close()
