"""Asking the daemon for a view."""

from pathlib import Path

from agent.config import config_path, load_config
from agent.control import client


def ask(config_file: Path | None, op: str, **arguments: object) -> object:
    """One question over the control socket of this configuration. Raises HostError, ConfigError, RefusedError."""
    return client.call(load_config(config_path(config_file)).paths.control_socket, op, **arguments)
