"""What was checked, counted and told."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

_TOLD = 4  # of one group's complaints


@dataclass
class Group:
    """Checks of one kind, and what those that failed had to say."""

    name: str
    checks: int
    complaints: list[str]


@dataclass
class Tally:
    """All groups so far; each is printed as it is done."""

    groups: list[Group] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def add(self, name: str, complaints: Iterable[str]) -> None:
        """One group: for each check "", or what is wrong."""
        found = list(complaints)
        group = Group(name, len(found), [complaint for complaint in found if complaint])
        if not found:
            group.complaints.append("nothing was checked")
            group.checks = 1
        self.groups.append(group)
        word = "FAILED" if group.complaints else "ok"
        good = group.checks - len(group.complaints)
        print(f"[{time.monotonic() - self._began:5.1f} s] {word:6} {good:4} of {group.checks:4}  {name}", flush=True)
        for complaint in group.complaints[:_TOLD]:
            print(f"           {complaint[:600]}", flush=True)
        if len(group.complaints) > _TOLD:
            print(f"           and {len(group.complaints) - _TOLD} more", flush=True)

    def same(self, name: str, found: object, expected: object) -> None:
        """One check: two values are equal."""
        self.add(name, ["" if found == expected else f"{_ascii(found)} instead of {_ascii(expected)}"])

    def same_text(self, name: str, found: str, expected: str) -> None:
        """One check: two long texts are equal; else the place where they part is told."""
        self.add(name, [parted(found, expected)])

    @property
    def checks(self) -> int:
        """How many there were."""
        return sum(group.checks for group in self.groups)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(len(group.complaints) for group in self.groups)


def parted(found: str, expected: str) -> str:
    """Where two texts part, or ""."""
    if found == expected:
        return ""
    pairs = enumerate(zip(found, expected, strict=False))
    place = next((index for index, (one, other) in pairs if one != other), min(len(found), len(expected)))
    around = slice(max(0, place - 20), place + 20)
    lengths = f"{len(found)} and {len(expected)} characters"
    return f"at {place} ({lengths}): {found[around]!a} instead of {expected[around]!a}"


def _ascii(value: object) -> str:
    text = ascii(value)
    return text if len(text) < 250 else f"{text[:250]}..."
