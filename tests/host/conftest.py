"""Fixtures of the host suite: a scene is a booted host with tidegated running (tests.host.scene)."""

import time
from collections.abc import Iterator

import pytest

from tests.host.scene import Scene, set_up
from tests.hosts.machine import Host
from tests.hosts.snapshot import differences


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


@pytest.fixture
def clean(scene: Scene) -> Iterator[Scene]:
    """The scene, which must be as it was when the test is over."""
    before = scene.state()
    yield scene
    scene.tidegate("revoke", "--all")
    scene.host.wait_for(lambda: not scene.status()["grants"], what="everything is shut")
    time.sleep(0.3)
    assert differences(before.files, scene.host.snapshot()) == []
