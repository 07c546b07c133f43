"""Running steps forward and back. Recovery replays journaled steps through the same two functions."""

from agent.enforcement.run import ahead, apply, revert

__all__ = ["ahead", "apply", "revert"]
