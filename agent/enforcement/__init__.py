"""Running steps forward and back through their enforcers."""

from agent.enforcement.run import Enforcers, apply, revert

__all__ = ["Enforcers", "apply", "revert"]
