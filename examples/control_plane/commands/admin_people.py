"""tidegate-cp people: who is known, what roles they have, and their end here."""

import click

from agent.cli.output import json_option, reporting, show
from agent.model.text import counted, folded
from examples.control_plane.commands.admin_common import rows
from examples.control_plane.commands.client import Api, Json, objects, shown
from examples.control_plane.commands.login import Connection, connect

_HEADINGS = {
    "ID": "id",
    "SUBJECT": "subject",
    "NAME": "name",
    "LOGIN": "login",
    "ROLES": "roles",
    "FROM": "issuer",
    "OFFBOARDED": "ended",
}
_REASON = click.option("--reason", metavar="TEXT", required=True, help="For the trail and the hosts' receipts.")


@click.group()
def people() -> None:
    """Who is known here."""


@people.command("list")
@json_option
@click.pass_obj
@reporting
def list_people(connection: Connection, as_json: bool) -> None:
    """Everybody known, offboarded or not."""
    found = connect(connection).get("/v1/people")
    show(found, as_json, lambda: rows(objects(found, "people"), _HEADINGS, "nobody"))


@people.command()
@click.argument("name")
@click.option("--full-name", default="", help="As hosts show it.")
@click.option("--role", "roles", multiple=True, required=True, metavar="NAME", help="What they may do; may be given again.")
@json_option
@click.pass_obj
@reporting
def add(connection: Connection, name: str, full_name: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Make a local account; its password is shown this once."""
    body: Json = {"name": name, "full_name": full_name, "roles": sorted(set(roles))}
    found = connect(connection).post("/v1/people", body)
    show(found, as_json, lambda: f"{shown(name)} may log in with the password\n{shown(found.get('password'))}")


@people.command()
@click.argument("who", metavar="SUBJECT")
@click.argument("roles", nargs=-1)
@click.option("--none", is_flag=True, help="Take every role.")
@json_option
@click.pass_obj
@reporting
def roles(connection: Connection, who: str, roles: tuple[str, ...], none: bool, as_json: bool) -> None:
    """Show somebody's roles, or set exactly these (local accounts). What a lost role allowed is ended."""
    api = connect(connection)
    path = f"/v1/people/{_ident(api, who)}/roles"
    found = api.call("PUT", path, {"roles": sorted(set(roles))}) if roles or none else api.get(path)
    show(found, as_json, lambda: f"{shown(who)}: {shown(found.get('roles'))}")


@people.command()
@click.argument("who", metavar="SUBJECT")
@_REASON
@json_option
@click.pass_obj
@reporting
def offboard(connection: Connection, who: str, reason: str, as_json: bool) -> None:
    """End everything that somebody holds on every host, their sessions and logins here, and what they asked for or approved.

    Durable when it returns, also for hosts that are off now. May be done again.
    """
    api = connect(connection)
    found = api.post(f"/v1/people/{_ident(api, who)}/offboard", {"reason": reason})
    show(found, as_json, lambda: f"{shown(who)} is offboarded: {_ended(found)}")


@people.command()
@click.argument("who", metavar="SUBJECT")
@_REASON
@json_option
@click.pass_obj
@reporting
def restore(connection: Connection, who: str, reason: str, as_json: bool) -> None:
    """Let somebody who was offboarded log in again; nothing that was ended comes back."""
    api = connect(connection)
    found = api.post(f"/v1/people/{_ident(api, who)}/restore", {"reason": reason})
    show(found, as_json, lambda: f"{shown(who)} may log in again; roles come with it, or by `tidegate-cp people roles`")


def _ident(api: Api, who: str) -> int:
    """The number of the person with this subject, login or number. Raises UsageError."""
    for person in objects(api.get("/v1/people"), "people"):
        ident, subject = person.get("id"), person.get("subject")
        if isinstance(ident, int) and (who in (str(ident), person.get("login")) or folded(str(subject)) == folded(who)):
            return ident
    raise click.UsageError(f"nobody is known as {shown(who)}: see `tidegate-cp people list`")


def _ended(found: Json) -> str:
    revoked, withdrawn, hosts = (found.get(name) for name in ("revoked", "withdrawn", "hosts"))
    parts = [
        counted(len(revoked) if isinstance(revoked, list) else 0, "open request") + " revoked",
        counted(len(withdrawn) if isinstance(withdrawn, list) else 0, "waiting request") + " withdrawn",
        counted(hosts if isinstance(hosts, int) else 0, "host") + " told",
        counted(found["voided"] if isinstance(found.get("voided"), int) else 0, "approval") + " voided",  # type: ignore[arg-type]  # just seen
    ]
    return ", ".join(parts)
