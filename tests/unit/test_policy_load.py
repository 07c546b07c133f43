"""Policy files: what is wrong is told with its file, line and key; what was good stays in force."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent import forms
from agent.errors import ConfigError
from agent.policy import Allowed, Policy, PolicyStore, check, load_policy, load_policy_file, parse
from agent.strictyaml import parse_yaml, read_yaml
from tests.unit.policy_help import DECODERS, ISSUER, NOW, RESTART, decide, grant, policy, rule_text, signer, write

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples/policy.d").glob("*.yaml"))
SCHEMA: dict[str, Any] = json.loads((ROOT / "agent/policy/schema.json").read_text())

BAD = [
    ("rulez: []", "unknown_key", 1, "rulez"),
    ("rules: {}", "not_a_list", 1, "rules"),
    ("rules: [a]", "not_a_mapping", 1, "rules[0]"),
    ("rules:\n  - name: r", "missing_key", 2, "rules[0]"),
    ("rules:\n  - issuers: [a]", "missing_key", 2, "rules[0]"),
    ("rules:\n  - name: R\n    issuers: [a]", "rule_name_invalid", 2, "rules[0].name"),
    ("rules:\n  - name: 7\n    issuers: [a]", "not_a_string", 2, "rules[0].name"),
    ("rules:\n  - name: r\n    issuers: []", "list_length", 3, "rules[0].issuers"),
    ("rules:\n  - name: r\n    issuers: a", "not_a_list", 3, "rules[0].issuers"),
    ("rules:\n  - name: r\n    issuers: [a, a]", "duplicate_entry", 3, "rules[0].issuers[1]"),
    ("rules:\n  - name: r\n    issuers: ['']", "text_length", 3, "rules[0].issuers[0]"),
    (rule_text("subjects: ['a*@b']"), "name_pattern_invalid", 5, "rules[0].subjects[0]"),
    (rule_text("subjects: ['*']"), "name_pattern_invalid", 5, "rules[0].subjects[0]"),
    (rule_text("subjects: ['*@a@b']"), "name_pattern_invalid", 5, "rules[0].subjects[0]"),
    (rule_text("max_duration: 3600"), "duration_invalid", 5, "rules[0].max_duration"),
    (rule_text("max_ahead: 1w"), "duration_invalid", 5, "rules[0].max_ahead"),
    (rule_text("max_concurrent: 0"), "out_of_range", 5, "rules[0].max_concurrent"),
    (rule_text("max_concurrent: '1'"), "not_an_integer", 5, "rules[0].max_concurrent"),
    (rule_text("max_concurrent_per_subject: true"), "not_an_integer", 5, "rules[0].max_concurrent_per_subject"),
    (rule_text(accounts="{prefix: jit}"), "prefix_invalid", 4, "rules[0].accounts.prefix"),
    (rule_text(accounts="{prefix: tidegate-}"), "prefix_invalid", 4, "rules[0].accounts.prefix"),
    (rule_text(accounts="{prefix: J-}"), "login_invalid", 4, "rules[0].accounts.prefix"),
    (rule_text(accounts="{create: yes}"), "not_a_boolean", 4, "rules[0].accounts.create"),
    (rule_text(accounts="{shells: [bash]}"), "path_invalid", 4, "rules[0].accounts.shells[0]"),
    (rule_text(accounts="{groups: [A]}"), "group_invalid", 4, "rules[0].accounts.groups[0]"),
    (rule_text(accounts="{home: [keep]}"), "unknown_value", 4, "rules[0].accounts.home[0]"),
    (rule_text("ssh: {source_networks: [office]}"), "source_address_invalid", 5, "rules[0].ssh.source_networks[0]"),
    (rule_text("ssh: {source_networks: []}"), "list_length", 5, "rules[0].ssh.source_networks"),
    (rule_text("ssh: {actions: [x11]}"), "unknown_value", 5, "rules[0].ssh.actions[0]"),
    (rule_text("ssh: true"), "not_a_mapping", 5, "rules[0].ssh"),
    (rule_text("ssh:"), "not_a_mapping", 5, "rules[0].ssh"),
    (rule_text("sudo: {}"), "missing_key", 5, "rules[0].sudo"),
    (rule_text("sudo: {commands: [ls]}"), "path_invalid", 5, "rules[0].sudo.commands[0]"),
    (rule_text("sudo: {commands: ['/bin/ls *']}"), "command_invalid", 5, "rules[0].sudo.commands[0]"),
    (rule_text("sudo: {commands: ['/bin/ls \\d']}"), "command_invalid", 5, "rules[0].sudo.commands[0]"),
    (rule_text("ticket: {pattern: '(A+)+'}"), "ticket_pattern_invalid", 5, "rules[0].ticket.pattern"),
    (rule_text("ticket: {pattern: 'INC-.*'}"), "ticket_pattern_invalid", 5, "rules[0].ticket.pattern"),
    (rule_text("reason: {}"), "missing_key", 5, "rules[0].reason"),
    (rule_text("recording: true"), "not_a_string", 5, "rules[0].recording"),
    (rule_text("recording: always"), "unknown_value", 5, "rules[0].recording"),
    (rule_text("approvals: {threshold: 17}"), "out_of_range", 5, "rules[0].approvals.threshold"),
    (rule_text("approvals: {threshold: 2, distinct: people}"), "unknown_value", 5, "rules[0].approvals.distinct"),
    (rule_text("privileged_groups: docker"), "not_a_list", 5, "rules[0].privileged_groups"),
    (rule_text("root_equivalent: true"), "not_a_list", 5, "rules[0].root_equivalent"),
    ("roles: {Db: {entries: [{type: account}]}}", "role_invalid", 1, "roles.Db"),
    ("roles: []", "not_a_mapping", 1, "roles"),
    ("extra_root_equivalent: [run]", "path_invalid", 1, "extra_root_equivalent[0]"),
]
# What a JSON Schema can't say: names across the file, network arithmetic, text by category.
BEYOND_SCHEMA = [
    (rule_text("max_duration: 91d"), "duration_invalid", 5, "rules[0].max_duration"),
    (rule_text("roles: [db]"), "role_undefined", 5, "rules[0].roles[0]"),
    (rule_text() + rule_text().removeprefix("rules:\n"), "rule_twice", 5, "rules[1].name"),
    (rule_text(accounts="{existing: [root]}"), "existing_invalid", 4, "rules[0].accounts.existing[0]"),
    (rule_text(accounts="{existing: [deploy, jit-x]}"), "existing_invalid", 4, "rules[0].accounts.existing[1]"),
    (rule_text("ssh: {source_networks: [10.0.0.1/8]}"), "source_address_invalid", 5, "rules[0].ssh.source_networks[0]"),
    (rule_text("sudo: {commands: ['/bin/ls ..']}"), "command_invalid", 5, "rules[0].sudo.commands[0]"),
    (rule_text("sudo: {commands: ['/bin/ls \"a']}"), "command_invalid", 5, "rules[0].sudo.commands[0]"),
    (rule_text("sudo: {commands: ['/bin/ls ^a$']}"), "command_invalid", 5, "rules[0].sudo.commands[0]"),
    (rule_text("ticket: {pattern: '[Z-A]'}"), "ticket_pattern_invalid", 5, "rules[0].ticket.pattern"),
    (rule_text("ticket: {pattern: 'A{3,2}'}"), "ticket_pattern_invalid", 5, "rules[0].ticket.pattern"),
    (rule_text('subjects: ["a\\tb"]'), "text_unprintable", 5, "rules[0].subjects[0]"),
]


@pytest.mark.parametrize(("text", "code", "line", "key"), BAD + BEYOND_SCHEMA)
def test_a_wrong_policy_is_refused_with_its_line_and_key(text: str, code: str, line: int, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", text + "\n")
    with pytest.raises(ConfigError) as caught:
        load_policy_file(path, DECODERS)
    assert (caught.value.code, caught.value.path, caught.value.line, caught.value.key) == (code, path, line, key)
    [finding] = check(path, DECODERS)
    assert str(finding) == str(caught.value)
    assert finding.level == "error"


def schema_takes(text: str) -> bool:
    value = parse_yaml(text.encode(), Path("p")).plain()
    return not list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(value))


@pytest.mark.parametrize("text", [text for text, *_rest in BAD])
def test_what_the_loader_refuses_the_schema_refuses(text: str) -> None:
    assert not schema_takes(text)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads_and_fits_the_schema(path: Path) -> None:
    assert len(load_policy_file(path, DECODERS).rules) == 1
    assert schema_takes(path.read_text())


def test_the_examples_are_one_policy_whose_only_warnings_are_meant() -> None:
    assert len(load_policy(ROOT / "examples/policy.d", DECODERS).rules) == len(EXAMPLES) == 4
    codes = sorted(finding.code for finding in check(ROOT / "examples/policy.d", DECODERS))
    assert codes == ["gives_privileged_group", "gives_privileged_group", "gives_root"]


def test_schema_and_loader_know_the_same_settings() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    rule = SCHEMA["$defs"]["rule"]
    assert set(SCHEMA["properties"]) == {*parse.TOP_KEYS, forms.KEY}
    assert SCHEMA["properties"][forms.KEY]["const"] == forms.POLICY.version
    assert SCHEMA["$id"].endswith(f":{forms.POLICY.version}")
    assert set(rule["properties"]) == {"name", "issuers", *parse.RULE_KEYS}
    assert set(rule["properties"]["accounts"]["properties"]) == set(parse.ACCOUNT_KEYS)
    assert set(rule["properties"]["ssh"]["properties"]) == set(parse.SSH_KEYS)
    assert all("description" in found for found in rule["properties"].values())


def test_no_folder_and_an_empty_folder_allow_nothing(tmp_path: Path) -> None:
    assert load_policy(tmp_path / "none", DECODERS) == load_policy(tmp_path, DECODERS) == Policy()


def test_files_are_one_policy_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path / "20.yaml", rule_text("roles: [x]"))
    write(tmp_path / "10.yaml", rule_text().replace("name: r", "name: q"))
    write(tmp_path / "30.yaml", "roles: {x: {entries: [{type: account}]}}\n")
    assert [rule.name for rule in load_policy(tmp_path, DECODERS).rules] == ["q", "r"]
    assert [finding.code for finding in check(tmp_path, DECODERS)] == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (rule_text(), "rule_twice"),
        ("roles: {x: {entries: [{type: account}]}}\n", "role_twice"),
        ("extra_privileged_groups: [dba]\n", "setting_twice"),
        ("extra_root_equivalent: [/opt/run]\n", "setting_twice"),
    ],
)
def test_a_setting_in_two_files_is_told_with_both(text: str, code: str, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.yaml", text), write(tmp_path / "b.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path, DECODERS)
    assert (caught.value.code, caught.value.path) == (code, second)
    assert f"{first}:" in caught.value.reason
    assert [finding.code for finding in check(tmp_path, DECODERS)] == [code]


def test_check_tells_every_bad_file_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "rulez: []\n")
    write(tmp_path / "b.yaml", rule_text("roles: [x]"))
    write(tmp_path / "c.yaml", "roles: [\n")
    assert [finding.path.name for finding in check(tmp_path, DECODERS)] == ["a.yaml", "c.yaml"]


def test_check_warns_of_what_is_easy_to_regret(tmp_path: Path) -> None:
    for name in ("x.yml", "p.yaml.~old~", ".yaml.~1~"):
        write(tmp_path / name, "")
    for backup in ("p.yaml.~1~", "p.yaml.~2.3~"):  # of `tidegate config migrate`: they are to lie there
        write(tmp_path / backup, "")
    text = rule_text(
        "max_duration: 30d\nssh: {keys: false}\ngroups: [docker, adm]\nprivileged_groups: [docker]\n"
        "sudo: {commands: [/bin/bash, /usr/bin/less a]}\nroot_equivalent: [/bin/bash]"
    ).replace(ISSUER, "'https://*'")
    write(tmp_path / "p.yaml", text + "  - {name: idle, issuers: [a]}\nroles: {x: {entries: [{type: account}]}}\n")
    found = check(tmp_path, DECODERS, known_issuers=["a"])
    assert {finding.level for finding in found} == {"warning"}
    assert sorted(finding.code for finding in found) == [
        "always_denied", "always_denied", "duration_long", *["file_ignored"] * 3, "gives_privileged_group", "gives_root",
        "issuer_unmatchable", "issuer_unmatchable", "role_unused", "rule_empty", "ssh_unusable",
    ]  # fmt: skip
    assert [finding.code for finding in check(tmp_path / "none", DECODERS)] == ["file_missing"]
    (tmp_path / "e").mkdir()
    assert [finding.to_json()["code"] for finding in check(tmp_path / "e", DECODERS)] == ["no_rule"]


def test_a_bad_file_keeps_the_old_policy_in_force_and_is_remembered(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path, DECODERS)
    assert store.policy == Policy()
    path = write(tmp_path / "p.yaml", rule_text())
    assert store.reload()
    kept = store.policy
    write(path, "rules: [\n")
    assert not store.reload()
    assert store.policy is kept
    assert str(store.error).endswith("[yaml_syntax]")
    write(path, rule_text("max_duration: 1h"))
    assert store.reload()
    assert store.error is None
    assert store.policy.rules[0].max_duration_s == 3600
    assert store.folder == tmp_path


def test_a_store_whose_first_load_fails_allows_nothing(tmp_path: Path) -> None:
    write(tmp_path / "p.yaml", "rules: [\n")
    store = PolicyStore(tmp_path, DECODERS)
    assert not store.reload()
    assert store.policy == Policy()


def test_a_quoted_word_of_a_command_is_one_word(tmp_path: Path) -> None:
    found = policy(tmp_path, rule_text("sudo: {commands: [\"/usr/bin/systemctl  restart 'nginx'\"]}"))
    from agent.model import AccountWant, SudoWant

    assert isinstance(decide(found, grant(AccountWant("jit-a"), SudoWant("jit-a", ("root",), (RESTART,)))), Allowed)


def test_the_examples_allow_what_they_are_written_for_and_no_more() -> None:
    from agent.model import AccountWant, GroupWant, RoleWant, SshWant, SudoWant

    found = load_policy(ROOT / "examples/policy.d", DECODERS)
    account = AccountWant("jit-x")
    web = grant(
        account, SshWant("jit-x", ("k",), source_address=("10.20.3.4",)), SudoWant("jit-x", ("root",), (RESTART,)),
        iss="https://access.example.com", sub="kim@contractor.example", ticket="INC-7", signers=(signer("a", "https://access.example.com"),),
    )  # fmt: skip
    two = tuple(signer(name, "https://access.example.com", approver=name) for name in ("kim", "lee"))
    glass = replace(
        web, sub="lee@example.com", signers=two, reason="disk full", ticket="",
        wants=(replace(account, groups=("adm",)), SudoWant("jit-x", ("root",), (("/bin/bash",),))), exp=NOW + 3600,
    )  # fmt: skip
    call = replace(
        web, iss="https://pager.example.com", sub="lee@example.com", signers=(signer("a", "https://pager.example.com"),),
        wants=(RoleWant("jit-x", "db-oncall"), SshWant("jit-x", (), ("lee@example.com",), ("192.0.2.1",))),
    )  # fmt: skip
    deploy = replace(
        web, iss="https://ci.example.com", sub="release-bot@example.com", signers=(signer("a", "https://ci.example.com"),),
        wants=(GroupWant("deploy", ("docker",)),), exp=NOW + 1800,
    )  # fmt: skip
    answers = [decide(found, asked) for asked in (web, glass, call, deploy)]
    assert [getattr(answer, "rule", answer) for answer in answers] == ["contractor-web", "break-glass", "on-call", "deploy-window"]
    assert all(isinstance(answer, Allowed) for answer in answers)
    worse = (replace(web, ticket=""), replace(glass, signers=two[:1]), replace(call, sub="x@y.z"), replace(deploy, exp=NOW + 1801))
    codes = [getattr(decide(found, asked), "code", None) for asked in worse]
    assert codes == ["ticket_required", "approvals_missing", "subject_not_allowed", "duration_too_long"]


PIECES = "".join(path.read_text() for path in EXAMPLES).splitlines()
TOKENS = st.sampled_from(
    [
        "*",
        "&a",
        "!!x",
        ": ",
        "- ",
        "[",
        "}",
        "\t",
        "'",
        '"',
        "no",
        "0777",
        "1.5",
        "~",
        "|",
        "\n",
        "#",
        "root",
        "\x00",
        "\u202e",
        "9" * 30,
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    lines = draw(st.sampled_from([path.read_text() for path in EXAMPLES])).splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["drop", "twice", "insert", "foreign", "cut"]))
        line = lines[at]
        where = draw(st.integers(0, len(line)))
        changed = {
            "drop": [],
            "twice": [line, line],
            "insert": [line[:where] + draw(TOKENS) + line[where:]],
            "foreign": [line, draw(st.sampled_from(PIECES))],
            "cut": [line[:where]],
        }[kind]
        lines[at : at + 1] = changed
        lines = lines or [""]
    return "\n".join(lines)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=mutated())
def test_from_any_mutated_policy_only_a_config_error_comes_out(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", text)
    try:
        load_policy_file(path, DECODERS)
    except ConfigError as error:
        assert error.path == path
        assert check(path, DECODERS)[0].level == "error"
    else:
        assert jsonschema.Draft202012Validator(SCHEMA).is_valid(read_yaml(path).plain()), "the loader took what the schema refuses"
