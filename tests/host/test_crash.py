"""A sample of the crash sweep (`make crash` runs all of it): tidegated killed at points spread over all operations."""

from collections.abc import Iterator

import pytest

from tests.crash.bed import Bed, booted
from tests.crash.points import Point

pytestmark = pytest.mark.host

# One in each stretch of an operation. The numbers may drift as the agent changes: whatever call they meet is a point.
SAMPLE = [
    "open:userdb:12", "open:passwd:45", "open:passwd:90", "open:userdb:c1", "open:passwd:160", "cancel:passwd:c3",
    "revoke:passwd:12", "revoke:userdb:30", "revoke:userdb:c4", "expire:passwd:5", "expire:userdb:17a", "stand:userdb:60",
    "again-open-96:passwd:40",
]  # fmt: skip


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with booted() as bed:
        yield bed


@pytest.mark.parametrize("name", SAMPLE)
def test_killed_at_this_point_it_converges_and_leaves_nothing(bed: Bed, name: str) -> None:
    found = bed.ask(Point.named(name).order(knock=name == SAMPLE[0]))
    assert found["problems"] == [], f"before {found['hit']}; {found.get('trace', '')} {found.get('log', '')}"
