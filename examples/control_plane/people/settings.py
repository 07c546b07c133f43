"""The section `people` of the control plane's configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.errors import RefusedError
from agent.model import fields
from agent.settings import Section, duration, elements, members
from agent.strictyaml import Node
from examples.control_plane.people.keyset import TYPES
from examples.control_plane.people.oidc import Provider
from examples.control_plane.people.provisioning import RoleMap, prefix_fits

SESSION_S = 3600
_SESSION_MIN_S, _SESSION_MAX_S = 300, 12 * 3600
_ISSUER = re.compile(r"https://[A-Za-z0-9.\[\]:-]+(?:/[A-Za-z0-9._~/%-]*)?")


@dataclass(frozen=True, slots=True)
class PeopleSettings:
    """``roles`` maps the provider's groups to roles; ``local`` lets local accounts log in."""

    provider: Provider | None = None
    roles: RoleMap = field(default_factory=dict)
    local: bool = True
    session_s: int = SESSION_S
    prefix: str = "jit-"


def read(node: Node | None) -> PeopleSettings:
    """The section → settings; without one there are local accounts alone, which is for trying it out.

    Raises:
        ConfigError: a setting is unknown, missing or out of range.
    """
    if node is None:
        return PeopleSettings()
    section = Section(node, optional=("oidc", "local", "session", "login_prefix"))
    oidc = section.member("oidc")
    return PeopleSettings(
        provider=_provider(oidc) if oidc is not None else None,
        roles=_roles(oidc) if oidc is not None else {},
        # With a provider there, a second way in is one that somebody has to ask for.
        local=section.optional("local", fields.boolean, oidc is None),
        session_s=section.optional("session", _session, SESSION_S),
        prefix=section.optional("login_prefix", _prefix, "jit-"),
    )


def _oidc(node: Node) -> Section:
    optional = ("algorithms", "scopes", "groups_claim", "ca_file", "device_flow")
    return Section(node, required=("issuer", "client_id", "roles"), optional=optional)


def _provider(node: Node) -> Provider:
    section, plain = _oidc(node), Provider("", "")
    ca_file = section.optional("ca_file", fields.text, "")
    return Provider(
        issuer=section.one("issuer", _issuer),
        client_id=section.one("client_id", fields.text),
        algorithms=section.many("algorithms", fields.choice(*TYPES), default=plain.algorithms),
        scopes=section.many("scopes", fields.text, default=plain.scopes),
        groups_claim=section.optional("groups_claim", fields.text, plain.groups_claim),
        ca_file=node.path.parent / ca_file if ca_file else None,
        device_flow=section.optional("device_flow", fields.boolean, plain.device_flow),
    )


def _roles(node: Node) -> RoleMap:
    member = _oidc(node).member("roles")
    found: dict[str, frozenset[str]] = {}
    for group, names in members(member) if member is not None else ():
        found[group] = frozenset(name.read(fields.role_name) for name in elements(names))
    if not found:
        raise node.error("no_roles", "`roles` maps no group to any role: nobody could log in")
    return found


def _issuer(value: object, key: str) -> str:
    found = fields.text(value, key)
    if not _ISSUER.fullmatch(found):
        raise RefusedError("issuer_invalid", "must be the provider's issuer, an https address without query", field=key)
    return found


def _session(value: object, key: str) -> int:
    found = duration(value, key)
    if not _SESSION_MIN_S <= found <= _SESSION_MAX_S:
        raise RefusedError("out_of_range", "must be 5m to 12h", field=key)
    return found


def _prefix(value: object, key: str) -> str:
    found = fields.string(value, key)
    if not prefix_fits(found):
        raise RefusedError("login_prefix_invalid", "must be the beginning of a login, of at most 14 characters", field=key)
    return found


def public(settings: PeopleSettings) -> Mapping[str, object]:
    """How one may log in here, for anybody."""
    methods = [*(["oidc"] if settings.provider else []), *(["local"] if settings.local else [])]
    provider = settings.provider
    if provider is None:
        return {"methods": methods}
    oidc = {
        "issuer": provider.issuer,
        "client_id": provider.client_id,
        "scopes": list(provider.scopes),
        "device": provider.device_flow,
    }
    return {"methods": methods, "oidc": oidc}
