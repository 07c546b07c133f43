"""sessions: who is in right now, ending one session without ending its grant, and what was recorded."""

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import cast

import click

from agent.cli import playing, recordings
from agent.cli.daemon_view import ask
from agent.cli.output import EXIT_DONE, EXIT_FAILED, json_option, reporting, show, table
from agent.model.text import printable

Object = dict[str, object]


@click.group()
def sessions() -> None:
    """Who is in right now through Tidegate, and what was recorded."""


@sessions.command("list")
@click.option("--recorded", is_flag=True, help="The recordings on disk instead, newest first: also of sessions that are over.")
@json_option
@click.pass_obj
@reporting
def list_sessions(config_file: Path | None, recorded: bool, as_json: bool) -> None:
    """Every live session of the tenants: whose, from where, since when, doing what.

    A person's own account that a grant gave something is not a tenant's: its sessions are the person's.
    """
    if recorded:
        recordings.recorded(config_file, as_json)
        return
    found = cast(Object, ask(config_file, "sessions"))
    show(found, as_json, lambda: _table(cast(list[Object], found["sessions"])) or "Nobody is in through Tidegate now.")


@sessions.command("kill")
@click.argument("ident", metavar="ID")
@json_option
@click.pass_obj
@reporting
def kill(config_file: Path | None, ident: str, as_json: bool) -> None:
    """End one session now, with everything that runs in it; its grant goes on, so its user may log in again.

    Exits 1 when there is no such session, and when something of it would not die.
    """
    found = cast(Object, ask(config_file, "kill_session", id=ident))
    show(found, as_json, lambda: _killed(found))
    sys.exit(EXIT_DONE if found["ended"] else EXIT_FAILED)


for command in (playing.play, playing.watch, recordings.export, recordings.verify):
    sessions.add_command(command)


def _table(found: list[Object]) -> str:
    if not found:
        return ""
    rows = []
    for entry in found:
        since = str(entry["since"])[:19].replace("T", " ")
        left = _left(str(entry["until"]))
        recorded = str(entry["recording"] or "-")
        doing = "; ".join(cast(list[str], entry["commands"])) or "-"
        who = [str(entry[name]) for name in ("id", "subject", "login")]
        rows.append([*who, str(entry["from"]) or "-", since, left, str(entry["tty"] or "-"), str(entry["jti"]), recorded, doing])
    return table(["ID", "WHO", "LOGIN", "FROM", "SINCE (UTC)", "LEFT", "TTY", "GRANT", "RECORDING", "DOING"], rows)


def _left(until: str) -> str:
    """Until an RFC 3339 time of this host's: the two largest units."""
    seconds = max(0, round(datetime.fromisoformat(until.replace("Z", "+00:00")).timestamp() - time.time()))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours // 24}d {hours % 24}h" if hours >= 24 else f"{hours}h {minutes}m" if hours else f"{minutes}m {seconds % 60}s"


def _killed(found: Object) -> str:
    who = f"session {printable(str(found['id']))} of {printable(str(found['subject']))} ({printable(str(found['login']))})"
    if found["ended"]:
        return f"{who}: ended, {found['processes']} processes; the grant {printable(str(found['jti']))} goes on"
    return f"{who}: NOT OVER, still alive: {', '.join(str(pid) for pid in cast(list[int], found['left']))}"
