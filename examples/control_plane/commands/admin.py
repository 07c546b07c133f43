"""`tidegate-cp`: the admin's and the approver's command for the control plane."""

import sys
from collections.abc import Sequence

import click

from agent.cli.output import json_option, reporting, show
from examples.control_plane.commands.admin_hosts import hosts
from examples.control_plane.commands.admin_init import init, password
from examples.control_plane.commands.admin_people import people
from examples.control_plane.commands.admin_requests import break_glass, grants, requests
from examples.control_plane.commands.admin_watching import events, sessions
from examples.control_plane.commands.client import shown
from examples.control_plane.commands.login import Connection, connect, connection_options, log_out
from examples.control_plane.commands.running import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@connection_options
@click.pass_context
def cli(context: click.Context, connection: Connection) -> None:
    """Hosts, requests, people and sessions of a control plane.

    \b
    At 3 a.m.:
      tidegate-cp grants list --live           who holds what, where, until when
      tidegate-cp requests list --waiting      who waits for an approval (`requests approve ID`)
      tidegate-cp grants revoke ID             end it on its hosts now (a request's id, or one grant's)
      tidegate-cp people offboard SUBJECT      end everything that somebody holds, and their logins
      tidegate-cp sessions watch HOST/ID       look over a session's shoulder
      tidegate-cp break-glass list             emergencies that nobody has reviewed

    Every command takes --json. Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused.
    """
    context.obj = connection


@click.command()
@json_option
@click.pass_obj
@reporting
def login(connection: Connection, as_json: bool) -> None:
    """Log in, and say as whom."""
    found = connect(connection).get("/v1/me")
    show(found, as_json, lambda: f"{shown(found.get('name'))} ({shown(found.get('subject'))}): {shown(found.get('roles'))}")


@click.command()
@json_option
@click.pass_obj
@reporting
def logout(connection: Connection, as_json: bool) -> None:
    """End the session with the control plane."""
    there = log_out(connection)
    show({"logged_out": there}, as_json, lambda: "logged out" if there else "there was no session")


for command in (init, password, login, logout, hosts, requests, grants, break_glass, people, events, sessions):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``tidegate-cp``; always exits."""
    run(cli, "tidegate-cp", list(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
