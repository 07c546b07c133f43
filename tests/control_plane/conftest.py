"""One control plane for all tests of a module that do not kill it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane, running_control_plane


@pytest.fixture(scope="module")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running_control_plane(Path(tmp_path_factory.mktemp("control-plane"))) as found:
        yield found


@pytest.fixture(scope="module")
def web1(control_plane: ControlPlane) -> TestHost:
    return TestHost(control_plane, "web1").enrol(labels={"env": "staging"})


@pytest.fixture(scope="module")
def web2(control_plane: ControlPlane) -> TestHost:
    return TestHost(control_plane, "web2").enrol(labels={"env": "production"})
