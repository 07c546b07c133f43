"""What happened, told twice: as OCSF lines in the outbox, and to journald (or stderr). Never in the way of a teardown."""

from agent.audit.event import AuditEvent, EventKind, events_of_steps
from agent.audit.objects import HostIdentity
from agent.audit.ocsf import to_ocsf
from agent.audit.trail import Trail

__all__ = ["AuditEvent", "EventKind", "HostIdentity", "Trail", "events_of_steps", "to_ocsf"]
