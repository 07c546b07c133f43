"""The objects inside an OCSF event: device, actor, user, and what each class asks for beside them. Pure.

Whatever an event holds, these are valid: a login that is not known becomes ``unknown``, every text one bounded line.
"""

import ipaddress
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.audit.event import AuditEvent, EventKind
from agent.model.text import one_line

TEXT_MAX = 500  # characters of one text, as in a grant
_PORT_MAX = 65535
_HOSTNAME_MAX = 253
_PRIVILEGES_MAX = 32
_PRIVILEGE_MAX = 200  # characters of one
_DEPTH_MAX = 8
_INTEGER_MAX = 1 << 63


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """Who is speaking: this host and this program. ``host_id`` is the audience grants are made out to."""

    host_id: str
    hostname: str
    product_version: str
    os_name: str = "Linux"
    os_version: str = ""

    @classmethod
    def of_this_host(cls, host_id: str, product_version: str) -> "HostIdentity":
        """Read from uname(2) and /etc/os-release; a missing os-release leaves plain ``Linux``."""
        try:
            release = platform.freedesktop_os_release()
        except OSError:
            release = {}
        name = os.uname().nodename
        return cls(host_id, name, product_version, release.get("NAME", "Linux"), release.get("VERSION_ID", ""))


def text(value: str) -> str:
    """One line of at most ``TEXT_MAX`` characters."""
    return one_line(value, TEXT_MAX)


def plain(value: object, depth: int = 0) -> object:
    """JSON of it, whatever it is: texts made one line, unknown things shown by their text, at most 8 levels."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _INTEGER_MAX else text(hex(value))
    if depth > _DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {text(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(text(str(item)) for item in value)
    return text(str(value))


def device(identity: HostIdentity) -> dict[str, object]:
    """This host, as the ``host`` profile has it."""
    system: dict[str, object] = {"type_id": 200, "type": "Linux", "name": text(identity.os_name)}
    if identity.os_version:
        system["version"] = text(identity.os_version)
    hostname = one_line(identity.hostname, _HOSTNAME_MAX)
    return {"type_id": 1, "type": "Server", "hostname": hostname, "uid": text(identity.host_id), "os": system}


_USERS_OWN = frozenset(
    {
        EventKind.SESSION_OPENED,
        EventKind.SESSION_CLOSED,
        EventKind.PROCESS_LAUNCHED,
        EventKind.CONNECTION_FORWARDED,
        EventKind.PRIVILEGE_USED,
    }
)


def actor(event: AuditEvent) -> dict[str, object]:
    """Tidegate acts; on whose word (``iss``) stands under ``idp``. A session, a process, a connection are the user's own doing."""
    if event.kind in _USERS_OWN:
        return {"user": _user(event)}
    value: dict[str, object] = {"app_name": "tidegated"}
    if event.iss:
        value["idp"] = {"name": text(event.iss), "uid": text(event.iss)}
    return value


def _user(event: AuditEvent) -> dict[str, object]:
    value: dict[str, object] = {"name": text(event.login) or "unknown", "type_id": 1, "type": "User"}
    if event.uid is not None:
        value["uid"] = str(event.uid)
    if event.sub:
        value["uid_alt"] = text(event.sub)
    if event.jti:
        value["credential_uid"] = text(event.jti)
    return value


def _account(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    return {"user": _user(event)}


def _logon(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    value: dict[str, object] = {"user": _user(event), "service": {"name": "sshd"}, "is_remote": True}
    session = event.detail.get("session")
    if isinstance(session, str) and session:
        value["session"] = {"uid": text(session), "is_remote": True}
    address = event.detail.get("source_address")
    if isinstance(address, str) and _is_address(address):
        value["src_endpoint"] = {"ip": address}
    return value


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def _privileges(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    listed = event.detail.get("privileges")
    privileges = [one_line(str(item), _PRIVILEGE_MAX) for item in listed[:_PRIVILEGES_MAX]] if isinstance(listed, list) else []
    return {"user": _user(event), "privileges": privileges or ["sudo"]}


def _entity(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    if event.kind in {EventKind.POLICY_LOADED, EventKind.POLICY_REJECTED}:
        return {"entity": {"type_id": 5, "type": "Policy", "name": "policy"}}
    grant: dict[str, object] = {"type_id": 99, "type": "Grant", "name": text(event.jti) or "unknown"}
    if event.jti:
        grant["uid"] = text(event.jti)
    if event.login:
        grant["user"] = _user(event)
    return {"entity": grant}


def _group(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    group = event.detail.get("group")
    return {"user": _user(event), "group": {"name": text(str(group)) if group else "unknown"}}


def _process(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    """One process by its ``pid``, or all that a grant's sessions were: then the grant is what identifies them."""
    process: dict[str, object] = {"user": _user(event)}
    pid = event.detail.get("pid")
    if isinstance(pid, int) and not isinstance(pid, bool):
        process["pid"] = pid
    else:
        process["uid"] = text(event.jti) or text(event.login) or "unknown"
    for ours, theirs in (("command", "cmd_line"), ("path", "path"), ("name", "name")):
        found = event.detail.get(ours)
        if isinstance(found, str) and found:
            process[theirs] = text(found)
    killed = event.detail.get("killed")
    count = {"count": killed} if isinstance(killed, int) and not isinstance(killed, bool) and killed > 0 else {}
    return {"process": process, **count}


def _connection(event: AuditEvent, identity: HostIdentity) -> dict[str, object]:
    """From this host to where a client wanted it, or (``listen``, ``remote``) to a port of this host's that a client took over."""
    host, port = event.detail.get("host"), event.detail.get("port")
    target: dict[str, object] = {}
    if isinstance(host, str) and host:
        target["ip" if _is_address(host) else "hostname"] = one_line(host, _HOSTNAME_MAX)
    elif event.detail.get("kind") != "local":
        target["uid"] = text(identity.host_id)
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port <= _PORT_MAX:
        target["port"] = port
    return {"dst_endpoint": target or {"hostname": "unknown"}, "src_endpoint": {"uid": text(identity.host_id)}}


def _log(event: AuditEvent, _identity: HostIdentity) -> dict[str, object]:
    count = event.detail.get("count")
    value: dict[str, object] = {"log_name": "outbox" if event.kind is EventKind.OUTBOX_DROPPED else "events"}
    if isinstance(count, int) and not isinstance(count, bool) and count > 0:
        value["count"] = count
    return value


def _application(_event: AuditEvent, identity: HostIdentity) -> dict[str, object]:
    return {"app": {"name": "tidegated", "vendor_name": "Tidegate", "version": text(identity.product_version)}}


OF_CLASS: Mapping[int, Callable[[AuditEvent, HostIdentity], dict[str, object]]] = {
    1007: _process,
    1008: _log,
    3001: _account,
    3002: _logon,
    3003: _privileges,
    3004: _entity,
    3006: _group,
    4001: _connection,
    6002: _application,
}
