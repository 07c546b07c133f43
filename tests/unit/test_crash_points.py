"""The crash sweep's points: none is left out of what it says it covers, and a name is enough to run one again."""

from typing import Any

import pytest

from tests.crash import points
from tests.crash.points import Point


def counted(order: dict[str, Any]) -> dict[str, Any]:
    """A driver that saw nine calls, the fourth of them by a child program, and one commit."""
    assert order["do"] == "count"
    return {"calls": [["write", "/f", "python3", number != 3, 1] for number in range(9)], "commits": 1}


def test_every_call_and_commit_of_opening_and_of_both_ends_is_a_point_and_some_of_the_rest() -> None:
    found = [str(point) for point in points.count(counted, ["userdb"])]
    assert len(set(found)) == len(found)
    whole = [str(number) for number in range(1, 10)] + ["4a", "c1", "c2"]
    for operation in ("open", "revoke", "expire"):
        assert sorted(name for name in found if name.startswith(operation)) == sorted(f"{operation}:userdb:{at}" for at in whole)
    assert [name for name in found if name.startswith("stand")] == [f"stand:userdb:{at}" for at in ("8", "c1", "c2")]
    assert {name.split(":")[0] for name in found if name.startswith("again")} == {
        "again-open-5",
        "again-revoke-2",
        "again-revoke-4",
    }
    every = [point for point in points.count(counted, ["userdb"], every=True) if point.operation == "cancel"]
    assert len(every) == len(whole)


@pytest.mark.parametrize("name", ["open:userdb:137", "open:passwd:4a", "stand:userdb:c3", "again-open-96:userdb:12"])
def test_a_name_says_it_all(name: str) -> None:
    assert str(Point.named(name)) == name
    order = Point.named(name).order()
    assert order["only_agent"] == name.endswith("a")
    assert ("boundary" in order) == (":c" in name)
    assert order["op"] == name.split("-", maxsplit=1)[0].split(":", maxsplit=1)[0]


@pytest.mark.parametrize("name", ["open:userdb", "shut:userdb:1", "open:nis:1", ""])
def test_a_name_of_no_point_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Point.named(name)


def test_a_count_that_failed_is_no_empty_sweep() -> None:
    with pytest.raises(RuntimeError, match="open:userdb"):
        list(points.count(lambda _: {"problems": ["stuck"]}, ["userdb"]))
