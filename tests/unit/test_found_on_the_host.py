"""All that any grant made is found again by its marks alone, and nothing that people made."""

from pathlib import Path
from typing import Any

import pytest

from agent import enforcement, planning
from agent.host.contract import Account
from agent.host.fake import FakeHost
from agent.host.passwd import PasswdAccounts
from agent.host.userdb import UserdbAccounts
from agent.model import Phase, Step
from tests.unit.enforcer_fixtures import BODIES, ENFORCERS, fake_host, grant_of, needs_cvtsudoers


def found(host: FakeHost) -> list[Step]:
    return [step for enforcer in ENFORCERS.values() for step in enforcer.found(host)]


def applied(host: FakeHost, bodies: list[dict[str, Any]]) -> None:
    made = planning.plan(grant_of(bodies), ENFORCERS, host, lambda _login: 70001)
    enforcement.apply(made.steps, ENFORCERS, host)


@needs_cvtsudoers
@pytest.mark.parametrize("kind", BODIES)
def test_undoing_what_is_found_leaves_the_host_as_it_was(kind: str) -> None:
    host = fake_host()
    before = host.snapshot()
    applied(host, BODIES[kind])
    assert host.snapshot() != before
    steps = found(host)
    failed = [error for phase in Phase for error in enforcement.revert(steps, ENFORCERS, phase, host)]
    assert failed == []
    assert host.snapshot() == before
    assert found(host) == []


@needs_cvtsudoers
def test_what_lets_people_in_is_found_as_what_closes_first() -> None:
    host = fake_host()
    applied(host, BODIES["all"])
    closing = {(step.enforcer, step.action) for step in found(host) if step.phase is Phase.CLOSE}
    assert closing == {("account", "unlock"), ("ssh", "keys"), ("ssh", "principals"), ("sudo", "rule"), ("group", "membership")}


def test_nothing_is_found_on_a_host_where_nothing_was_opened() -> None:
    assert found(fake_host()) == []


def test_a_found_home_is_packed_away_since_its_grant_may_have_wanted_that() -> None:
    host = fake_host()
    applied(host, [{"type": "account", "identifier": "jit-alice"}])
    enforcement.revert(found(host), ENFORCERS, Phase.REMOVE, host)
    assert host.archives


def test_each_backend_knows_its_own_accounts_and_memberships_by_their_marks(tmp_path: Path) -> None:
    userdb = UserdbAccounts(tmp_path / "userdb")
    userdb.create(Account("jit-alice", 70001, "Alice", "/home/jit-alice", "/bin/bash"))
    userdb.add_membership("deploy", "adm")
    (tmp_path / "userdb" / "other.user").write_text('{"userName": "other", "uid": 70009}')
    (tmp_path / "userdb" / "other:adm.membership").write_text("{}\n")
    (tmp_path / "userdb" / "half.group").write_text('{"groupName": "half", "gid": 70002, "_tidegate": true}')
    assert sorted(userdb.owned()) == [("half", 70002, ""), ("jit-alice", 70001, "/home/jit-alice")]
    assert userdb.owned_memberships() == [("deploy", "adm")]
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\nworn:x:70003:70003:Worn,,,:/home/worn:/bin/sh\n")
    (etc / "group").write_text("adm:x:4:\n")
    (etc / "shadow").write_text("root:*:1::::::\n")
    passwd = PasswdAccounts(etc, state=tmp_path / "state")
    passwd.create(Account("jit-bob", 70004, "Bob", "/home/jit-bob", "/bin/bash"))
    passwd.add_membership("deploy", "adm")
    assert passwd.owned() == [("jit-bob", 70004, "/home/jit-bob")]
    assert passwd.owned_memberships() == [("deploy", "adm")]
