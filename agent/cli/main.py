"""The command's tree. Each file beside this one holds one family of subcommands."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import click

from agent import VERSION
from agent.cli.lazy import LazyGroup, Where
from agent.cli.output import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE


class Commands(LazyGroup):
    """The command's tree."""

    lazy: ClassVar[Mapping[str, Where]] = {
        "config": Where("agent.cli.config", "config"),
        "doctor": Where("agent.cli.doctor", "doctor"),
        "enroll": Where("agent.cli.enroll", "enroll", package="tidegate-courier"),
        "grants": Where("agent.cli.access", "grants"),
        "keygen": Where("agent.cli.tokens", "keygen"),
        "metrics": Where("agent.cli.metrics", "metrics"),
        "plan": Where("agent.cli.plan", "plan"),
        "policy": Where("agent.cli.policy", "policy"),
        "receipts": Where("agent.cli.receipts", "receipts"),
        "revoke": Where("agent.cli.access", "revoke"),
        "sessions": Where("agent.cli.sessions", "sessions"),
        "sign": Where("agent.cli.tokens", "sign"),
        "status": Where("agent.cli.access", "status"),
        "verify": Where("agent.cli.tokens", "verify"),
    }


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    envvar="TIDEGATE_CONFIG",
    help="Another configuration file than /etc/tidegate/tidegate.yaml.",
)
@click.version_option(VERSION, prog_name="tidegate")
@click.pass_context
def cli(context: click.Context, config_file: Path | None) -> None:
    """Who can get into this host, why, and until when.

    \b
    At 3 a.m.:
      tidegate status              who can get in now, as what, until when, why; and what is wrong
      tidegate sessions list       who is in right now (`sessions kill ID`: end one session)
      tidegate revoke JTI          end one grant now (--subject S: all of a person's, --all: everything)
      tidegate receipts list       proof of what has ended (`receipts verify FILE`: is it genuine)
      tidegate doctor              what is wrong with this host and how to mend it
      systemctl start tidegated    when it does not answer; `journalctl -u tidegated` says why

    Every command takes --json. Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused.
    """
    context.obj = config_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``tidegate``; always exits."""
    status = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        status = _unwritable(error)
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    """The exit status."""
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="tidegate", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_FAILED
    except click.Abort:
        click.echo("tidegate: stopped", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except OSError as error:
        return _unwritable(error)
    return EXIT_DONE


def _unwritable(error: OSError) -> int:
    """The output can't be written. Python must not try it once more at exit, and complain in its own words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not isinstance(error, BrokenPipeError):  # a reader (head, less) that has gone is nobody's fault
        click.echo(f"tidegate: the output can't be written: {error.strerror}", err=True)
    return EXIT_FAILED
