"""One file's nodes → typed rules and roles. Every error is a ConfigError at its file, line and key."""

import ipaddress
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from agent.errors import RefusedError
from agent.model import AccountWant, SshWant, Want, fields
from agent.policy import model
from agent.policy.entries import reserved
from agent.policy.model import (
    AccountCeiling,
    Approvals,
    Network,
    Origin,
    RecordingCeiling,
    Role,
    Rule,
    SshCeiling,
    SudoCeiling,
    TicketCeiling,
)
from agent.policy.patterns import command, name_pattern, ticket_pattern
from agent.settings import Section, duration, elements, members
from agent.strictyaml import Node

T = TypeVar("T")
Decoders: TypeAlias = Mapping[str, Callable[[Mapping[str, object], str], Want]]

STAND_IN = "role-identifier"  # a valid login that roles are decoded with, replaced at expansion
CONCURRENT_MAX = 100_000
THRESHOLD_MAX = 16
DURATION_MAX_S = 90 * 86400  # the contract's own ceiling on exp - nbf
ROLE_ENTRIES_MAX = 32
FRESH_MIN_S, FRESH_MAX_S = 10, 7 * 86400  # shorter than a bulletin takes to come would only flap

TOP_KEYS = ("rules", "roles", "extra_privileged_groups", "extra_root_equivalent")
RULE_KEYS = ("subjects", "max_duration", "max_ahead", "max_concurrent", "max_concurrent_per_subject", "accounts", "ssh", "sudo",
             "groups", "roles", "ticket", "reason", "recording", "approvals", "fresh_within",
             "privileged_groups", "root_equivalent")  # fmt: skip
ACCOUNT_KEYS = ("create", "prefix", "shells", "groups", "home", "existing")
RECORDING_KEYS, RECORDING_MODES = ("mode", "input", "max_bytes", "pause"), ("required", "optional", "off")
RECORDED_MAX, PAUSE_MAX_S = 1 << 30, 600
SSH_KEYS = ("keys", "principals", "actions", "source_networks", "require_source_address")


def rule(node: Node) -> Rule:
    """One member of ``rules``."""
    section = Section(node, required=("name", "issuers"), optional=RULE_KEYS)
    count = fields.integer(1, CONCURRENT_MAX)
    return Rule(
        name=section.one("name", _name),
        issuers=section.many("issuers", fields.text),
        subjects=section.many("subjects", name_pattern),
        max_duration_s=section.optional("max_duration", _granted_time, model.DEFAULT_MAX_DURATION_S),
        max_ahead_s=section.optional("max_ahead", duration, model.DEFAULT_MAX_AHEAD_S),
        max_concurrent=section.optional("max_concurrent", count, None),
        max_concurrent_per_subject=section.optional("max_concurrent_per_subject", count, None),
        accounts=_part(section, "accounts", _accounts),
        ssh=_part(section, "ssh", _ssh),
        sudo=_part(section, "sudo", _sudo),
        groups=section.many("groups", fields.group_name, least=0),
        roles=section.many("roles", fields.role_name, least=0),
        ticket=_part(section, "ticket", _ticket) or TicketCeiling(),
        reason_required=_part(section, "reason", _reason) or False,
        recording=_part(section, "recording", _recording) or RecordingCeiling(),
        fresh_within_s=section.optional("fresh_within", _freshness, None),
        approvals=_part(section, "approvals", _approvals) or Approvals(),
        privileged_groups=section.many("privileged_groups", fields.group_name, least=0),
        root_equivalent=section.many("root_equivalent", command, least=0),
        origin=Origin(node.path, node.line),
    )


def _part(section: Section, key: str, read: Callable[[Node], T]) -> T | None:
    found = section.member(key)
    return read(found) if found is not None else None


def _accounts(node: Node) -> AccountCeiling:
    section = Section(node, optional=ACCOUNT_KEYS)
    prefix = section.optional("prefix", _prefix, model.DEFAULT_PREFIX)
    found = AccountCeiling(
        create=section.optional("create", fields.boolean, True),
        prefix=prefix,
        shells=section.many("shells", fields.absolute_path, default=model.DEFAULT_SHELLS),
        groups=section.many("groups", fields.group_name, least=0),
        home=section.many("home", fields.choice("ephemeral", "archive"), default=model.DEFAULT_HOMES),
        existing=section.many("existing", fields.login, least=0),
    )
    for index, login in enumerate(found.existing):
        if reserved(login) or login.startswith(prefix):
            at = node.locate(f"{node.key}.existing[{index}]")
            reason = f"{login!a} can't be an existing account: it is root's, Tidegate's own, or a tenant's by its prefix"
            raise at.error("existing_invalid", reason)
    return found


def _ssh(node: Node) -> SshCeiling:
    section = Section(node, optional=SSH_KEYS)
    return SshCeiling(
        keys=section.optional("keys", fields.boolean, True),
        principals=section.many("principals", name_pattern, least=0),
        actions=section.many("actions", fields.choice("login", "exec", "sftp", "port-forwarding"), default=model.DEFAULT_ACTIONS),
        source_networks=section.many("source_networks", _network),
        require_source_address=section.optional("require_source_address", fields.boolean, False),
    )


