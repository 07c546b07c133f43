"""Access templates and the rules: who may ask for which, on which hosts, and what it takes. Frozen values from YAML."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from agent.errors import RefusedError
from agent.model import fields
from agent.settings import Section, duration, elements, members
from agent.strictyaml import Node

TEMPLATE = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LABEL = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_VALUE = re.compile(r"[A-Za-z0-9._-]{1,63}")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")
APPROVALS_MAX = 8
DURATION_MAX_S = 90 * 86400  # what a host takes (docs/PROTOCOL.md)

template_name = fields.matching(TEMPLATE, "template_invalid", "template name")
host_name = fields.matching(_HOST, "host_name_invalid", "host name")
_role = fields.role_name
_label_value = fields.matching(_VALUE, "label_invalid", "label")


@dataclass(frozen=True, slots=True)
class Template:
    """What a grant gives: entries of authorization_details without ``identifier`` and credentials, which a request adds."""

    name: str
    title: str
    account: Mapping[str, object]
    actions: tuple[str, ...]
    source_address: tuple[str, ...]  # where it may come from at all; empty: anywhere
    more: tuple[Mapping[str, object], ...]  # sudo, group and role entries
    recording: Mapping[str, bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may ask for what, and what it takes. ``templates``, ``hosts``: names; ``labels``: a host must have all of them."""

    name: str
    roles: frozenset[str]
    subjects: frozenset[str]
    templates: frozenset[str]
    hosts: frozenset[str]
    labels: Mapping[str, str]
    max_duration_s: int
    approvals: int
    approver_roles: frozenset[str]
    ticket: bool
    break_glass: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """All templates and rules, rules in the file's order."""

    templates: Mapping[str, Template]
    rules: tuple[Rule, ...]


def read_policy(section: Section) -> Policy:
    """The sections ``templates`` and ``rules``; without rules nobody may ask for anything.

    Raises:
        ConfigError: as :class:`agent.settings.Section`; ``template_unknown``, ``rule_twice``, ``approvers_missing``.
    """
    node = section.member("templates")
    templates = {name: _template(name, found) for name, found in (members(node) if node is not None else ())}
    listed = section.member("rules")
    rules: dict[str, Rule] = {}
    for found in elements(listed) if listed is not None else ():
        rule = _rule(found, templates)
        if rule.name in rules:
            raise found.error("rule_twice", f"another rule is called {rule.name!r}")
        rules[rule.name] = rule
    return Policy(MappingProxyType(templates), tuple(rules.values()))


def _template(name: str, node: Node) -> Template:
    if not TEMPLATE.fullmatch(name):
        raise node.error("template_invalid", f"its name must match {TEMPLATE.pattern}")
    section = Section(node, optional=("title", "account", "ssh", "sudo", "groups", "roles", "recording"))
    account = _part(section, "account", ("groups", "shell", "home"))
    ssh = _part(section, "ssh", ("actions", "source_address"))
    sudo = _part(section, "sudo", ("commands", "run_as"))
    recording = _part(section, "recording", ("required", "input"))
    more: list[Mapping[str, object]] = []
    if sudo is not None:
        more.append({"type": "sudo", **_lists(sudo, "commands", "run_as")})
    if groups := section.many("groups", fields.group_name):
        more.append({"type": "group", "groups": list(groups)})
    more += [{"type": "role", "name": role} for role in section.many("roles", fields.role_name)]
    return Template(
        name,
        section.optional("title", fields.text, name),
        {**_lists(account, "groups"), **_texts(account, "shell", "home")} if account else {},
        ssh.many("actions", fields.choice("login", "exec", "sftp", "port-forwarding")) if ssh else ("login", "exec"),
        ssh.many("source_address", fields.source_address) if ssh else (),
        tuple(more),
        {key: recording.optional(key, fields.boolean, False) for key in ("required", "input")} if recording else {},
    )


def _rule(node: Node, templates: Mapping[str, Template]) -> Rule:
    required = ("name", "who", "templates", "hosts", "max_duration")
    section = Section(node, required=required, optional=("approvals", "ticket", "break_glass"))
    who = _part(section, "who", ("roles", "subjects"))
    hosts = _part(section, "hosts", ("names", "labels"))
    approvals = _part(section, "approvals", ("count", "roles"))
    assert who is not None  # noqa: S101  # required, as are hosts
    assert hosts is not None  # noqa: S101
    names = section.many("templates", template_name)
    if unknown := [name for name in names if name not in templates]:
        raise node.error("template_unknown", f"no template is called {unknown[0]!r}")
    count = approvals.optional("count", fields.integer(0, APPROVALS_MAX), 1) if approvals else 1
    approver_roles = approvals.many("roles", _role) if approvals else ("approver",)
    if count and not approver_roles:
        raise node.error("approvers_missing", "approvals need the roles that may give them")
    roles, subjects = who.many("roles", _role), who.many("subjects", fields.text)
    if not roles and not subjects:
        raise node.error("rule_for_nobody", "who needs roles or subjects")
    labels = hosts.member("labels")
    return Rule(
        name=section.one("name", fields.text),
        roles=frozenset(roles),
        subjects=frozenset(subjects),
        templates=frozenset(names),
        hosts=frozenset(hosts.many("names", host_name)),
        labels=_labels(labels) if labels is not None else {},
        max_duration_s=section.one("max_duration", _granted),
        approvals=count,
        approver_roles=frozenset(approver_roles),
        ticket=section.optional("ticket", fields.choice("required", "optional"), "optional") == "required",
        break_glass=section.optional("break_glass", fields.boolean, False),
    )


def _labels(node: Node) -> Mapping[str, str]:
    for key, found in members(node):
        if not _LABEL.fullmatch(key):
            raise found.error("label_invalid", f"must match {_LABEL.pattern}")
    return {key: found.read(_label_value) for key, found in members(node)}


def _granted(value: object, field: str) -> int:
    found = duration(value, field)
    if found > DURATION_MAX_S:
        raise RefusedError("duration_invalid", "no host takes a grant of more than 90 days", field=field)
    return found


def _part(section: Section, key: str, optional: tuple[str, ...]) -> Section | None:
    node = section.member(key)
    return None if node is None else Section(node, optional=optional)


def _lists(section: Section, *names: str) -> dict[str, object]:
    """As they stand: the whole grant is decoded as a host would, when the server starts and before each is signed."""
    return {name: list(section.many(name, fields.string)) for name in names if section.member(name) is not None}


def _texts(section: Section, *names: str) -> dict[str, object]:
    return {name: section.one(name, fields.string) for name in names if section.member(name) is not None}
