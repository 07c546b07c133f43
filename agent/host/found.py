"""What is looked for on the host when a grant has ended, and what is found: plain values, for the search's own process too."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

UNSEARCHED = "unsearched"  # the kind of a place that could not be looked at, so that nobody can say it is clean


@dataclass(frozen=True, slots=True)
class Found:
    """One thing. ``uid``: whose it is; None concerns everybody who was looked for, or is the host's own."""

    kind: str
    where: str
    detail: str = ""
    removed: bool = False
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class SetGid:
    """A group that was lent to an account that stays: a setgid file of that account's would keep the group's rights."""

    gid: int
    owner: int
    since_ns: int


@dataclass(frozen=True, slots=True)
class Search:
    """An order to look for what these uids left on local file systems, and as IPC objects.

    ``archives``: uid → file that what is found of it is packed into before it is removed. ``keep``: paths that are not
    entered. ``whole``: everywhere; else only where everybody may write. ``remove`` False: looks only.
    """

    uids: frozenset[int] = frozenset()
    archives: Mapping[int, Path] = field(default_factory=dict)
    setgid: tuple[SetGid, ...] = ()
    keep: tuple[Path, ...] = ()
    whole: bool = True
    remove: bool = True
    acls: bool = False
    patience_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is: entries looked at, where it is, how many seconds it has taken."""

    entries: int
    where: str
    seconds: float
