"""plan: what a grant would change here, touching nothing."""

from pathlib import Path
from typing import cast

import click

from agent.cli.daemon_view import ask
from agent.cli.output import json_option, printable, reporting, show
from agent.cli.tokens import read_token

Object = dict[str, object]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@json_option
@click.pass_obj
@reporting
def plan(config_file: Path | None, file: Path, as_json: bool) -> None:
    """Show what a grant would change here, touching nothing.

    FILE may be - for stdin. It is judged as if it were dropped in now. Exits 3 when it would be refused, with code and reason.
    """
    found = cast(Object, ask(config_file, "plan", token=read_token(file).decode("ascii", "replace")))
    show(found, as_json, lambda: _text(found))


def _text(found: Object) -> str:
    steps = cast(list[Object], found["steps"])
    lines = [f"{found['subject']} by {found['issuer']}, rule {found['rule']}: {found['access']}"]
    lines += [f"  from {found['begins']} until {found['ends']}", "", "would, in this order:"]
    lines += [f"  {number:>2}. {step['summary']}  (undone at {step['phase']})" for number, step in enumerate(steps, 1)]
    return printable_lines(lines)


def printable_lines(lines: list[str]) -> str:
    """Lines joined, each made safe for a terminal."""
    return "\n".join(printable(line) for line in lines)
