"""How results and errors reach a person or a script: text for one, one documented JSON object for the other."""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click

from agent.errors import ConfigError, RefusedError, TidegateError
from agent.model.text import printable

P = ParamSpec("P")
R = TypeVar("R")

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


def json_option(command: Callable[P, R]) -> Callable[P, R]:
    """``--json`` for a command: its result, or its error, as one object on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def show(result: object, as_json: bool, text: Callable[[], str]) -> None:
    """Print a result one way or the other."""
    click.echo(json.dumps(result, indent=2, ensure_ascii=True, default=str) if as_json else text())


def reporting(command: Callable[..., R]) -> Callable[..., R]:
    """Turn an error of ours into a message and the contract's exit code: 1 failed, 3 refused."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> R:
        try:
            return command(*args, **kwargs)
        except TidegateError as error:
            fail(error, as_json=bool(kwargs.get("as_json")))
        except OSError as error:
            if error.filename is None:
                raise  # of the output itself: for main to tell
            unreadable = ConfigError("file_unreadable", f"can't be read: {error.strerror}", path=Path(error.filename))
            fail(unreadable, as_json=bool(kwargs.get("as_json")))

    return wrapped


def fail(error: TidegateError, *, as_json: bool) -> NoReturn:
    """Say what went wrong and exit."""
    refused = isinstance(error, RefusedError)
    if as_json:
        body: dict[str, object] = {"ok": False, "code": error.code, "reason": error.reason, "field": error.field}
        if isinstance(error, ConfigError):
            body |= {"file": str(error.path), "line": error.line, "key": error.key}
        if refused:
            body["verdict"] = "refused"
        click.echo(json.dumps(body, indent=2))
    else:
        click.echo(f"tidegate: {'refused: ' if refused else ''}{printable(str(error))}", err=True)
    sys.exit(EXIT_REFUSED if refused else EXIT_FAILED)


def write_out(path: Path, text: str) -> None:
    """A result into the file that the person named.

    Raises:
        ConfigError: ``file_unwritable``.
    """
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        raise ConfigError("file_unwritable", f"can't be written: {error.strerror}", path=path) from error


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the last one is left as it is."""
    safe = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(headings), *safe]) for index in range(len(headings))]
    lines = [
        [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1]] for row in [list(headings), *safe]
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def duration(seconds: float) -> str:
    """A time span as a person says it: ``4m 10s``, ``2h 5m``, ``3d 4h``."""
    total = int(abs(seconds))
    days, hours, minutes, secs = total // 86400, total // 3600 % 24, total // 60 % 60, total % 60
    parts = [f"{days}d" if days else "", f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{secs}s" if secs else ""]
    found = [part for part in parts if part][:2]
    return " ".join(found) or "0s"
