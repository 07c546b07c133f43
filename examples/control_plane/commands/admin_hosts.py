"""tidegate-cp hosts: which there are, and the line that enrols another one."""

import shlex
from collections.abc import Mapping

import click

from agent import settings
from agent.cli.output import json_option, reporting, show
from agent.errors import RefusedError
from examples.control_plane.commands.admin_common import host_token, lines, pairs, rows, segment
from examples.control_plane.commands.client import Json, objects, shown, text
from examples.control_plane.commands.login import Connection, connect

_HEADINGS = {
    "NAME": "name",
    "STATE": "state",
    "ONLINE": "online",
    "SEEN": "seen_at",
    "CERTIFICATE": "certificate_ends_at",
    "ADDRESS": "address",
    "LABELS": "labels",
}


@click.group()
def hosts() -> None:
    """Enrolled hosts."""


@hosts.command("list")
@json_option
@click.pass_obj
@reporting
def list_hosts(connection: Connection, as_json: bool) -> None:
    """Enrolled hosts, and tokens that are not used yet."""
    api = connect(connection)
    found = api.get("/v1/hosts")
    show(found, as_json, lambda: rows(objects(found, "hosts"), _HEADINGS, "no host is enrolled: `tidegate-cp hosts add NAME`"))


@hosts.command("show")
@click.argument("name")
@json_option
@click.pass_obj
@reporting
def show_host(connection: Connection, name: str, as_json: bool) -> None:
    """One host."""
    api = connect(connection)
    found = api.get(f"/v1/hosts/{segment(host_token(api, name))}")
    show(found, as_json, lambda: lines(found))


@hosts.command()
@click.argument("name")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", callback=pairs, help="Rules find hosts by labels.")
@click.option("--address", help="What people give to ssh; the name where there is none.")
@click.option("--lives", default="1h", show_default=True, metavar="TIME", help="How long the token may be used: 1m to 24h.")
@click.option("--replaces", is_flag=True, help="The host is known already; its old certificates end.")
@json_option
@click.pass_obj
@reporting
def add(
    connection: Connection, name: str, labels: Mapping[str, str], address: str | None, lives: str, replaces: bool, as_json: bool
) -> None:
    """Make a token that enrols one host, once, and print the line to run there as root."""
    try:
        seconds = settings.duration(lives, "--lives")
    except RefusedError as error:
        raise click.UsageError(f"--lives {error.reason}") from error
    body: Json = {"name": name, "labels": dict(labels), "lives_s": seconds, "replaces": replaces}
    found = connect(connection).post("/v1/enrolment-tokens", body | ({"address": address} if address else {}))
    show(
        found,
        as_json,
        lambda: f"# on {shown(name)}, as root, before {shown(found.get('expires'))}:\n{harmless_line(text(found, 'command'))}",
    )


def harmless_line(command: str) -> str:
    """A command line to paste: words only, quoted anew, so that nothing but `tidegate enroll` can be in it.

    Raises:
        RefusedError: ``answer_shape``.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words[:2] != ["tidegate", "enroll"] or not command.isprintable():
        raise RefusedError("answer_shape", "the control plane gave a line that is not `tidegate enroll`: paste nothing of it")
    return shlex.join(words)


@hosts.command()
@click.argument("name")
@click.option("--reason", required=True, help="Goes into the trail.")
@json_option
@click.pass_obj
@reporting
def remove(connection: Connection, name: str, reason: str, as_json: bool) -> None:
    """Expel a host: its certificate is refused from now on. What is open there ends by itself, at its time."""
    api = connect(connection)
    found = api.post(f"/v1/hosts/{segment(host_token(api, name))}/expel", {"reason": reason})
    show(found, as_json, lambda: f"{shown(found.get('name'))} is {shown(found.get('state'))}")
