"""How one attempt to end a grant went."""

from dataclasses import dataclass, field

from agent.errors import TidegateError
from agent.expiry.live import LiveGrant
from agent.expiry.sever import Severed
from agent.model import Residue
from agent.model.text import one_line


@dataclass(slots=True)
class Shut:
    """Times are wall-clock nanoseconds; ``ended_ns`` is None while anything is left."""

    live: LiveGrant
    began_ns: int
    ended_ns: int | None = None
    undone: list[tuple[int, str]] = field(default_factory=list)
    severed: list[Severed] = field(default_factory=list)
    residue: list[Residue] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Everything that keeps the grant from being over."""
        found = [error for _, error in self.undone if error] + [f"still alive: {name}" for name in self.survivors]
        return [one_line(error) for error in found]

    @property
    def survivors(self) -> list[str]:
        """Processes that could not be ended."""
        return [name for severed in self.severed for name in severed.survivors]


def shown(error: Exception) -> str:
    """An error as a grant's trouble is told: with its code, or its kind."""
    return str(error) if isinstance(error, TidegateError) else f"{type(error).__name__}: {error}"
