"""Whatever is wrong with a file in the inbox: nothing on the host changes, and it is answered, listed and gone."""

import pytest

from agent.policy.codes import DENIALS
from tests.host.bad_grants import GRANTS, POLICY, PREPARE, Case
from tests.host.bad_tokens import TOKENS
from tests.host.scene import Scene, State, account, changes, group, set_up, sudo
from tests.hosts.machine import Host

pytestmark = pytest.mark.host(beside=True)


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


def test_every_ceiling_of_a_policy_was_met() -> None:
    """What no grant can provoke here: an entry type that no ceiling knows, and no rule at all (test_policy_reload)."""
    elsewhere = {"entry_not_allowed", "no_rule", "too_many_grants", "too_many_grants_of_subject"}
    assert set(DENIALS) - elsewhere == {case.code for case in GRANTS} & set(DENIALS)


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("one-of-all", "second", "too_many_grants"),
        ("one-each", "one-each", "too_many_grants_of_subject"),
    ],
)
def test_no_more_grants_at_once_than_the_rule_says(scene: Scene, state: State, first: str, second: str, code: str) -> None:
    jti = scene.open(account("jit-first"), sub=f"{first}@example.com")
    opened = scene.state()
    refused(scene, scene.drop(scene.grant(account("jit-second"), sub=f"{second}@example.com")), code)
    assert changes(opened, scene.state()) == []
    scene.ask("revoke", jti=jti)
    assert changes(state, scene.state()) == []


def test_a_name_that_another_grant_holds_is_refused(scene: Scene, state: State) -> None:
    jti = scene.open(account("jit-first"))
    opened = scene.state()
    refused(scene, scene.drop(scene.grant(account("jit-first"))), "account_exists")
    refused(scene, scene.drop(scene.grant(sudo("jit-first"))), "existing_not_allowed")
    refused(scene, scene.drop(scene.grant(group("jit-first", "games"))), "existing_not_allowed")
    assert changes(opened, scene.state()) == []
    scene.ask("revoke", jti=jti)
    assert changes(state, scene.state()) == []


def test_a_token_id_is_used_once_whatever_happens_to_the_grant_or_the_daemon(scene: Scene, state: State) -> None:
    claims = scene.claims(account("jit-once"))
    token, again = scene.sign(claims), scene.sign({**claims, "reason": "another text, signed anew"})
    assert scene.answer_for(scene.drop(token))["verdict"] == "accepted"
    opened = scene.state()

    def replays_are_refused(now: State) -> None:
        for copy in (token, again):
            assert refused(scene, scene.drop(copy), "jti_replayed")["jti"] == claims["jti"]
        assert changes(now, scene.state()) == []

    replays_are_refused(opened)
    scene.restart()
    replays_are_refused(opened)
    scene.kill()
    replays_are_refused(opened)
    scene.ask("revoke", jti=claims["jti"])
    replays_are_refused(state)
    scene.restart()
    replays_are_refused(state)
    scene.kill()
    replays_are_refused(state)


def test_a_copy_dropped_while_the_daemon_is_down_opens_nothing(scene: Scene, state: State) -> None:
    claims = scene.claims(account("jit-once"))
    token = scene.sign(claims)
    scene.answer_for(scene.drop(token))
    opened = scene.state()
    scene.stop()
    name = scene.drop(token)
    scene.start()
    assert scene.answer_for(name)["jti"] == claims["jti"]
    assert changes(opened, scene.state()) == []
    scene.ask("revoke", jti=claims["jti"])
    scene.stop()
    name = scene.drop(token)
    scene.start()
    refused(scene, name, "jti_replayed")
    assert changes(state, scene.state()) == []


def test_a_grant_that_begins_later_is_judged_again_when_it_begins(scene: Scene, state: State) -> None:
    """Somebody took its name meanwhile: it is not opened, and what is there is left alone."""
    claims = scene.claims(account("jit-late"))
    scene.answer_for(scene.drop(scene.sign({**claims, "nbf": claims["nbf"] + 3})))
    scene.host.run("mkdir /home/jit-late")
    scene.host.wait_for(lambda: not scene.status()["grants"], what="the pending grant is over")
    found = scene.ask("grant", jti=claims["jti"])["grants"][0]
    assert (found["state"], found["cause"]) == ("ended", "policy")
    assert "home_exists" in found["cause_text"]
    scene.host.run("rmdir /home/jit-late")
    assert changes(state, scene.state()) == []
