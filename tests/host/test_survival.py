"""Nothing that a tenant left running outlives its grant: the quick rows of `make survive`."""

import pytest

from tests.hosts.fallback import available
from tests.survival.rows import ROWS
from tests.survival.stage import play

pytestmark = pytest.mark.host


def test_whatever_was_left_running_is_dead_after_the_end_and_what_was_there_before_goes_on() -> None:
    rows = [row for row in ROWS if row.sample]
    results = play(available().host_class(), rows)
    assert len(results) == len(rows)
    assert not [f"{result.row.name}: {result.verdict} ({result.detail})" for result in results if result.survived]
