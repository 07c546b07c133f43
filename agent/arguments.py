"""tidegated's own arguments."""

import argparse
from pathlib import Path

from agent import VERSION


def parser(about: str | None = None) -> argparse.ArgumentParser:
    """What it may be started with; docs/make_man.py reads it too. ``about`` is what ``--help`` begins with."""
    made = argparse.ArgumentParser(prog="tidegated", description=about, allow_abbrev=False)
    made.add_argument("--config", type=Path, metavar="PATH", help="Another configuration file.")
    made.add_argument("--verbose", action="store_true", help="Say more.")
    made.add_argument("--version", action="version", version=f"tidegated, version {VERSION}", help="Show the version and exit.")
    return made
