"""What a single check sees: one grant, expanded, against one rule at one time."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.model import AccountWant, Grant
from agent.policy.model import Entry, LiveGrant, Policy, Rule


@dataclass(frozen=True, slots=True)
class Case:
    """``now_s`` in seconds since the epoch; ``entries`` are the grant's, roles replaced."""

    grant: Grant
    rule: Rule
    policy: Policy
    entries: tuple[Entry, ...]
    now_s: int
    live: tuple[LiveGrant, ...]
    is_ours: Callable[[str], bool]

    def makes(self, login: str) -> bool:
        """Whether an entry of this grant is the account ``login``."""
        return any(isinstance(entry.want, AccountWant) and entry.want.identifier == login for entry in self.entries)
