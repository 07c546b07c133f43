"""Fixtures of the host suite: a scene is a booted host with tidegated running (tests.host.scene)."""

import pytest

from tests.host.scene import Scene, set_up
from tests.hosts.machine import Host


@pytest.fixture(scope="module", autouse=True)
def _of_the_suite(suite: str) -> None:
    """Tests that boot hosts of their own boot them of the suite they are for."""


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    """One for all tests of a module."""
    return set_up(shared_tidegate_host)


@pytest.fixture
def fresh_scene(tidegate_host: Host) -> Scene:
    """One for this test alone."""
    return set_up(tidegate_host)
