"""Every ceiling refuses what is over it, with its code, and lets pass what is just within."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.model import AccountWant, Grant, GroupWant, Recording, RoleWant, SshWant, SudoWant
from agent.policy import Allowed, Denied, LiveGrant, Policy
from agent.policy.codes import DENIALS
from tests.unit.policy_help import ACCOUNT, ISSUER, NOW, RESTART, SSH, decide, grant, policy, rule_text, signer

OTHER = "https://other.example"


class Row(NamedTuple):
    """A rule, a grant over its ceiling, the code and field of the answer, and a near miss that passes."""

    code: str
    field: str | None
    rule: str
    over: Grant
    within: Grant


def sudo(*commands: tuple[str, ...], run_as: str = "root", who: str = "jit-alice") -> SudoWant:
    return SudoWant(who, (run_as,), commands)


DETAIL = "authorization_details[{}]".format
SUDO = 'sudo: {commands: ["/usr/bin/systemctl restart nginx", /bin/bash]}'
NETS = 'ssh: {source_networks: [10.0.0.0/8, "2001:db8::/32"]}'
LOG = ("/usr/bin/less", "/var/log/syslog")

ROWS = [
    Row("duration_too_long", "exp", rule_text("max_duration: 1h"), grant(exp=NOW + 3601), grant(exp=NOW + 3600)),
    Row("duration_too_long", "exp", rule_text(), grant(exp=NOW + 8 * 3600 + 1), grant(exp=NOW + 8 * 3600)),
    Row(
        "too_far_ahead",
        "nbf",
        rule_text("max_ahead: 10m"),
        grant(nbf=NOW + 601, exp=NOW + 900),
        grant(nbf=NOW + 600, exp=NOW + 900),
    ),
    Row("ticket_required", "ticket", rule_text("ticket: {required: true}"), grant(), grant(ticket="x")),
    Row("ticket_invalid", "ticket", rule_text("ticket: {pattern: 'INC-#'}"), grant(ticket="INC-4x"), grant(ticket="INC-42")),
    Row("reason_required", "reason", rule_text("reason: {required: true}"), grant(reason="  "), grant(reason="restart web")),
    Row("issuer_not_allowed", "iss", rule_text(), grant(iss=ISSUER + "/"), grant()),
    Row("subject_not_allowed", "sub", rule_text("subjects: ['*@example.com']"), grant(sub="a@b.example.com"), grant()),
    Row("subject_not_allowed", "sub", rule_text("subjects: [bob]"), grant(sub="bob2"), grant(sub="bob")),
    Row("account_not_allowed", DETAIL(0), rule_text(accounts="{create: false}"), grant(), grant(wants=())),
    Row("prefix_required", DETAIL(0) + ".identifier", rule_text(), grant(AccountWant("alice")), grant()),
    Row("prefix_required", DETAIL(0) + ".identifier", rule_text(), grant(AccountWant("jit-")), grant(AccountWant("jit-x"))),
    Row("shell_not_allowed", DETAIL(0) + ".shell", rule_text(), grant(replace(ACCOUNT, shell="/bin/zsh")), grant()),
    Row("home_not_allowed", DETAIL(0) + ".home", rule_text(), grant(replace(ACCOUNT, home="archive")), grant()),
    Row(
        "group_not_allowed",
        DETAIL(0) + ".groups[1]",
        rule_text(accounts="{groups: [dba]}"),
        grant(replace(ACCOUNT, groups=("dba", "web"))),
        grant(replace(ACCOUNT, groups=("dba",))),
    ),
    Row(
        "group_privileged",
        DETAIL(0) + ".groups[0]",
        rule_text(accounts="{groups: [docker, dba]}"),
        grant(replace(ACCOUNT, groups=("docker",))),
        grant(replace(ACCOUNT, groups=("dba",))),
    ),
    Row(
        "group_not_allowed",
        DETAIL(1) + ".groups[0]",
        rule_text("groups: [dba]", accounts="{groups: [web]}"),
        grant(ACCOUNT, GroupWant("jit-alice", ("web",))),
        grant(ACCOUNT, GroupWant("jit-alice", ("dba",))),
    ),
    Row("ssh_needs_account", DETAIL(0) + ".identifier", rule_text("ssh: {}"), grant(SSH), grant(SSH, ACCOUNT)),
    Row("ssh_not_allowed", DETAIL(1), rule_text(), grant(ACCOUNT, SSH), grant(ACCOUNT)),
    Row(
        "keys_not_allowed",
        DETAIL(1) + ".keys",
        rule_text("ssh: {keys: false, principals: ['*@example.com']}"),
        grant(ACCOUNT, SSH),
        grant(ACCOUNT, SshWant("jit-alice", principals=("alice@example.com",))),
    ),
    Row(
        "principal_not_allowed",
        DETAIL(1) + ".principals[0]",
        rule_text("ssh: {principals: ['*@example.com']}"),
        grant(ACCOUNT, SshWant("jit-alice", principals=("alice@example.org",))),
        grant(ACCOUNT, SshWant("jit-alice", principals=("alice@example.com",))),
    ),
    Row(
        "action_not_allowed",
        DETAIL(1) + ".actions[1]",
        rule_text("ssh: {}"),
        grant(ACCOUNT, replace(SSH, actions=("login", "sftp"))),
        grant(ACCOUNT, replace(SSH, actions=("login", "exec"))),
    ),
    Row(
        "source_required",
        DETAIL(1) + ".source_address",
        rule_text("ssh: {require_source_address: true}"),
        grant(ACCOUNT, SSH),
        grant(ACCOUNT, replace(SSH, source_address=("192.0.2.1",))),
    ),
    Row(
        "source_required",
        DETAIL(1) + ".source_address",
        rule_text(NETS),
        grant(ACCOUNT, SSH),
        grant(ACCOUNT, replace(SSH, source_address=("10.0.0.0/8",))),
    ),
    Row(
        "source_not_allowed",
        DETAIL(1) + ".source_address[1]",
        rule_text(NETS),
        grant(ACCOUNT, replace(SSH, source_address=("10.1.2.3", "10.0.0.0/7"))),
        grant(ACCOUNT, replace(SSH, source_address=("10.1.2.3", "2001:db8:5::/48"))),
    ),
    Row(
        "source_not_allowed",
        DETAIL(1) + ".source_address[0]",
        rule_text(NETS),
        grant(ACCOUNT, replace(SSH, source_address=("::ffff:10.1.2.3",))),
        grant(ACCOUNT, replace(SSH, source_address=("10.1.2.3",))),
    ),
    Row("sudo_not_allowed", DETAIL(1), rule_text(), grant(ACCOUNT, sudo(RESTART)), grant()),
    Row(
        "command_not_allowed",
        DETAIL(1) + ".commands[1]",
        rule_text(SUDO),
        grant(ACCOUNT, sudo(RESTART, (*RESTART, "sshd"))),
        grant(ACCOUNT, sudo(RESTART)),
    ),
    Row(
        "command_not_allowed",
        DETAIL(1) + ".commands[0]",
        rule_text(SUDO),
        grant(ACCOUNT, sudo(("/usr/bin/systemctl",))),
        grant(ACCOUNT, sudo(RESTART)),
    ),
    Row(
        "command_root_equivalent",
        DETAIL(1) + ".commands[0]",
        rule_text(SUDO),
        grant(ACCOUNT, sudo(("/bin/bash",))),
        grant(ACCOUNT, sudo(RESTART)),
    ),
    Row(
        "command_not_allowed",
        DETAIL(1) + ".commands[0]",
        rule_text(SUDO + "\nroot_equivalent: [/bin/bash, /bin/sh]"),
        grant(ACCOUNT, sudo(("/bin/sh",))),
        grant(ACCOUNT, sudo(("/bin/bash",))),
    ),
    Row(
        "run_as_not_allowed",
        DETAIL(1) + ".run_as[0]",
        rule_text(SUDO),
        grant(ACCOUNT, sudo(RESTART, run_as="postgres")),
        grant(ACCOUNT, sudo(RESTART)),
    ),
    Row(
        "existing_not_allowed",
        DETAIL(0) + ".identifier",
        rule_text(SUDO, accounts="{existing: [deploy]}"),
        grant(sudo(RESTART, who="deploy2")),
        grant(sudo(RESTART, who="deploy")),
    ),
    Row(
        "existing_not_allowed",
        DETAIL(0) + ".identifier",
        rule_text("groups: [dba]"),
        grant(GroupWant("jit-alice", ("dba",))),
        grant(GroupWant("jit-alice", ("dba",)), ACCOUNT),
    ),
    Row(
        "login_reserved",
        DETAIL(0) + ".identifier",
        rule_text(SUDO),
        grant(sudo(RESTART, who="root")),
        grant(ACCOUNT, sudo(RESTART)),
    ),
    Row("login_reserved", DETAIL(0) + ".identifier", rule_text(), grant(AccountWant("tidegate-x")), grant()),
    Row(
        "input_not_allowed",
        "recording.input",
        rule_text("recording: required"),
        grant(recording_input=True),
        grant(recording_required=True),
    ),
    Row(
        "approvals_missing",
        "signatures",
        rule_text("approvals: {threshold: 2}"),
        grant(signers=(signer("a"), replace(signer("b"), thumbprint="print-a"))),
        grant(signers=(signer("a"), signer("b"))),
    ),
    Row("approvals_missing", "signatures", rule_text(), grant(signers=()), grant()),
    Row(
        "approvals_missing",
        "signatures",
        rule_text(),
        grant(signers=(signer("a", OTHER),)),
        grant(signers=(signer("a", OTHER, ISSUER),)),
    ),
    Row(
        "approvals_missing",
        "signatures",
        rule_text("approvals: {threshold: 2, distinct: approvers}"),
        grant(signers=(signer("a", approver="kim"), signer("b", approver="kim"), signer("c"))),
        grant(signers=(signer("a", approver="kim"), signer("b", approver="lee"))),
    ),
    Row(
        "approvals_missing",
        "signatures",
        rule_text("approvals: {threshold: 2, distinct: issuers}").replace(ISSUER, f"{ISSUER}, {OTHER}"),
        grant(signers=(signer("a"), signer("b", ISSUER, OTHER))),
        grant(signers=(signer("a"), signer("b", OTHER))),
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{index}-{row.code}" for index, row in enumerate(ROWS)])
def test_each_ceiling_refuses_what_is_over_it_and_no_more(row: Row, tmp_path: Path) -> None:
    found = policy(tmp_path, row.rule)
    denied = decide(found, row.over)
    assert isinstance(denied, Denied)
    assert (denied.code, denied.field) == (row.code, row.field)
    assert isinstance(decide(found, row.within), Allowed)
    assert denied.error().code == row.code


def test_every_denial_code_has_a_test_that_provokes_it() -> None:
    elsewhere = {
        "no_rule",
        "too_many_grants",
        "too_many_grants_of_subject",
        "role_unknown",
        "role_not_allowed",
        "entry_twice",
        "entry_not_allowed",
        "too_many_entries",
    }
    assert {row.code for row in ROWS} | elsewhere == set(DENIALS)


def test_no_policy_allows_nothing() -> None:
    denied = decide(Policy(), grant())
    assert isinstance(denied, Denied)
    assert denied.code == "no_rule"


def test_live_grants_are_counted_by_rule_and_by_subject(tmp_path: Path) -> None:
    found = policy(tmp_path, rule_text("max_concurrent: 3\nmax_concurrent_per_subject: 1"))
    mine = LiveGrant("g0", "alice@example.com", "r")
    others = [LiveGrant(f"o{n}", "bob@example.com", "r") for n in range(2)]
    elsewhere = [LiveGrant(f"e{n}", "alice@example.com", "another-rule") for n in range(9)]
    assert isinstance(decide(found, grant(), live=[*others, *elsewhere]), Allowed)
    for live, code in (([mine], "too_many_grants_of_subject"), ([mine, *others], "too_many_grants")):
        denied = decide(found, grant(), live=live)
        assert isinstance(denied, Denied)
        assert denied.code == code


def test_what_a_grant_supersedes_does_not_count_unless_it_is_another_subjects(tmp_path: Path) -> None:
    found = policy(tmp_path, rule_text("max_concurrent: 1"))
    assert isinstance(decide(found, grant(supersedes="g0"), live=[LiveGrant("g0", "alice@example.com", "r")]), Allowed)
    assert isinstance(decide(found, grant(supersedes="g0"), live=[LiveGrant("g0", "bob@example.com", "r")]), Denied)


def test_another_tenants_account_is_never_an_existing_one(tmp_path: Path) -> None:
    found = policy(tmp_path, rule_text("groups: [dba]", accounts="{existing: [deploy]}"))
    asked = grant(GroupWant("deploy", ("dba",)))
    assert isinstance(decide(found, asked), Allowed)
    denied = decide(found, asked, ours=["deploy"])
    assert isinstance(denied, Denied)
    assert denied.code == "existing_not_allowed"


def test_one_rule_must_allow_all_of_a_grant(tmp_path: Path) -> None:
    text = rule_text("max_duration: 1h\nssh: {}") + f"  - name: s\n    issuers: [{ISSUER}]\n    accounts: {{}}\n    groups: [dba]\n"
    found = policy(tmp_path, text)
    by_second = decide(found, grant(ACCOUNT, GroupWant("jit-alice", ("dba",))))
    assert isinstance(by_second, Allowed)
    assert by_second.rule == "s"
    neither = decide(found, grant(ACCOUNT, SSH, GroupWant("jit-alice", ("dba",))))
    assert isinstance(neither, Denied)
    assert (neither.rule, neither.code) == ("r", "group_not_allowed")


def test_the_answer_names_the_first_rule_meant_for_issuer_and_subject(tmp_path: Path) -> None:
    other = f"rules:\n  - {{name: z, issuers: [{OTHER}], accounts: {{}}}}\n"
    text = (
        other
        + rule_text("subjects: [bob]").removeprefix("rules:\n")
        + rule_text("max_duration: 1m").replace("name: r", "name: s")[7:]
    )
    denied = decide(policy(tmp_path, text), grant())
    assert isinstance(denied, Denied)
    assert (denied.rule, denied.code) == ("s", "duration_too_long")


def test_recording_is_required_when_either_side_requires_it(tmp_path: Path) -> None:
    for text, asked, required in (("", False, False), ("recording: required", False, True), ("recording: optional", True, True)):
        allowed = decide(policy(tmp_path, rule_text(text)), grant(recording_required=asked))
        assert isinstance(allowed, Allowed)
        assert allowed.grant.recording_required is required


@pytest.mark.parametrize(
    ("text", "asked", "found"),
    [
        ("", False, Recording()),
        ("recording: off", False, None),
        ("recording: off", True, Recording(required=True)),
        ("recording: {mode: required, max_bytes: 0, pause: 30s}", False, Recording(required=True, limit=0, pause_s=30)),
        ("recording: {input: true}", True, Recording(required=True, input=True)),
    ],
)
def test_how_a_grant_is_recorded_is_as_its_rule_says(tmp_path: Path, text: str, asked: bool, found: Recording | None) -> None:
    wanted = found is not None and found.input
    allowed = decide(policy(tmp_path, rule_text(text)), grant(recording_required=asked, recording_input=wanted))
    assert isinstance(allowed, Allowed)
    assert allowed.grant.recording == found


def test_an_allowed_grant_says_what_of_it_is_not_containable(tmp_path: Path) -> None:
    more = "sudo: {commands: [/bin/bash]}\nroot_equivalent: [/bin/bash]\nprivileged_groups: [adm]"
    found = policy(tmp_path, rule_text(more, accounts="{groups: [adm]}"))
    allowed = decide(found, grant(replace(ACCOUNT, groups=("adm",)), sudo(("/bin/bash",))))
    assert isinstance(allowed, Allowed)
    assert [reason.split()[:2] for reason in allowed.not_containable] == [["group", "adm"], ["sudo", "/bin/bash"]]
    plain = decide(found, grant())
    assert isinstance(plain, Allowed)
    assert plain.not_containable == ()


def test_a_host_may_name_more_privileged_groups_and_programs(tmp_path: Path) -> None:
    more = "groups: [dba]\nsudo: {commands: [/opt/app/run]}"
    asked = (grant(ACCOUNT, GroupWant("jit-alice", ("dba",))), grant(ACCOUNT, sudo(("/opt/app/run",))))
    assert all(isinstance(decide(policy(tmp_path, rule_text(more)), each), Allowed) for each in asked)
    stricter = policy(tmp_path, rule_text(more) + "extra_privileged_groups: [dba]\nextra_root_equivalent: [/opt/app/run]\n")
    codes = [answer.code for each in asked if isinstance(answer := decide(stricter, each), Denied)]
    assert codes == ["group_privileged", "command_root_equivalent"]


def test_a_want_of_unknown_type_is_refused(tmp_path: Path) -> None:

    found = policy(tmp_path, rule_text("roles: []"))
    from agent.policy.case import Case
    from agent.policy.entries import all_entries
    from agent.policy.model import Entry

    case = Case(grant(), found.rules[0], found, (Entry(RoleWant("jit-a", "x"), DETAIL(0)),), NOW, (), lambda _login: False)
    denied = all_entries(case)
    assert denied is not None
    assert denied.code == "entry_not_allowed"


def test_judging_is_deterministic_and_leaves_the_grant_as_it_was(tmp_path: Path) -> None:
    found, asked = policy(tmp_path, rule_text("ssh: {}")), grant(ACCOUNT, SSH)
    assert decide(found, asked) == decide(found, asked)
    assert asked == grant(ACCOUNT, SSH)
