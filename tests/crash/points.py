"""The points: which there are is found by going through each operation once, and counting; a name is enough to run one again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.crash.bed import BACKENDS

# Operation → of its calls each so-manieth is a point: every one of applying a grant and of both ways to end it.
OPERATIONS = {"open": 1, "revoke": 1, "expire": 1, "cancel": 8, "stand": 8, "again": 8}
# A start that is itself killed, after a first kill: so far into the opening or the ending (in hundredths of its calls).
AGAIN = (("open", 60), ("revoke", 25), ("revoke", 55))


@dataclass(frozen=True, slots=True)
class Point:
    """``open:userdb:137``: before the 137th mutating call. ``open:userdb:137a``: only tidegated itself is killed, what it runs
    goes on. ``open:userdb:c3``: just before the second commit of the journal (c4: just after it). ``again-open-96:userdb:12``:
    a start after a kill before the 96th call of an opening, killed before its own 12th.
    """

    operation: str
    backend: str
    where: str

    @classmethod
    def named(cls, name: str) -> "Point":
        """The inverse of str(). Raises ValueError."""
        operation, backend, where = name.split(":")
        if backend not in BACKENDS or operation.split("-")[0] not in OPERATIONS:
            raise ValueError(f"no such operation or backend: {name}")
        return cls(operation, backend, where)

    def __str__(self) -> str:
        return f"{self.operation}:{self.backend}:{self.where}"

    @property
    def begins(self) -> dict[str, Any]:
        """The order's members that say what is gone through."""
        operation, *first = self.operation.split("-")
        more = {"first": first[0], "first_at": int(first[1])} if first else {}
        return {"op": operation, "backend": self.backend, **more}

    def order(self, *, knock: bool = False, service: bool = False) -> dict[str, Any]:
        """For the driver. Every other point is started again only after T: what a start before T would mend, none mends.

        ``service``: the real unit, started by systemd, ends a grant of a few seconds by the clock there is.
        """
        number = int(self.where.strip("ac"))
        kill: dict[str, Any] = {"boundary": number} if self.where.startswith("c") else {"at": number}
        return {
            "do": "service" if service else "point",
            **self.begins,
            **kill,
            "only_agent": self.where.endswith("a"),
            "after": number % 2 == 0,
            "knock": knock,
        }


Ask = Callable[[dict[str, Any]], Mapping[str, Any]]


def count(ask: Ask, backends: Sequence[str], *, every: bool = False) -> Iterator[Point]:
    """The points of these backends; ``every``: with those that are left out for the time they take. ``ask``: a driver."""
    for backend in backends:
        calls = {}
        for operation, each in OPERATIONS.items():
            if operation != "again":
                found = _counted(ask, Point(operation, backend, "0"))
                calls[operation] = len(found["calls"])
                yield from _points(found, Point(operation, backend, "0"), 1 if every else each)
        for first, hundredths in AGAIN:
            whole = Point(f"again-{first}-{calls[first] * hundredths // 100}", backend, "0")
            yield from _points(_counted(ask, whole), whole, 1 if every else OPERATIONS["again"])


def _counted(ask: Ask, whole: Point) -> Mapping[str, Any]:
    found = ask({"do": "count", **whole.begins})
    if "calls" not in found:
        raise RuntimeError(f"{whole}: {found}")
    return found


def _points(found: Mapping[str, Any], whole: Point, each: int) -> Iterator[Point]:
    for number, (_, _, _, own, _) in enumerate(found["calls"], 1):
        if number % each == 0:
            yield Point(whole.operation, whole.backend, str(number))
            if not own:
                yield Point(whole.operation, whole.backend, f"{number}a")
    for boundary in range(1, 2 * found["commits"] + 1):
        yield Point(whole.operation, whole.backend, f"c{boundary}")
