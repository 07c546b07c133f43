"""The admin's policy files → one Policy. Rules keep the order of files by name, then of lines; no setting stands twice."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from agent.forms import POLICY, current
from agent.model import fields
from agent.policy import parse
from agent.policy.model import Origin, Policy, Role, Rule
from agent.policy.parse import Decoders
from agent.settings import Section, elements, members, yaml_files
from agent.strictyaml import Node, read_yaml

__all__ = ["Decoders", "load_policy", "load_policy_file"]


def load_policy(folder: Path, decoders: Decoders) -> Policy:
    """All ``*.yaml`` files of a policy.d folder as one policy; no folder or no file allows nothing.

    Args:
        folder: usually /etc/tidegate/policy.d.
        decoders: entry type → the enforcer's ``decode``, for the entries of roles.

    Raises:
        ConfigError: any of :data:`agent.policy.codes.FILES`; a name given in two files is told with both.
    """
    return _policy([current(read_yaml(path), POLICY) for path in yaml_files(folder)], decoders)


def load_policy_file(path: Path, decoders: Decoders) -> Policy:
    """One file as a whole policy, for ``verify --policy FILE`` and ``policy check FILE``. Raises ConfigError as above."""
    return _policy([current(read_yaml(path), POLICY)], decoders)


def _policy(roots: Sequence[Node], decoders: Decoders) -> Policy:
    sections = [Section(root, optional=parse.TOP_KEYS) for root in roots]
    rules = _rules(sections)
    roles = _roles(sections, decoders)
    _known_roles(sections, roles)
    groups, programs = "extra_privileged_groups", "extra_root_equivalent"
    return Policy(
        rules=rules,
        roles=MappingProxyType(roles),
        extra_privileged_groups=_once(sections, groups).many(groups, fields.group_name, least=0),
        extra_root_equivalent=_once(sections, programs).many(programs, fields.absolute_path, least=0),
    )


def _rules(sections: Sequence[Section]) -> tuple[Rule, ...]:
    found: dict[str, Rule] = {}
    for section in sections:
        listed = section.member("rules")
        for node in elements(listed, least=0) if listed is not None else ():
            rule = parse.rule(node)
            if rule.name in found:
                raise node.locate(f"{node.key}.name").error("rule_twice", _already(f"rule {rule.name!a}", found[rule.name].origin))
            found[rule.name] = rule
    return tuple(found.values())


def _roles(sections: Sequence[Section], decoders: Decoders) -> dict[str, Role]:
    found: dict[str, Role] = {}
    for section in sections:
        listed = section.member("roles")
        for name, node in members(listed) if listed is not None else ():
            if name in found:
                raise node.error("role_twice", _already(f"role {name!a}", found[name].origin))
            found[name] = parse.role(name, node, decoders)
    return found


def _known_roles(sections: Sequence[Section], roles: Mapping[str, Role]) -> None:
    """A rule that lists a role nobody wrote is a typing error, not a harmless line."""
    for section in sections:
        listed = section.member("rules")
        for node in listed.children() if listed is not None else ():
            for named in node.locate(f"{node.key}.roles").children():
                if isinstance(named.value, str) and named.key.startswith(f"{node.key}.roles[") and named.value not in roles:
                    raise named.error("role_undefined", f"no file defines the role {named.value!a}")


def _once(sections: Sequence[Section], key: str) -> Section:
    """The one section that gives this setting; an empty one when none does."""
    giving = [section for section in sections if section.member(key) is not None]
    if len(giving) > 1:
        first, second = giving[0].member(key), giving[1].member(key)
        if first is not None and second is not None:
            raise second.error("setting_twice", _already(f"setting {key!a}", Origin(first.path, first.line)))
    return giving[0] if giving else Section(Node({}, Path(), 1, ""), optional=(key,))


def _already(what: str, origin: Origin) -> str:
    return f"{what} stands already in {origin.path}:{origin.line}"
