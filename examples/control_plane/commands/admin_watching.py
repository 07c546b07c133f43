"""tidegate-cp events and sessions: what happens, and what was recorded. Whatever comes from a tenant is made harmless first."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from agent.cli.output import json_option, reporting, show
from agent.cli.screen import Screen, on_terminal
from agent.errors import ConfigError, HostError
from agent.model.text import one_line, printable
from agent.sessions.recording import Frame, Kind
from examples.control_plane.commands.admin_common import host_token, rows, segment
from examples.control_plane.commands.client import Api, Json, objects, shown
from examples.control_plane.commands.login import Connection, connect, say
from examples.control_plane.people.errors import ProviderError

_RECORDINGS = {
    "HOST": "host_name",
    "ID": "id",
    "WHO": "subject",
    "LOGIN": "login",
    "REQUEST": "request",
    "BYTES": "size",
    "WHOLE": "complete",
    "CAME": "came_at",
}
_FORMATS = ("asciicast-v2", "asciicast-v3", "text", "ndjson")
_LINE_MAX = 1 << 20
_SPEED = click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, show_default=True, help="This many times as fast.")
_IDLE = click.option("--idle-limit", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer where nothing happens.")


@click.group()
def events() -> None:
    """What happens here and on the hosts."""


@events.command()
@click.option("--after", type=int, metavar="ID", help="From behind this event on; else from now on.")
@json_option
@click.pass_obj
@reporting
def follow(connection: Connection, after: int | None, as_json: bool) -> None:
    """Events as they come, until Ctrl-C. With --json: one object a line."""
    api = connect(connection)
    path = "/v1/events/stream" + (f"?after={after}" if after is not None else "")
    for name, data in api.stream(path):
        found = _object(data)
        if name != "error" and found:
            click.echo(json.dumps(found, ensure_ascii=True) if as_json else _told(found))


@events.command("list")
@click.option("--after", type=int, default=0, metavar="ID", help="From behind this event on.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True)
@json_option
@click.pass_obj
@reporting
def list_events(connection: Connection, after: int, limit: int, as_json: bool) -> None:
    """Events, oldest first."""
    found = connect(connection).get("/v1/events", after=after, limit=limit)
    show(found, as_json, lambda: "\n".join(map(_told, objects(found, "events"))) or "there are none")


def _told(event: Json) -> str:
    ocsf = event.get("ocsf")
    said: Json = ocsf if isinstance(ocsf, dict) else event
    at = said.get("time")
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1000)) if isinstance(at, int) and 0 <= at < 1 << 45 else "-"
    words = (event.get("id"), event.get("source"), said.get("severity"), said.get("message"))
    return "  ".join([when, *map(shown, words)])


@click.group()
def sessions() -> None:
    """Recorded sessions, by HOST/ID."""


@sessions.command("list")
@click.option("--host", help="Of this host.")
@click.option("--request", help="Of this request.")
@json_option
@click.pass_obj
@reporting
def list_sessions(connection: Connection, host: str | None, request: str | None, as_json: bool) -> None:
    """Recordings, newest first."""
    api = connect(connection)
    found = api.get("/v1/recordings", host=host_token(api, host) if host else None, request=request)
    show(found, as_json, lambda: rows(objects(found, "recordings"), _RECORDINGS, "there are none"))


@sessions.command()
@click.argument("which", metavar="HOST/ID")
@json_option
@click.pass_obj
@reporting
def watch(connection: Connection, which: str, as_json: bool) -> None:
    """Look over a session's shoulder while it goes on; ends with it. Ctrl-C leaves, and leaves the session alone."""
    api = connect(connection)
    stream = api.stream(f"{_path(api, which)}/live")
    if as_json:
        for name, data in stream:
            click.echo(json.dumps({"event": name, "data": data}, ensure_ascii=True))
        return
    with on_terminal("`tidegate-cp sessions export HOST/ID --format text`") as screen:
        try:
            for name, data in stream:
                if name == "end":
                    break
                _draw(screen, data)
            screen.note("ended")
        except KeyboardInterrupt:
            screen.note("left; the session goes on")


