"""Events as OCSF 1.8 (https://schema.ocsf.io/1.8.0), by one table. Pure.

Every event carries the ``host`` profile (device, actor), the grant's id as ``metadata.correlation_uid``, so that one query
finds all of a grant, and an idempotency key as ``metadata.uid``. What OCSF has no place for is under ``unmapped``.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from agent.audit.event import AuditEvent, EventKind
from agent.audit.objects import OF_CLASS, HostIdentity, actor, device, plain, text
from agent.model.text import one_line

VERSION = "1.8.0"
LINE_MAX = 64 * 1024  # bytes of one event as JSON; the detail is left out of a longer one, and that is said
_NS_PER_MS = 1_000_000

_SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
_CLASSES = {
    1007: "Process Activity",
    1008: "Event Log Activity",
    3001: "Account Change",
    3002: "Authentication",
    3003: "Authorize Session",
    3004: "Entity Management",
    3006: "Group Management",
    4001: "Network Activity",
    6002: "Application Lifecycle",
}
_CATEGORIES = {1: "System Activity", 3: "Identity & Access Management", 4: "Network Activity", 6: "Application Activity"}


@dataclass(frozen=True, slots=True)
class Mapped:
    """One row. ``severity`` when it went well, ``failed_severity`` when not; ``success`` False: this kind is a failure."""

    class_uid: int
    activity_id: int
    activity: str
    severity: int = 1
    failed_severity: int = 3
    success: bool = True

    @property
    def category_uid(self) -> int:
        """The first digit of the class."""
        return self.class_uid // 1000

    @property
    def type_uid(self) -> int:
        """Class and activity in one number, as OCSF defines it."""
        return self.class_uid * 100 + self.activity_id


# What ends access is High when it fails: someone may still be in. Activity 99 is OCSF's "Other": there is no closer one.
MAPPING: Mapping[EventKind, Mapped] = {
    EventKind.AGENT_STARTED: Mapped(6002, 3, "Start"),
    EventKind.AGENT_STOPPED: Mapped(6002, 4, "Stop", severity=2, failed_severity=4),
    EventKind.GRANT_ACCEPTED: Mapped(3004, 1, "Create"),
    EventKind.GRANT_REFUSED: Mapped(3004, 1, "Create", success=False),
    EventKind.GRANT_OPENED: Mapped(3004, 10, "Activate"),
    EventKind.GRANT_FAILED: Mapped(3004, 10, "Activate", success=False),
    EventKind.GRANT_ENDED: Mapped(3004, 11, "Deactivate", failed_severity=4),
    EventKind.GRANT_SUSPENDED: Mapped(3004, 12, "Suspend", severity=2, failed_severity=4),
    EventKind.GRANT_RESUMED: Mapped(3004, 13, "Resume"),
    EventKind.GRANT_DRAINING: Mapped(3004, 3, "Update", severity=2, failed_severity=4),
    EventKind.REVOCATION_TAKEN: Mapped(3004, 3, "Update", severity=2, failed_severity=4),
    EventKind.ACCOUNT_CREATED: Mapped(3001, 1, "Create"),
    EventKind.ACCOUNT_DELETED: Mapped(3001, 6, "Delete", failed_severity=4),
    EventKind.GROUP_JOINED: Mapped(3006, 3, "Add User"),
    EventKind.GROUP_LEFT: Mapped(3006, 4, "Remove User", failed_severity=4),
    EventKind.PRIVILEGE_GRANTED: Mapped(3003, 1, "Assign Privileges", severity=2),
    EventKind.PRIVILEGE_REVOKED: Mapped(3003, 99, "Revoke Privileges", failed_severity=4),
    EventKind.SESSION_OPENED: Mapped(3002, 1, "Logon"),
    EventKind.SESSION_CLOSED: Mapped(3002, 2, "Logoff"),
    EventKind.SESSION_SEVERED: Mapped(1007, 2, "Terminate", severity=2, failed_severity=4),
    EventKind.PROCESS_LAUNCHED: Mapped(1007, 1, "Launch"),
    EventKind.PROCESS_UNSEEN: Mapped(1008, 99, "Executions Lost", failed_severity=3, success=False),
    EventKind.CONNECTION_FORWARDED: Mapped(4001, 1, "Open"),
    EventKind.PRIVILEGE_USED: Mapped(1007, 1, "Launch"),
    EventKind.LOG_UNSEEN: Mapped(1008, 99, "Log Lines Lost", failed_severity=3, success=False),
    EventKind.POLICY_LOADED: Mapped(3004, 3, "Update"),
    EventKind.POLICY_REJECTED: Mapped(3004, 3, "Update", success=False),
    EventKind.RESIDUE_FOUND: Mapped(3004, 99, "Residue Found", severity=3, failed_severity=4),
    EventKind.TEARDOWN_LATE: Mapped(3004, 99, "Teardown Late", failed_severity=4, success=False),
    EventKind.TEARDOWN_RETRY: Mapped(3004, 99, "Teardown Retry", failed_severity=4, success=False),
    EventKind.PROOF_FAILED: Mapped(3004, 99, "Proof Failed", failed_severity=4, success=False),
    EventKind.AUDIT_LOST: Mapped(1008, 99, "Events Lost", failed_severity=4, success=False),
    EventKind.AUDIT_DROPPED: Mapped(1008, 2, "Delete", severity=3),
    EventKind.OUTBOX_DROPPED: Mapped(1008, 2, "Delete", severity=3),
}


def to_ocsf(event: AuditEvent, identity: HostIdentity, sequence: int = 0) -> dict[str, object]:
    """One OCSF event; JSON-serialisable, never with a control character in a text, at most ``LINE_MAX`` bytes as JSON.

    ``metadata.uid`` is the same for the same event, host and ``sequence`` (of this host's trail, from 1), and for no other.
    """
    row = MAPPING[event.kind]
    success = row.success and event.ok
    severity = row.severity if success else row.failed_severity
    value: dict[str, object] = {
        "activity_id": row.activity_id,
        "activity_name": row.activity,
        "category_uid": row.category_uid,
        "category_name": _CATEGORIES[row.category_uid],
        "class_uid": row.class_uid,
        "class_name": _CLASSES[row.class_uid],
        "type_uid": row.type_uid,
        "type_name": f"{_CLASSES[row.class_uid]}: {row.activity if row.activity_id != 99 else 'Other'}",
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "status_id": 1 if success else 2,
        "status": "Success" if success else "Failure",
        "time": event.at_ns // _NS_PER_MS,
        "timezone_offset": 0,
        "message": message_of(event),
        "metadata": _metadata(event, identity, sequence),
        "device": device(identity),
        "actor": actor(event),
        "unmapped": _unmapped(event),
    }
    if event.code:
        value["status_code"] = text(event.code)
    if event.reason:
        value["status_detail"] = text(event.reason)
    value.update(OF_CLASS[row.class_uid](event, identity))
    return _bounded(value)


def message_of(event: AuditEvent) -> str:
    """One line for a person: the kind, then ``key=value`` words; values with anything but plain characters are quoted."""
    pairs = {
        "grant": event.jti,
        "login": event.login,
        "sub": event.sub,
        "code": event.code,
        "reason": event.reason,
        "ticket": event.ticket,
    }
    words = [event.kind.value] + [f"{key}={_word(value)}" for key, value in pairs.items() if value]
    return " ".join(words)


def _word(value: str) -> str:
    shown = one_line(value)
    plain = shown.isascii() and all(character.isalnum() or character in "._@:/+-" for character in shown)
    return shown if plain else '"' + shown.replace('"', "'") + '"'


def _key(event: AuditEvent, identity: HostIdentity, sequence: int) -> str:
    """SHA-256, in hex, over host, sequence and the whole event in canonical JSON."""
    parts = [identity.host_id, sequence, *(getattr(event, name) for name in event.__slots__ if name != "detail")]
    canonical = json.dumps([*parts, plain(event.detail)], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _metadata(event: AuditEvent, identity: HostIdentity, sequence: int) -> dict[str, object]:
    product = {"name": "Tidegate", "vendor_name": "Tidegate", "version": text(identity.product_version)}
    value: dict[str, object] = {
        "version": VERSION,
        "product": product,
        "profiles": ["host"],
        "uid": _key(event, identity, sequence),
        "sequence": sequence,
        "event_code": event.kind.value,
        "log_name": "tidegate",
    }
    if event.jti:
        value["correlation_uid"] = text(event.jti)
    return value


def _unmapped(event: AuditEvent) -> dict[str, object]:
    value: dict[str, object] = {"kind": event.kind.value, "time_ns": event.at_ns}
    texts = {"jti": event.jti, "iss": event.iss, "sub": event.sub, "login": event.login, "ticket": event.ticket}
    value.update({key: text(found) for key, found in texts.items() if found})
    if event.uid is not None:
        value["uid"] = event.uid
    if event.detail:
        value["detail"] = plain(event.detail)
    return value


def _bounded(value: dict[str, object]) -> dict[str, object]:
    size = len(json.dumps(value, ensure_ascii=False).encode("utf-8"))
    unmapped, metadata = value["unmapped"], value["metadata"]
    if size > LINE_MAX and isinstance(unmapped, dict) and isinstance(metadata, dict):
        metadata["is_truncated"] = True
        metadata["untruncated_size"] = size
        unmapped["detail"] = {"left_out": True}
    return value
