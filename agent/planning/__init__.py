"""Grant → ordered steps, pure but for looking at the host."""

from agent.planning.commands import changeable
from agent.planning.plan import plan

__all__ = ["changeable", "plan"]