@sessions.command()
@click.argument("which", metavar="HOST/ID")
@_SPEED
@_IDLE
@json_option
@click.pass_obj
@reporting
def play(connection: Connection, which: str, speed: float, idle_limit: float | None, as_json: bool) -> None:
    """Play a recording on this terminal, as it was. It only draws. With --json: what it is, and whether it is whole."""
    api = connect(connection)
    recording = api.get(_path(api, which))
    if as_json:
        show(recording, as_json, str)
        return
    _warn(recording)
    with on_terminal("`tidegate-cp sessions export HOST/ID --format text`") as screen:
        at = 0.0
        for line in _lines(api.pieces(f"{_path(api, which)}/export?format=asciicast-v2")):
            found = _list(line)
            if found is not None:
                wait = max(0.0, found[0] - at)
                at = max(at, found[0])
                time.sleep((wait if idle_limit is None else min(wait, idle_limit)) / speed)
            _draw(screen, line)


def _warn(recording: Json) -> None:
    """Said before anything of it is shown."""
    verified = recording.get("verified")
    if isinstance(verified, dict) and verified.get("ok") is not True:
        say(f"tidegate-cp: this recording is damaged or was changed: {shown(verified.get('problems'))}")


@sessions.command()
@click.argument("which", metavar="HOST/ID")
@click.option("--format", "form", type=click.Choice(_FORMATS), default="asciicast-v2", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write it here instead of to stdout.")
@json_option
@click.pass_obj
@reporting
def export(connection: Connection, which: str, form: str, output: Path | None, as_json: bool) -> None:
    """A recording for other programs: asciinema's, grep, jq. A file is for its owner alone."""
    if as_json and output is None:
        raise click.UsageError("--json needs --output FILE: without it the export itself goes to stdout")
    api = connect(connection)
    pieces = api.pieces(f"{_path(api, which)}/export?format={form}")
    if output is None and sys.stdout.isatty():
        if form != "text":
            raise click.UsageError("an export holds what a tenant's programs wrote: to a file or a pipe, not to a terminal")
        for line in _lines(pieces):
            click.echo(printable(line.rstrip("\r")))
        return
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        return
    size = _written(pieces, output)
    show({"file": str(output), "format": form, "bytes": size}, as_json, lambda: f"{shown(str(output))}: {size} bytes")


def _written(pieces: Iterable[bytes], output: Path) -> int:
    size = 0
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                size += file.write(piece)
    except OSError as error:
        raise ConfigError("file_unwritable", f"can't be written: {error.strerror}", path=output) from error
    return size


def _path(api: Api, which: str) -> str:
    host, slash, ident = which.rpartition("/")
    if not slash or not host:
        raise click.UsageError("name a session as HOST/ID: see `tidegate-cp sessions list`")
    return f"/v1/recordings/{segment(host_token(api, host))}/{segment(ident)}"


def _draw(screen: Screen, line: str) -> None:
    """One line of asciicast v2, by the filter that every recorded terminal goes through here."""
    found = _list(line)
    if found is None:
        return
    _, code, data = found
    if code == "o":
        screen.show(Frame(Kind.OUT, 0, data.encode("utf-8", "surrogatepass")))
    elif code == "m":
        screen.note(one_line(data, 200))


def _list(line: str) -> tuple[float, str, str] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    right = isinstance(found, list) and len(found) == 3 and isinstance(found[0], int | float) and not isinstance(found[0], bool)
    if not right or not isinstance(found[1], str) or not isinstance(found[2], str) or not 0 <= found[0] < 1e9:
        return None
    return float(found[0]), found[1], found[2]


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > _LINE_MAX:
            raise ProviderError("answer_too_large", "a line of the recording never ends")
        yield from (line.decode("utf-8", "replace") for line in whole)
    if rest:
        yield rest.decode("utf-8", "replace")


def _object(data: str) -> Json:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HostError("answer_shape", "the control plane sent an event that is no JSON") from error
    return found if isinstance(found, dict) else {}
