"""Events and an identity for the tests of the trail."""

from collections.abc import Mapping

from agent.audit import AuditEvent, EventKind, HostIdentity

AT = 1_800_000_000_123_456_789
IDENTITY = HostIdentity("urn:tidegate:abc", "host-1.example", "0.1.0", "Debian GNU/Linux", "12")
DETAIL: Mapping[EventKind, Mapping[str, object]] = {
    EventKind.GROUP_JOINED: {"group": "docker"},
    EventKind.GROUP_LEFT: {"group": "docker"},
    EventKind.PRIVILEGE_GRANTED: {"privileges": ["/usr/bin/systemctl restart nginx"]},
    EventKind.SESSION_OPENED: {"session": "c1", "source_address": "10.1.0.7"},
    EventKind.SESSION_SEVERED: {"killed": 3, "pids": [10, 11, 12]},
    EventKind.PROCESS_LAUNCHED: {"pid": 4711, "command": "/usr/bin/id -u", "path": "/usr/bin/id"},
    EventKind.PROOF_FAILED: {"moment": "closed", "troubles": ["sshd still accepts the key SHA256:x of jit-alice"]},
    EventKind.AUDIT_LOST: {"count": 2, "first_sequence": 4, "last_sequence": 5},
}


def event(kind: EventKind = EventKind.GRANT_OPENED, **changes: object) -> AuditEvent:
    """A full event of that kind."""
    values: dict[str, object] = {
        "jti": "g-1",
        "iss": "https://cp.example",
        "sub": "alice@example.com",
        "login": "jit-alice",
        "uid": 70001,
        "code": "expired",
        "reason": "the time is up",
        "ticket": "INC-42",
        "detail": DETAIL.get(kind, {}),
        **changes,
    }
    return AuditEvent(kind, AT, **values)  # type: ignore[arg-type]  # the tests give each field its own type
