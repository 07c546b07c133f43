"""What tenants left on a host in memory, for unit tests: implements contract.Remains."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.host.found import Found, Progress, Search


@dataclass
class FakeRemains:
    """What is left on a host in memory: ``found`` by uid, ``changed`` since any baseline; ``errors`` by uid, of a search for it."""

    found: dict[int, list[Found]] = field(default_factory=dict)
    changed: list[Found] = field(default_factory=list)
    mounted: list[Found] = field(default_factory=list)
    errors: dict[int, Exception] = field(default_factory=dict)
    baselines: int = 0
    orders: list[Search] = field(default_factory=list)
    stopped: bool = False

    def baseline(self) -> dict[str, object]:
        """See contract.Remains."""
        self.baselines += 1
        return {"version": 1}

    def changes(self, before: Mapping[str, object], names: Collection[str]) -> list[Found]:
        """See contract.Remains."""
        del before, names
        return list(self.changed)

    def detach(self, homes: Mapping[Path, int], *, runtime: bool = False) -> list[Found]:
        """See contract.Remains."""
        del runtime
        gone = [found for found in self.mounted if found.uid in homes.values()]
        self.mounted = [found for found in self.mounted if found not in gone]
        return gone

    def search(self, order: Search) -> list[Found]:
        """See contract.Remains. What is found as removed is not found again."""
        self.orders.append(order)
        for uid in order.uids & set(self.errors):
            raise self.errors[uid]
        told = [found for uid in sorted(order.uids) for found in self.found.get(uid, [])]
        if order.remove:
            for uid in order.uids:
                self.found[uid] = [found for found in self.found.get(uid, []) if not found.removed]
        return told

    def progress(self) -> Progress | None:
        """See contract.Remains."""
        return None

    def stop(self) -> None:
        """See contract.Remains."""
        self.stopped = True
