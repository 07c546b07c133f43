"""The configuration in force. A bad file never replaces a good configuration, not even across a restart, and never goes unsaid.

The last good one is kept beside the journal: a daemon that did not start for a misspelt key would end nothing.
"""

import dataclasses
import json
import logging
import os
from pathlib import Path

from agent.config import DEFAULT_PATH, Config, Paths, load_config
from agent.errors import ConfigError, HostError
from agent.host import files

log = logging.getLogger("tidegate")
KEPT = Path("/var/lib/tidegate/last-config.json")


class ConfigStore:
    """Reads tidegate.yaml and conf.d; ``config`` is what counts, ``error`` why the files as they are now do not."""

    def __init__(self, main: Path | None, kept: Path = KEPT) -> None:
        """Load, or fall back on the last good configuration of the same file.

        Raises:
            ConfigError: the files are bad, and no earlier good ones are known.
        """
        self._main = main
        self._kept = kept
        self.error: ConfigError | None = None
        try:
            self.config = load_config(main)
        except ConfigError as error:
            earlier = self._earlier()
            if earlier is None:
                raise
            self.config, self.error = earlier, error
        else:
            self._keep()

    @property
    def main(self) -> Path | None:
        """The file that was named; None where none was."""
        return self._main

    @property
    def folders(self) -> tuple[Path, Path]:
        """Where the files lie: the main file's folder, and conf.d."""
        folder = (self._main or DEFAULT_PATH).parent
        return folder, folder / "conf.d"

    def changed(self) -> bool:
        """Look at the files again: True when they are good and say something else than what counts now."""
        try:
            found = load_config(self._main)
        except ConfigError as error:
            self.error = error
            return False
        self.error = None
        return found != self.config

    def _keep(self) -> None:
        value = {"main": str(self._main or DEFAULT_PATH), "config": dataclasses.asdict(self.config)}
        text = json.dumps(value, default=str, sort_keys=True).encode() + b"\n"
        try:
            if files.read_bounded(self._kept) != text:
                files.make_folder(self._kept.parent, 0o711)
                files.atomic_write(self._kept, text, 0o600)
        except (HostError, OSError) as error:
            log.warning("the configuration could not be kept for a bad day: %s", error)

    def _earlier(self) -> Config | None:
        try:
            status = self._kept.stat()
            value = json.loads(files.read_bounded(self._kept) or b"")
            if status.st_uid != os.geteuid() or value["main"] != str(self._main or DEFAULT_PATH):
                return None
            fields = dict(value["config"])
            paths = Paths(**{name: Path(path) for name, path in fields.pop("paths").items()})
            return Config(paths=paths, **fields)
        except (HostError, OSError, ValueError, KeyError, TypeError):
            return None
