"""A data folder: keys below keys/, the database, recordings/. Made once; made again it changes nothing."""

import shutil
from pathlib import Path

from examples.control_plane.config import Settings, load
from examples.control_plane.signing import keys

EXAMPLE = Path(__file__).parent / "example.yaml"


def make(data: Path, config: Path) -> Settings:
    """Make what is missing: a configuration (the example), the folder, every key.

    Raises:
        ConfigError: the configuration is wrong, or a key can't be written.
    """
    if not config.exists():
        config.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(EXAMPLE, config)
        config.chmod(0o600)
    settings = load(config)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys.create(data / "keys")
    return settings
