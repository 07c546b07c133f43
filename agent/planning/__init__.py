"""Grant → ordered steps, pure but for looking at the host."""

from agent.planning.commands import changeable
from agent.planning.plan import plan
from agent.planning.supersede import Replacement, Without, replacement

__all__ = ["Replacement", "Without", "changeable", "plan", "replacement"]
