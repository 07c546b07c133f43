"""Fixtures of the unit tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty one, on the disk."""
    found = Journal(tmp_path / "state.db")
    yield found
    found.close()
