"""The command's tree. Each file beside this one holds one family of subcommands."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent import VERSION
from agent.cli.access import grants, revoke, status
from agent.cli.doctor import doctor
from agent.cli.output import EXIT_USAGE
from agent.cli.plan import plan
from agent.cli.policy import policy
from agent.cli.receipts import receipts
from agent.cli.tokens import keygen, sign, verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
      tidegate revoke JTI          end one grant now (--subject S: all of a person's, --all: everything)
      tidegate receipts list       proof of what has ended
      tidegate doctor              what is wrong with this host and how to mend it

    Every command takes --json. Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused.
    """
    context.obj = config_file


for command in (status, grants, revoke, receipts, plan, verify, keygen, sign, policy, doctor):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``tidegate``."""
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="tidegate", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        click.echo("tidegate: stopped", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USAGE)
