"""How both commands end: 0 done, 1 failed, 2 wrong usage, 3 refused, 130 stopped by the person."""

import os
import sys
from collections.abc import Sequence

import click

from agent.cli.output import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE


def run(command: click.Command, name: str, words: Sequence[str], obj: object = None) -> None:
    """Run a command with these words, and exit."""
    status = _status(command, name, words, obj)
    try:
        sys.stdout.flush()
    except OSError:
        # Python must not try it once more at exit, and complain in its own words.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = EXIT_FAILED
    sys.exit(status)


def _status(command: click.Command, name: str, words: Sequence[str], obj: object) -> int:
    try:
        command.main(args=list(words), prog_name=name, standalone_mode=False, obj=obj)
    except click.exceptions.Exit as done:
        return done.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{name}: stopped", err=True)
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except BrokenPipeError:
        return EXIT_FAILED
    return EXIT_DONE
