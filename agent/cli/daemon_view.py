"""Asking the daemon for a view."""

from pathlib import Path

import click

from agent.config import Config, config_path, load_config
from agent.control import client
from agent.errors import ConfigError
from agent.model.text import printable


def configured(config_file: Path | None, instead: str) -> Config:
    """This host's configuration; with a bad default one, the defaults, which is told (``instead``: what is done then).

    A daemon outlives a bad configuration, and a mistake in a file must not keep anyone from seeing or ending access.
    Whoever names another file means another daemon, though: that one or none.

    Raises:
        ConfigError: the file that was named is bad.
    """
    try:
        return load_config(config_path(config_file))
    except ConfigError as error:
        if config_file is not None:
            raise
        click.echo(f"tidegate: {printable(str(error))}; {instead}", err=True)
        return Config()


def quietly(config_file: Path | None) -> Config:
    """The same with nothing said: for what is shown beside an answer."""
    try:
        return load_config(config_path(config_file))
    except ConfigError:
        return Config()


def ask(config_file: Path | None, op: str, **arguments: object) -> object:
    """One question over the control socket of this configuration; with a bad default one, over the default socket.

    Raises:
        ConfigError: the file that was named is bad.
        HostError, RefusedError: what the daemon says, or that it does not answer.
    """
    config = configured(config_file, "asking at the default socket")
    return client.call(config.paths.control_socket, op, **arguments)
