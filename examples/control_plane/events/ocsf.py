"""The control plane's own events as OCSF 1.8 (https://schema.ocsf.io/1.8.0). Pure; texts are made one bounded line."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent import VERSION as PRODUCT_VERSION
from agent.audit.objects import plain, text
from examples.control_plane.events.kinds import ROWS, Kind

VERSION = "1.8.0"
SOURCE = "control-plane"
_SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}
_CLASSES = {
    3001: "Account Change",
    3002: "Authentication",
    3003: "Authorize Session",
    3004: "Entity Management",
    6002: "Application Lifecycle",
}
_CATEGORIES = {3: "Identity & Access Management", 6: "Application Activity"}


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that happened here. Empty texts mean: nobody, or not known."""

    kind: Kind
    at_ms: int
    actor: str = ""
    subject: str = ""
    request: str = ""
    ticket: str = ""
    reason: str = ""
    code: str = ""
    detail: Mapping[str, object] = field(default_factory=dict)
    ok: bool = True


def event(told: Told, sequence: int) -> dict[str, object]:
    """One OCSF event. ``sequence`` is the row's number: with it ``metadata.uid`` is the same each time the event is sent."""
    row = ROWS[told.kind]
    success = row.success and told.ok
    severity = row.severity_of(told.ok)
    name = _CLASSES[row.class_uid]
    value: dict[str, object] = {
        "activity_id": row.activity_id,
        "activity_name": row.activity,
        "category_uid": row.class_uid // 1000,
        "category_name": _CATEGORIES[row.class_uid // 1000],
        "class_uid": row.class_uid,
        "class_name": name,
        "type_uid": row.class_uid * 100 + row.activity_id,
        "type_name": f"{name}: {row.activity if row.activity_id != 99 else 'Other'}",
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "status_id": 1 if success else 2,
        "status": "Success" if success else "Failure",
        "time": told.at_ms,
        "timezone_offset": 0,
        "message": _message(told),
        "metadata": _metadata(told, sequence),
        "unmapped": _unmapped(told),
        **_objects(row.class_uid, told),
    }
    if told.code:
        value["status_code"] = text(told.code)
    if told.reason:
        value["status_detail"] = text(told.reason)
    return value


def _metadata(told: Told, sequence: int) -> dict[str, object]:
    product = {"name": "Tidegate control plane", "vendor_name": "Tidegate", "version": PRODUCT_VERSION}
    value: dict[str, object] = {
        "version": VERSION,
        "product": product,
        "uid": f"{SOURCE}:{sequence}",
        "sequence": sequence,
        "event_code": told.kind.value,
        "log_name": "tidegate-control-plane",
    }
    if told.request:
        value["correlation_uid"] = told.request
    return value


def _objects(class_uid: int, told: Told) -> dict[str, object]:
    """What each class asks for beside the common members."""
    if class_uid == 6002:
        return {"app": {"name": SOURCE, "vendor_name": "Tidegate", "version": PRODUCT_VERSION}}
    actor: dict[str, object] = {"user": _user(told.actor)} if told.actor else {"app_name": SOURCE}
    subject = _user(told.subject or told.actor)
    match class_uid:
        case 3001:
            return {"actor": actor, "user": subject}
        case 3002:
            return {"user": subject, "service": {"name": SOURCE}, "is_remote": True}
        case 3003:
            privileges = told.detail.get("privileges")
            listed = [text(str(item))[:200] for item in privileges[:32]] if isinstance(privileges, list) else []
            return {"actor": actor, "user": subject, "privileges": listed or [told.kind.value]}
    name = str(told.detail.get("entity") or told.request or told.subject or told.kind.value)
    return {"actor": actor, "entity": {"type_id": 99, "type": "Access Request", "name": text(name), "uid": text(name)}}


def _user(name: str) -> dict[str, object]:
    return {"name": text(name) or "unknown", "uid": text(name) or "unknown", "type_id": 1, "type": "User"}


def _message(told: Told) -> str:
    pairs = (
        ("request", told.request),
        ("by", told.actor),
        ("subject", told.subject),
        ("ticket", told.ticket),
        ("code", told.code),
        ("reason", told.reason),
    )
    return text(" ".join([told.kind.value, *(f"{name}={value!r}" for name, value in pairs if value)]))


def _unmapped(told: Told) -> dict[str, object]:
    value: dict[str, object] = {"kind": told.kind.value}
    texts = {"actor": told.actor, "subject": told.subject, "request": told.request, "ticket": told.ticket}
    value.update({key: text(found) for key, found in texts.items() if found})
    if told.detail:
        value["detail"] = plain(told.detail)
    return value
