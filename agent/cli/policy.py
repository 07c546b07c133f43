"""policy check: what is wrong with the policy files, at which line."""

import sys
from pathlib import Path

import click

from agent import planning
from agent import policy as policies
from agent.assembly import registry
from agent.cli.output import EXIT_DONE, EXIT_FAILED, json_option, reporting, show
from agent.config import Config, config_path, load_config
from agent.host.system import SystemHost
from agent.model import SudoWant
from agent.model.text import printable


@click.group()
def policy() -> None:
    """This host's own ceiling on what any grant may open."""


@policy.command()
@click.argument("where", required=False, type=click.Path(exists=True, path_type=Path))
@json_option
@click.pass_obj
@reporting
def check(config_file: Path | None, where: Path | None, as_json: bool) -> None:
    """Find what is wrong with policy files.

    WHERE is a file or folder that is to go there; without it the folder in force is checked. Exits 1 when it would not load.
    """
    folder = where or load_config(config_path(config_file)).paths.policy_dir
    decoders = policies.decoders(registry())
    host = SystemHost(Config())

    def changeable(run_as: tuple[str, ...], words: tuple[str, ...]) -> str | None:
        return planning.changeable(SudoWant("", run_as, (words,)), words, (), host)

    findings = policies.check(folder, decoders, changeable=changeable)
    errors = [finding for finding in findings if finding.level == "error"]
    result = {"ok": not errors, "path": str(folder), "findings": [finding.to_json() for finding in findings]}
    lines = [f"{finding.level}: {finding}" for finding in findings] + [f"{folder}: {'not usable' if errors else 'ok'}"]
    show(result, as_json, lambda: "\n".join(printable(line) for line in lines))
    sys.exit(EXIT_FAILED if errors else EXIT_DONE)
