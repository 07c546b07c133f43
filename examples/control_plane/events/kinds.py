"""Every kind of event that the control plane itself tells, and how OCSF 1.8 calls it: one table."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The names are a contract: SIEM rules use them (``metadata.event_code``)."""

    STARTED = "cp.started"
    STOPPED = "cp.stopped"
    REQUEST_ASKED = "cp.request.asked"
    REQUEST_REFUSED = "cp.request.refused"
    REQUEST_APPROVED = "cp.request.approved"  # one approval; detail: have, needed
    REQUEST_OPENED = "cp.request.opened"  # grants are signed
    REQUEST_DENIED = "cp.request.denied"
    REQUEST_WITHDRAWN = "cp.request.withdrawn"
    REQUEST_LAPSED = "cp.request.lapsed"
    REQUEST_ENDED = "cp.request.ended"
    REQUEST_REVOKED = "cp.request.revoked"
    BREAK_GLASS = "cp.break_glass.opened"
    BREAK_GLASS_REVIEWED = "cp.break_glass.reviewed"
    SUBJECT_REVOKED = "cp.subject.revoked"
    CERTIFICATE_ISSUED = "cp.certificate.issued"
    GRANT_ANSWERED = "cp.grant.answered"
    RECEIPT_TAKEN = "cp.receipt.taken"
    RECORD_REFUSED = "cp.record.refused"
    RECORDING_WATCHED = "cp.recording.watched"
    TOKEN_CREATED = "cp.enrolment.token_created"  # noqa: S105  # the name of an event
    HOST_ENROLLED = "cp.host.enrolled"
    HOST_REFUSED = "cp.host.refused"
    HOST_CHANGED = "cp.host.changed"
    HOST_EXPELLED = "cp.host.expelled"
    NATS_UP = "cp.nats.up"
    NATS_DOWN = "cp.nats.down"
    NATS_UNPUSHED = "cp.nats.unpushed"  # the tokens of one host; tried again
    # ---- people ----
    PERSON_PROVISIONED = "cp.person.provisioned"
    PERSON_CHANGED = "cp.person.changed"
    PERSON_OFFBOARDED = "cp.person.offboarded"
    LOGGED_IN = "cp.login"
    LOGIN_REFUSED = "cp.login.refused"
    LOGGED_OUT = "cp.logout"


@dataclass(frozen=True, slots=True)
class Row:
    """One row. ``severity`` when it went well, ``failed`` when not; ``success`` False: this kind is a failure."""

    class_uid: int
    activity_id: int
    activity: str
    severity: int = 1
    failed: int = 3
    success: bool = True

    def severity_of(self, ok: bool) -> int:
        """OCSF's severity_id: 1 informational to 5 critical."""
        return self.severity if ok and self.success else self.failed


# 3004 is about an entity (a request, a host), 3003 gives privileges, 3002 is a logon, 3001 an account. Activity 99 is "Other".
ROWS: dict[Kind, Row] = {
    Kind.STARTED: Row(6002, 3, "Start"),
    Kind.STOPPED: Row(6002, 4, "Stop", severity=2),
    Kind.REQUEST_ASKED: Row(3004, 1, "Create"),
    Kind.REQUEST_REFUSED: Row(3004, 1, "Create", success=False, failed=2),
    Kind.REQUEST_APPROVED: Row(3004, 3, "Update", severity=2),
    Kind.REQUEST_OPENED: Row(3003, 1, "Assign Privileges", severity=2),
    Kind.REQUEST_DENIED: Row(3004, 99, "Deny", severity=2),
    Kind.REQUEST_WITHDRAWN: Row(3004, 4, "Delete"),
    Kind.REQUEST_LAPSED: Row(3004, 99, "Lapse"),
    Kind.REQUEST_ENDED: Row(3004, 11, "Deactivate"),
    Kind.REQUEST_REVOKED: Row(3004, 11, "Deactivate", severity=3),
    Kind.BREAK_GLASS: Row(3003, 1, "Assign Privileges", severity=4),
    Kind.BREAK_GLASS_REVIEWED: Row(3004, 3, "Update", severity=2, failed=4),
    Kind.SUBJECT_REVOKED: Row(3004, 11, "Deactivate", severity=3),
    Kind.CERTIFICATE_ISSUED: Row(3003, 1, "Assign Privileges", severity=2),
    Kind.GRANT_ANSWERED: Row(3004, 10, "Activate"),
    Kind.RECEIPT_TAKEN: Row(3004, 11, "Deactivate"),
    Kind.RECORD_REFUSED: Row(3004, 99, "Record Refused", success=False, failed=4),
    Kind.RECORDING_WATCHED: Row(3004, 2, "Read", severity=2),
    Kind.TOKEN_CREATED: Row(3004, 1, "Create", severity=2),
    Kind.HOST_ENROLLED: Row(3004, 1, "Create", severity=2),
    Kind.HOST_REFUSED: Row(3004, 1, "Create", success=False),
    Kind.HOST_CHANGED: Row(3004, 3, "Update", severity=2),
    Kind.HOST_EXPELLED: Row(3004, 4, "Delete", severity=3),
    Kind.NATS_UP: Row(6002, 3, "Start"),
    Kind.NATS_DOWN: Row(6002, 4, "Stop", success=False),
    Kind.NATS_UNPUSHED: Row(3004, 99, "Not Pushed", success=False),
    Kind.PERSON_PROVISIONED: Row(3001, 1, "Create"),
    Kind.PERSON_CHANGED: Row(3001, 99, "Roles Changed", severity=2),
    Kind.PERSON_OFFBOARDED: Row(3001, 6, "Delete", severity=3),
    Kind.LOGGED_IN: Row(3002, 1, "Logon"),
    Kind.LOGIN_REFUSED: Row(3002, 1, "Logon", success=False),
    Kind.LOGGED_OUT: Row(3002, 2, "Logoff"),
}
