"""One server for each test. Without a network, and with nothing in the cache, these tests can't run: then they say so."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.errors import HostUnavailable
from tests.nats.bed import Bed, bed
from tests.nats.server import binary


@pytest.fixture(scope="session")
def nats_binary() -> Path:
    try:
        return binary()
    except HostUnavailable as reason:
        if os.environ.get("TIDEGATE_REQUIRE_HOSTS") == "1":
            raise
        pytest.skip(f"nats-server can't be had: {reason}")


@pytest.fixture
def broker(nats_binary: Path, tmp_path: Path) -> Iterator[Bed]:
    """A server, prepared by the control plane."""
    with bed(tmp_path) as made:
        made.push()
        yield made
