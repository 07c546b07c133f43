"""plan: what a grant would change here, touching nothing."""

import os
from pathlib import Path
from typing import cast

import click

from agent.assembly import looking_only
from agent.cli.daemon_view import ask
from agent.cli.output import json_option, reporting, show
from agent.cli.tokens import read_token
from agent.config import config_path, load_config
from agent.control import views
from agent.errors import HostError
from agent.model.text import printable

Object = dict[str, object]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@json_option
@click.pass_obj
@reporting
def plan(config_file: Path | None, file: Path, as_json: bool) -> None:
    """Show what a grant would change here, touching nothing.

    FILE may be - for stdin. It is judged as if it were dropped in now. Exits 3 when it would be refused, with code and reason.
    With tidegated stopped, root gets the same answer from the files alone.
    """
    found = _planned(config_file, read_token(file))
    show(found, as_json, lambda: _text(found))


def _planned(config_file: Path | None, token: bytes) -> Object:
    try:
        by_daemon = cast(Object, ask(config_file, "plan", token=token.decode("ascii", "replace")))
    except HostError as error:
        if error.code != "agent_unreachable" or os.geteuid() != 0:
            raise
    else:
        return {**by_daemon, "planned_by": "daemon"}
    return {**views.plan(looking_only(load_config(config_path(config_file))).admit(token)), "planned_by": "files"}


def _text(found: Object) -> str:
    steps = cast(list[Object], found["steps"])
    lines = [f"{found['subject']} by {found['issuer']}, rule {found['rule']}: {found['access']}"]
    lines += [f"  can't be contained once used: {why}" for why in cast(list[str], found["not_containable"])]
    lines += [f"  from {found['begins']} until {found['ends']}", "", "would, in this order:"]
    lines += [f"  {number:>2}. {step['summary']}  (undone at {step['phase']})" for number, step in enumerate(steps, 1)]
    if found["planned_by"] == "files":
        lines += ["", "tidegated does not answer: planned without it, by the policy, keys and journal on disk"]
    return printable_lines(lines)


def printable_lines(lines: list[str]) -> str:
    """Lines joined, each made safe for a terminal."""
    return "\n".join(printable(line) for line in lines)
