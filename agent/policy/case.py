"""What a single check sees: one grant, expanded, against one rule at one time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from agent.model import AccountWant, Grant, GroupWant, SudoWant
from agent.policy.model import Command, Entry, Live, Policy, Rule
from agent.policy.privileged import root_equivalent

# Why others than root can change what a command runs, given the groups that its login gets; None when they can't.
Changeable: TypeAlias = Callable[[SudoWant, Command, frozenset[str]], str | None]


@dataclass(frozen=True, slots=True)
class Case:
    """``now_s`` in seconds since the epoch; ``entries`` are the grant's, roles replaced."""

    grant: Grant
    rule: Rule
    policy: Policy
    entries: tuple[Entry, ...]
    now_s: int
    live: tuple[Live, ...]
    is_ours: Callable[[str], bool]
    changeable: Changeable = lambda _want, _words, _groups: None

    def why_root(self, want: SudoWant, words: Command) -> str | None:
        """Why a command of this grant amounts to root: as text, or by who may change its files on this host."""
        entries = (entry.want for entry in self.entries if entry.want.identifier == want.identifier)
        groups = frozenset(group for held in entries if isinstance(held, AccountWant | GroupWant) for group in held.groups)
        return root_equivalent(words, self.policy.extra_root_equivalent) or self.changeable(want, words, groups)

    def makes(self, login: str) -> bool:
        """Whether an entry of this grant is the account ``login``."""
        return any(isinstance(entry.want, AccountWant) and entry.want.identifier == login for entry in self.entries)
