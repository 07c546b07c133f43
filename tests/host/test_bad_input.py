"""Whatever is wrong with a file in the inbox: nothing on the host changes, and it is answered, listed and gone."""

import pytest

from tests.host.bad_grants import GRANTS, POLICY, PREPARE, Case
from tests.host.bad_tokens import TOKENS
from tests.host.scene import Scene, State, changes, set_up
from tests.hosts.machine import Host

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def scene(shared_tidegate_host: Host) -> Scene:
    shared_tidegate_host.run(PREPARE)
    return set_up(shared_tidegate_host, POLICY)


@pytest.fixture(scope="module")
def state(scene: Scene) -> State:
    return scene.state()


def refused(scene: Scene, name: str, code: str) -> dict[str, object]:
    """The answer to that file: a refusal with this code, listed in the status; the file is gone."""
    answer = scene.answer_for(name)
    assert (answer["verdict"], answer["code"]) == ("refused", code), answer
    assert answer["jws"]
    latest = scene.status()["refusals"][0]
    assert (latest["source"], latest["code"]) == (answer["source"], code)
    return answer


@pytest.mark.parametrize("case", [*GRANTS, *TOKENS], ids=lambda case: case.name)
def test_a_bad_grant_is_refused_with_its_code_and_changes_nothing(scene: Scene, state: State, case: Case) -> None:
    answer = refused(scene, scene.drop(case.make(scene)), case.code)
    if case.field is not None:
        assert answer["field"] == case.field
    assert changes(state, scene.state()) == []
