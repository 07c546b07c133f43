"""The command ``tidegate``. The only part that prints, asks and exits; everything else returns values and raises."""

from agent.cli.main import main

__all__ = ["main"]
