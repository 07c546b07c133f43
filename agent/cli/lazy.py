"""A group of commands that imports each only when it is asked for: `tidegate status` does not load what `enroll` needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import click

from agent.cli.output import fail
from agent.errors import HostError


@dataclass(frozen=True, slots=True)
class Where:
    """``module:name`` of a command, and the package that has the module where that is not this one's own."""

    module: str
    name: str
    package: str = ""


class LazyGroup(click.Group):
    """click's group whose commands are known by where they are."""

    lazy: ClassVar[Mapping[str, Where]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted, as click does."""
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or a stand-in that says which package is missing."""
        where = self.lazy.get(cmd_name)
        if where is None:
            return None
        try:
            found: click.Command = getattr(import_module(where.module), where.name)
        except ModuleNotFoundError as error:
            if not where.package or error.name != where.module:
                raise
            return _absent(cmd_name, where.package)
        return found


def _absent(name: str, package: str) -> click.Command:
    said = f"Comes with the package {package}, which is not installed here."

    @click.command(
        name, help=said, short_help=f"Not installed here: package {package}.", context_settings={"ignore_unknown_options": True}
    )
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def absent(rest: tuple[str, ...]) -> None:
        error = HostError("not_installed", f"`tidegate {name}` comes with the package {package}, which is not installed here")
        fail(error, as_json="--json" in rest)

    return absent
