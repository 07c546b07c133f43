"""In a container there is no audit to read: grants go on all the same, and doctor and the receipt say what is missing."""

import json
from collections.abc import Iterator

import pytest

from tests.host.scene import Scene, account, set_up
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate

pytestmark = pytest.mark.host(beside=True)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Host.boot(prepare=install_tidegate) as host:
        yield set_up(host)


def test_doctor_and_the_receipt_say_that_commands_are_not_captured_and_why(scene: Scene) -> None:
    jti = scene.open(account())
    checks = json.loads(scene.tidegate("doctor", "--json").stdout)["checks"]
    (found,) = [check for check in checks if check["name"] == "commands"]
    assert found["level"] == "warn" and "audit" in found["detail"]
    scene.tidegate("revoke", jti)
    told = scene.receipt(jti)["executions"]
    assert set(told) == {"absent"} and "audit" in told["absent"]