def _sudo(node: Node) -> SudoCeiling:
    section = Section(node, required=("commands",), optional=("run_as",))
    return SudoCeiling(
        commands=section.many("commands", command),
        run_as=section.many("run_as", fields.login, default=model.DEFAULT_RUN_AS),
    )


def _ticket(node: Node) -> TicketCeiling:
    section = Section(node, optional=("pattern", "required"))
    return TicketCeiling(
        pattern=section.optional("pattern", ticket_pattern, None),
        required=section.optional("required", fields.boolean, False),
    )


def _recording(node: Node) -> RecordingCeiling:
    """One word, or a mapping with the word as its ``mode``."""
    word = fields.choice(*RECORDING_MODES)
    if not isinstance(node.value, Mapping):
        return RecordingCeiling(mode=node.read(word))
    section = Section(node, optional=RECORDING_KEYS)
    return RecordingCeiling(
        mode=section.optional("mode", word, "optional"),
        input=section.optional("input", fields.boolean, False),
        limit=section.optional("max_bytes", fields.integer(0, RECORDED_MAX), model.DEFAULT_RECORDED_BYTES),
        pause_s=section.optional("pause", _pause, 0),
    )


def _pause(value: object, field: str) -> int:
    found = duration(value, field)
    if found > PAUSE_MAX_S:
        raise RefusedError("duration_invalid", f"no session may stand still for more than {PAUSE_MAX_S} s", field=field)
    return found


def _reason(node: Node) -> bool:
    return Section(node, required=("required",)).one("required", fields.boolean)


def _approvals(node: Node) -> Approvals:
    section = Section(node, required=("threshold",), optional=("distinct",))
    return Approvals(
        threshold=section.one("threshold", fields.integer(1, THRESHOLD_MAX)),
        distinct=section.optional("distinct", fields.choice("keys", "issuers", "approvers"), "keys"),
    )


def role(name: str, node: Node, decoders: Decoders) -> Role:
    """One member of ``roles``: its entries, decoded as in a grant but for the identifier, which the grant gives."""
    node.read(lambda _value, field: fields.role_name(name, field))
    section = Section(node, required=("entries",), optional=("fresh_within",))
    nodes = elements(section.node.locate(f"{node.key}.entries"))
    if len(nodes) > ROLE_ENTRIES_MAX:
        raise nodes[0].error("list_length", f"a role has at most {ROLE_ENTRIES_MAX} entries")
    wants: list[Want] = []
    for entry in nodes:
        want = _role_entry(entry, decoders)
        if isinstance(want, AccountWant | SshWant) and any(isinstance(other, type(want)) for other in wants):
            raise entry.error("entry_twice", f"a role has at most one {want.type} entry")
        wants.append(want)
    return Role(name, tuple(wants), section.optional("fresh_within", _freshness, None), Origin(node.path, node.line))


def _role_entry(node: Node, decoders: Decoders) -> Want:
    body = dict(members(node))
    kind = body["type"].value if "type" in body else None
    if "identifier" in body:
        raise body["identifier"].error("role_identifier", "a role's entries have no identifier: the grant gives it")
    if kind == "role":
        raise body["type"].error("role_nested", "a role can't hold another")
    decode = decoders.get(kind) if isinstance(kind, str) else None
    if decode is None:
        at = body.get("type", node)
        raise at.error("entry_type_unknown", f"an entry's type is one of {', '.join(sorted(set(decoders) - {'role'}))}")

    def with_stand_in(value: object, field: str) -> Want:
        plain = value if isinstance(value, dict) else {}
        return decode({**plain, "identifier": STAND_IN}, field)

    return node.read(with_stand_in)


def _name(value: object, field: str) -> str:
    found = fields.string(value, field)
    if not fields.ROLE.fullmatch(found):
        raise RefusedError("rule_name_invalid", f"must match {fields.ROLE.pattern}", field=field)
    return found


def _prefix(value: object, field: str) -> str:
    found = fields.login(value, field)
    if len(found) > 16 or not found.endswith("-") or reserved(found):
        raise RefusedError("prefix_invalid", "must be at most 16 characters, end with '-', and not be Tidegate's own", field=field)
    return found


def _granted_time(value: object, field: str) -> int:
    found = duration(value, field)
    if found > DURATION_MAX_S:
        raise RefusedError("duration_invalid", "no grant may last longer than 90d", field=field)
    return found


def _freshness(value: object, field: str) -> int:
    found = duration(value, field)
    if not FRESH_MIN_S <= found <= FRESH_MAX_S:
        raise RefusedError("duration_invalid", "a bulletin's age is bounded to 10s to 7d", field=field)
    return found


def _network(value: object, field: str) -> Network:
    return ipaddress.ip_network(fields.source_address(value, field))
