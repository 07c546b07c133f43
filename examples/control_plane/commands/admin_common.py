"""What the admin's subcommands share: arguments with one rule, rows for tables."""

import re
import urllib.parse
from collections.abc import Mapping, Sequence

import click

from agent.cli.output import table
from examples.control_plane.commands.client import Api, Json, objects, shown

_PAIR = re.compile(r"[a-z][a-z0-9_.-]{0,62}=[A-Za-z0-9._-]{1,63}")


def segment(value: str) -> str:
    """One segment of a path, whatever somebody typed."""
    return urllib.parse.quote(value, safe="")


def pairs(_: click.Context, __: click.Parameter, values: Sequence[str]) -> Mapping[str, str]:
    """``NAME=VALUE`` options. Raises BadParameter."""
    for value in values:
        if not _PAIR.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return dict(value.split("=", 1) for value in values)


def rows(found: Sequence[Json], headings: Mapping[str, str], nothing: str) -> str:
    """A table: heading → member. ``nothing`` is said when there are none."""
    if not found:
        return nothing
    return table(list(headings), [[shown(item.get(member)) for member in headings.values()] for item in found])


def lines(found: Json) -> str:
    """One object, a member on each line."""
    width = max((len(key) for key in found), default=0)
    return "\n".join(f"{shown(key).ljust(width)}  {shown(value)}" for key, value in found.items())


def host_token(api: Api, name: str) -> str:
    """A host's token by its name, or the token itself.

    Raises:
        UsageError: no host is called so.
    """
    for host in objects(api.get("/v1/hosts"), "hosts"):
        if name in (host.get("name"), host.get("host")):
            return str(host.get("host"))
    raise click.UsageError(f"no host is called {shown(name)}: see `tidegate-cp hosts list`")
