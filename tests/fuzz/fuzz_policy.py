"""The admin's YAML: typed rules and roles, or a ConfigError that says where. Nothing is read that YAML does not say."""

from pathlib import Path
from typing import Any

import yaml

from agent.assembly import registry
from agent.errors import ConfigError
from agent.policy import Policy, decoders
from agent.policy.entries import reserved
from agent.policy.load import _policy
from agent.strictyaml import Node, parse_yaml

MAX_LEN = 4096
WORDS = (
    *("rules:", "roles:", "- name: r", "issuers:", "[https://cp.example]", "accounts:", "prefix:", "jit-", "existing:", "[deploy]"),
    *(
        "max_duration: 1h",
        "sudo:",
        "commands:",
        "run_as:",
        "ssh:",
        "actions:",
        "entries:",
        "type: account",
        "approvals:",
        "threshold: 2",
    ),
    *(
        "ticket: {pattern: INC-#}",
        "source_networks:",
        "10.0.0.0/8",
        "privileged_groups:",
        "extra_root_equivalent:",
        "null",
        "~",
        "<<: *a",
        "&a",
    ),
    *("!!python/object", "%YAML 1.1", "---", "...", "? ", "0o17", "1_000", "12:30", "yes", "'", '"\\u202e"', "|", ">-"),
)
_WHERE = Path("/etc/tidegate/policy.d/fuzz.yaml")
_DECODERS = decoders(registry())


def check(data: bytes) -> None:
    """Refused at a place in the file, or read as every reader of YAML reads it and as a policy that keeps its own rules."""
    try:
        root = parse_yaml(data, _WHERE)
        _same(root, yaml.load(data.decode(), yaml.BaseLoader))  # BaseLoader makes nothing but text
        policy = _policy([root], _DECODERS)
    except ConfigError as error:
        assert error.path == _WHERE and (error.line is None or 1 <= error.line <= data.count(b"\n") + data.count(b"\r") + 2), error
        assert "\n" not in str(error)
        return
    _keeps_its_rules(policy)


def _same(node: Node, plain: Any) -> None:
    if isinstance(node.value, tuple):
        assert isinstance(plain, list) and len(plain) == len(node.value)
        for inner, other in zip(node.value, plain, strict=True):
            _same(inner, other)
    elif node.value is None or isinstance(node.value, bool | int | str):
        text = plain if plain is not None else ""
        assert isinstance(text, str)
        if isinstance(node.value, bool):
            assert text.lower() == str(node.value).lower()
        elif isinstance(node.value, int):
            assert int(text) == node.value
        else:
            assert text == node.value or (node.value is None and text in {"", "~", "null", "Null", "NULL"})
    else:
        if not node.value:  # an empty file, or one that says null
            assert plain in ({}, None, "", "~", "null", "Null", "NULL")
            return
        assert plain.keys() == node.value.keys()
        for key, inner in node.value.items():
            _same(inner, plain[key])


def _keeps_its_rules(policy: Policy) -> None:
    assert len({rule.name for rule in policy.rules}) == len(policy.rules)
    for rule in policy.rules:
        assert rule.issuers and 0 < rule.max_duration_s <= 90 * 86400 and set(rule.roles) <= policy.roles.keys()
        if rule.accounts:
            assert rule.accounts.prefix.endswith("-") and not reserved(rule.accounts.prefix)
            assert not any(reserved(login) or login.startswith(rule.accounts.prefix) for login in rule.accounts.existing)
        commands = (*(rule.sudo.commands if rule.sudo else ()), *rule.root_equivalent)
        assert all(words[0].startswith("/") and not set("".join(words[1:])) & set("*?[]\\") for words in commands)
