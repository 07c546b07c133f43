"""Decisions of the reference control plane: pure functions over values."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from examples.control_plane.api.limits import Budget, Limiter
from examples.control_plane.api.problems import Problem
from examples.control_plane.config import load
from examples.control_plane.config.policy import Policy, Rule, Template
from examples.control_plane.events.kinds import ROWS, Kind
from examples.control_plane.signing import keys
from examples.control_plane.workflow import decide, opening
from examples.control_plane.workflow.model import Approval, Ask, Host, Party, Request

ALICE = Party("alice@example.com", "Alice: Ng, PhD", "jit-alice", frozenset({"contractor"}))
BOB = Party("bob@example.com", "Bob", "jit-bob", frozenset({"approver"}))
DAVE = Party("dave@example.com", "Dave", "jit-dave", frozenset({"approver"}))
WEB1 = Host("T1", "urn:tidegate:1", "web1", "web1", {"env": "staging", "rack": "1"})
WEB2 = Host("T2", "urn:tidegate:2", "web2", "web2", {"env": "production"})
HOSTS = {"web1": WEB1, "web2": WEB2}
ROLE = {"type": "role", "name": "web"}
TEMPLATE = Template("web", "Web", {}, ("login",), ("10.1.0.0/16",), (ROLE,), {"required": True, "input": False})
RULE = Rule(
    name="staging",
    roles=frozenset({"contractor"}),
    subjects=frozenset(),
    templates=frozenset({"web"}),
    hosts=frozenset(),
    labels={"env": "staging"},
    max_duration_s=3600,
    approvals=2,
    approver_roles=frozenset({"approver"}),
    ticket=False,
    break_glass=False,
)
ASK = Ask("web", ("web1",), 600, "because")


def policy(*rules: Rule) -> Policy:
    return Policy({"web": TEMPLATE}, rules)


def refused(ask: Ask, *rules: Rule, party: Party = ALICE) -> str:
    with pytest.raises(Problem) as caught:
        decide.judge(ask, party, policy(*rules), HOSTS, certificates=True)
    return caught.value.code


def request(approvals: tuple[Approval, ...] = (), **changed: object) -> Request:
    judged = decide.judge(ASK, ALICE, policy(RULE), HOSTS, certificates=True)
    found = Request(
        id="r-aaaaaaaaaaaaaaaa",
        version=1,
        subject=ALICE.subject,
        name=ALICE.name,
        login=ALICE.login,
        asked=judged.asked,
        digest=judged.digest,
        template="web",
        title="Web",
        ticket="",
        extends="",
        break_glass=False,
        needed=2,
        approver_roles=RULE.approver_roles,
        state="waiting",
        why="",
        asked_at=0,
        lapses_at=100,
        opened_at=None,
        ends_at=None,
        review="",
        approvals=approvals,
    )
    return dataclasses.replace(found, **changed)  # type: ignore[arg-type]  # of the fields' own types, by the callers


def test_the_first_rule_that_allows_all_of_it_is_the_one() -> None:
    short = dataclasses.replace(RULE, name="short", max_duration_s=60)
    assert decide.judge(ASK, ALICE, policy(short, RULE), HOSTS, certificates=True).rule is RULE
    assert refused(ASK, short) == "duration_too_long"
    assert refused(ASK) == "not_offered"
    assert refused(ASK, RULE, party=BOB) == "not_offered"
    assert refused(dataclasses.replace(ASK, hosts=("web1", "web2")), RULE) == "not_offered"
    assert refused(ASK, dataclasses.replace(RULE, labels={"env": "staging", "rack": "2"})) == "not_offered"
    assert refused(ASK, dataclasses.replace(RULE, labels={})) == "not_offered"  # no label and no name is no host, not every host
    assert refused(ASK, dataclasses.replace(RULE, ticket=True)) == "ticket_required"
    assert refused(dataclasses.replace(ASK, break_glass=True), RULE) == "break_glass_not_allowed"


def test_what_is_approved_is_all_that_the_grant_will_say() -> None:
    judged = decide.judge(ASK, ALICE, policy(RULE), HOSTS, certificates=True)
    assert judged.asked["authorization_details"] == [
        {"type": "account", "identifier": "jit-alice", "full_name": "Alice  Ng  PhD"},
        {
            "type": "ssh",
            "identifier": "jit-alice",
            "principals": ["alice@example.com"],
            "actions": ["login"],
            "source_address": ["10.1.0.0/16"],
        },
        {"type": "role", "name": "web", "identifier": "jit-alice"},
    ]
    assert decide.restored(judged.asked) == ASK
    for changed in (
        dataclasses.replace(ASK, duration_s=601),
        dataclasses.replace(ASK, reason="because of it"),
        dataclasses.replace(ASK, ticket="T-1"),
        dataclasses.replace(ASK, keys=("ssh-ed25519 AAAA",)),
        dataclasses.replace(ASK, source_address=("10.1.1.0/24",)),
        dataclasses.replace(ASK, extends="r-bbbbbbbbbbbbbbbb"),
    ):
        assert decide.judge(changed, ALICE, policy(RULE), HOSTS, certificates=True).digest != judged.digest
    moved = {"web1": dataclasses.replace(WEB1, host_id="urn:tidegate:other")}  # another machine under the old name
    assert decide.judge(ASK, ALICE, policy(RULE), moved, certificates=True).digest != judged.digest


def refusal(found: Request, party: Party, digest: str | None = None, now: int = 0) -> str:
    try:
        decide.approvable(found, party, RULE.approver_roles, found.digest if digest is None else digest, now)
    except Problem as problem:
        return problem.code
    return ""


def test_nobody_approves_their_own_however_they_spell_it() -> None:
    found = request()
    assert refusal(found, BOB) == ""
    both = ALICE.roles | BOB.roles
    for subject in ("alice@example.com", "ALICE@example.com", "\uff41lice@example.com ", "another"):
        assert refusal(found, Party(subject, "x", "jit-alice", both)) == "own_request"
    assert refusal(found, dataclasses.replace(ALICE, login="jit-other", roles=both)) == "own_request"
    assert refusal(found, ALICE) == "own_request"
    assert refusal(found, dataclasses.replace(BOB, roles=frozenset({"admin"}))) == "not_an_approver"
    assert refusal(found, BOB, "0" * 64) == "digest_mismatch"
    assert refusal(found, BOB, now=100) == "not_waiting"
    assert refusal(dataclasses.replace(found, state="open"), BOB) == "not_waiting"
    assert refusal(request((Approval("BOB@example.com", "approved", found.digest, "", 0),)), BOB) == "already_decided"


PEOPLE: Mapping[str, Party] = {
    "bob@example.com": BOB,
    "dave@example.com": DAVE,
    "alice@example.com": dataclasses.replace(ALICE, roles=frozenset({"approver"})),
    "eve@example.com": Party("eve@example.com", "Eve", "jit-eve", frozenset({"contractor"})),
}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*PEOPLE, "gone@example.com"]),
            st.sampled_from(["approved", "denied", "void"]),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_an_approval_counts_only_from_another_active_approver_of_this_very_digest(said: list[tuple[str, str, bool]]) -> None:
    found = request()
    approvals = tuple(Approval(by, verdict, found.digest if same else "0" * 64, "", 0) for by, verdict, same in said)
    counts = {by for by, verdict, same in said if verdict == "approved" and same and by in ("bob@example.com", "dave@example.com")}
    assert decide.counted(request(approvals), found.digest, PEOPLE, RULE.approver_roles) == len(counts)


def test_break_glass_is_reviewed_by_another() -> None:
    decide.reviewable(request(review="open"), BOB)
    for found, party, code in ((request(), BOB, "not_to_review"), (request(review="open"), ALICE, "own_request")):
        with pytest.raises(Problem) as caught:
            decide.reviewable(found, party)
        assert caught.value.code == code


def test_a_limit_is_for_each_key_and_ends() -> None:
    now = [0.0]
    limiter = Limiter(2, 10, lambda: now[0])
    assert [limiter.take("a"), limiter.take("a"), limiter.take("a"), limiter.take("b")] == [True, True, False, True]
    now[0] = 10.0
    assert limiter.take("a")


def test_a_template_that_no_host_would_take_is_found_at_the_start(tmp_path: Path) -> None:
    keys.create(tmp_path / "keys")
    found = keys.load(tmp_path / "keys", "https://access.example.com")
    opening.check_templates(found, policy(RULE))
    wrongs: tuple[dict[str, object], ...] = (
        {"type": "sudo", "commands": ["systemctl restart *"]},
        {"type": "group", "groups": ["Docker!"]},
    )
    for entry in wrongs:
        wrong = Policy({"web": dataclasses.replace(TEMPLATE, more=(entry,))}, ())
        with pytest.raises(ValueError, match="template web: authorization_details"):
            opening.check_templates(found, wrong)


def test_no_two_control_planes_sign_under_one_kid(tmp_path: Path) -> None:
    kids = set()
    for name in ("one", "two"):
        keys.create(tmp_path / name)
        keys.create(tmp_path / name)  # again: nothing is replaced
        kids.add(keys.load(tmp_path / name, "https://access.example.com").signing["kid"])
    assert len(kids) == 2


def test_a_budget_is_for_each_key_and_ends() -> None:
    now = [0.0]
    budget = Budget(100, 10, lambda: now[0])
    assert [budget.take("a", 60), budget.take("a", 60), budget.take("a", 40), budget.take("b", 100)] == [True, False, True, True]
    now[0] = 10.0
    assert budget.take("a", 100)


def test_every_kind_of_event_has_its_row() -> None:
    assert set(ROWS) == set(Kind)


def test_the_example_loads_and_a_mistake_in_it_names_its_line(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "examples/control_plane/example.yaml"
    settings = load(example)
    assert {rule.approvals for rule in settings.policy.rules} == {1, 2}
    text = example.read_text()
    for wrong, code in (
        (text.replace("templates: [root-shell]", "templates: [root-shel]"), "template_unknown"),
        (text.replace("max_duration: 4h", "max_duration: 4"), "duration_invalid"),
        (text.replace('url: "https://localhost:8443"', 'url: "http://localhost:8443"'), "url_invalid"),
        (text + "mystery: 1\n", "unknown_key"),
        (text.replace("who: {roles: [on-call]}", "who: {}"), "rule_for_nobody"),
    ):
        path = tmp_path / "wrong.yaml"
        path.write_text(wrong)
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert (caught.value.code, caught.value.line is not None) == (code, True)
