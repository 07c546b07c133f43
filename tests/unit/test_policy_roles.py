"""A role gives the host admin's own text to the grant's login, and no more power than the rule's explicit lines."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import ConfigError, InvalidGrantError
from agent.model import AccountWant, GroupWant, RoleWant, SudoWant
from agent.policy import Allowed, Denied, decoders, load_policy_file
from enforcers.group import GroupEnforcer
from tests.unit.policy_help import ACCOUNT, DECODERS, SSH, decide, grant, policy, rule_text, write

ROLES = """
roles:
  db:
    entries:
      - {type: account, groups: [dba], shell: /bin/zsh, home: archive}
      - {type: sudo, commands: ["/usr/bin/systemctl restart postgresql"], run_as: [postgres]}
  rooty:
    entries:
      - {type: sudo, commands: [/bin/bash]}
  docky:
    entries:
      - {type: group, groups: [docker]}
  far:
    entries:
      - {type: ssh, principals: [oncall], source_address: [192.0.2.0/24], actions: [login, sftp]}
"""
RULE = rule_text("roles: [db, rooty, docky, far]\nssh: {source_networks: [10.0.0.0/8]}")


def test_a_role_becomes_its_entries_for_the_grants_login(tmp_path: Path) -> None:
    allowed = decide(policy(tmp_path, RULE + ROLES), grant(RoleWant("jit-alice", "db"), GroupWant("jit-alice", ()), reason="x"))
    assert isinstance(allowed, Allowed)
    account, sudo, group = allowed.grant.wants
    assert account == AccountWant("jit-alice", "", ("dba",), "/bin/zsh", "archive")
    assert sudo == SudoWant("jit-alice", ("postgres",), (("/usr/bin/systemctl", "restart", "postgresql"),))
    assert group == GroupWant("jit-alice", ())


@pytest.mark.parametrize(
    ("wants", "code"),
    [
        ((RoleWant("jit-alice", "nobody"),), "role_unknown"),
        ((RoleWant("alice", "db"),), "prefix_required"),
        ((RoleWant("root", "rooty"),), "login_reserved"),
        ((RoleWant("deploy", "docky"),), "existing_not_allowed"),
        ((ACCOUNT, RoleWant("jit-alice", "db")), "entry_twice"),
        ((RoleWant("jit-alice", "db"), RoleWant("jit-alice", "db")), "entry_twice"),
        ((ACCOUNT, SSH, RoleWant("jit-alice", "far")), "entry_twice"),
        ((ACCOUNT, RoleWant("jit-alice", "rooty")), "command_root_equivalent"),
        ((ACCOUNT, RoleWant("jit-alice", "docky")), "group_privileged"),
        ((ACCOUNT, RoleWant("jit-alice", "far")), "source_not_allowed"),
        ((RoleWant("jit-alice", "far"),), "ssh_needs_account"),
        (tuple(RoleWant(f"jit-a{n}", "db") for n in range(33)), "too_many_entries"),
    ],
)
def test_what_a_role_gives_is_judged_for_all_that_is_not_the_admins_own_text(
    wants: tuple[RoleWant, ...], code: str, tmp_path: Path
) -> None:
    denied = decide(policy(tmp_path, RULE + ROLES), grant(*wants))
    assert isinstance(denied, Denied)
    assert denied.code == code


def test_the_explicit_lines_let_a_roles_power_through(tmp_path: Path) -> None:
    lines = "    privileged_groups: [docker]\n    root_equivalent: [/bin/bash]\n"
    wants = (ACCOUNT, RoleWant("jit-alice", "rooty"), RoleWant("jit-alice", "docky"))
    allowed = decide(policy(tmp_path, RULE + lines + ROLES), grant(*wants))
    assert isinstance(allowed, Allowed)
    assert len(allowed.not_containable) == 2


def test_a_role_that_the_rule_does_not_list_is_refused(tmp_path: Path) -> None:
    denied = decide(policy(tmp_path, rule_text("roles: [far]") + ROLES), grant(RoleWant("jit-alice", "db")))
    assert isinstance(denied, Denied)
    assert (denied.code, denied.field) == ("role_not_allowed", "authorization_details[0].name")


def test_two_logins_may_have_the_same_role(tmp_path: Path) -> None:
    wants = (RoleWant("jit-a", "db"), RoleWant("jit-b", "db"))
    assert isinstance(decide(policy(tmp_path, RULE + ROLES), grant(*wants)), Allowed)
    assert isinstance(decide(policy(tmp_path, RULE + ROLES), grant(replace(ACCOUNT, identifier="jit-c"), *wants)), Allowed)


@pytest.mark.parametrize(
    ("entries", "code", "line"),
    [
        ("- {type: role, name: db}", "role_nested", 4),
        ("- {type: account, identifier: jit-a}", "role_identifier", 4),
        ("- {type: shell}", "entry_type_unknown", 4),
        ("- {groups: [a]}", "entry_type_unknown", 4),
        ("- {type: [account]}", "entry_type_unknown", 4),
        ("- {type: account}\n      - {type: account}", "entry_twice", 5),
        ("- type: account\n        shel: /bin/sh", "unknown_member", 4),
        ("- type: account\n        shell: /bin/../sh", "path_invalid", 5),
        ("- type: sudo\n        commands:\n          - /bin/a\n          - a", "path_invalid", 7),
        ("- {type: sudo}", "missing_member", 4),
        ("- {type: account, full_name: 'a:b'}", "full_name_invalid", 4),
        ("- {type: ssh, principals: ['a b']}", "principal_invalid", 4),
        ("- word", "not_a_mapping", 4),
        ("[]", "list_length", 3),
    ],
)
def test_a_bad_role_is_refused_at_load_with_its_line(entries: str, code: str, line: int, tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml", f"roles:\n  x:\n    entries:\n      {entries}\n".replace("entries:\n      []", "entries: []"))
    with pytest.raises(ConfigError) as caught:
        load_policy_file(path, DECODERS)
    assert (caught.value.code, caught.value.line) == (code, line)


def test_a_grants_role_entry_is_read_though_nothing_enforces_it() -> None:
    """The daemon's decoders are made of the enforcers: a role has none, and must be known all the same."""
    decode = decoders({"group": GroupEnforcer()})
    assert set(decode) == {"group", "role"}
    body = {"type": "role", "identifier": "jit-alice", "name": "db-oncall"}
    assert decode["role"](body, "details[0]") == RoleWant("jit-alice", "db-oncall")
    for bad in ({**body, "name": "../x"}, {**body, "identifier": "root:x"}, {**body, "more": 1}, {"type": "role"}):
        with pytest.raises(InvalidGrantError):
            decode["role"](bad, "details[0]")
