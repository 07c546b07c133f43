"""Events to journald, or to stderr where there is none. Nothing here raises, and no text can end a line or move a cursor.

``journalctl MESSAGE_ID=...`` finds all events of a kind, ``journalctl GRANT_ID=...`` all of a grant; fields are described in
systemd.journal-fields(7), the priorities in syslog(3).
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.audit.event import AuditEvent, EventKind
from agent.audit.objects import text

try:
    from systemd import journal as _journal  # type: ignore[attr-defined]  # our own folder systemd/ is seen in a checkout
except ImportError:  # python3-systemd is optional
    _journal = None

# systemd-id128(1) ids, made once; a kind keeps its id for ever, because catalogs and alerts hold them.
MESSAGE_IDS: Mapping[EventKind, str] = {
    EventKind.AGENT_STARTED: "f2ef86a4df1d4f44927338bd56bc19ac",
    EventKind.AGENT_STOPPED: "f837fc7951554bec8838080c73ac844f",
    EventKind.GRANT_ACCEPTED: "dbfbb995285b4ad6bb0b064abbe97391",
    EventKind.GRANT_REFUSED: "9a9daac90b334a8e83f8c45c8db69bea",
    EventKind.GRANT_OPENED: "d0d4a25fd467449eb2db852aea5d3b47",
    EventKind.GRANT_FAILED: "7967f513eadf48bb86f465c041ad733d",
    EventKind.GRANT_ENDED: "d1bf09436d804dd5ac260153f0ba150e",
    EventKind.GRANT_SUSPENDED: "f42fbfc0e10d40c8aacd5d15ca54b78f",
    EventKind.GRANT_RESUMED: "218ae9ef90854720bdbb4f4ea36655d8",
    EventKind.GRANT_DRAINING: "4f3a0026e1d842d29c36439fc96a9115",
    EventKind.REVOCATION_TAKEN: "3f0a358f8fa8453c9661fc6f1f7606d5",
    EventKind.ACCOUNT_CREATED: "86fbb9b9a58341c7bf63bdaeeaf7860f",
    EventKind.ACCOUNT_DELETED: "c88849d4dac146bf95def8d8379f4ada",
    EventKind.GROUP_JOINED: "ca5f63ab2663494dbbc4a947a1530ad1",
    EventKind.GROUP_LEFT: "ff74b2e310e142baa937aacc910b5689",
    EventKind.PRIVILEGE_GRANTED: "23e78241e05041998e3b696bfc48251e",
    EventKind.PRIVILEGE_REVOKED: "727d755a8c7d45cbb7bf5ab0b0c74a98",
    EventKind.SESSION_OPENED: "0d7a7fa03b824735ad4b3ebd91701f09",
    EventKind.SESSION_CLOSED: "b0d601b5682f4e6ab62de19ac5ac5d68",
    EventKind.SESSION_SEVERED: "aca8493f06b9404f85edb47ced46eb28",
    EventKind.PROCESS_LAUNCHED: "b1bfc1b9b8c34f5b887fbfad1ba312b1",
    EventKind.PROCESS_UNSEEN: "4d1b6c0f7a9e4c27a3d5518e2f60b7c9",
    EventKind.CONNECTION_FORWARDED: "4ae96741f06d45e795251025e43ae88a",
    EventKind.LOG_UNSEEN: "0549add79e9642cab827c27d437606d4",
    EventKind.PRIVILEGE_USED: "fdd0c3ad3a364e8c98c5eab66dc8dfe9",
    EventKind.POLICY_LOADED: "e876da76705c44fa8fdcc3a499a80b1b",
    EventKind.POLICY_REJECTED: "ac7812c6ba874715a308b3986a3cf1bc",
    EventKind.RESIDUE_FOUND: "7451f9c69d0f4b7588beeb4ba0cbd5ac",
    EventKind.TEARDOWN_LATE: "5ebd80c9c0f648918437744bcf9f4565",
    EventKind.TEARDOWN_RETRY: "98a911830aa1475eb2e0a4198dc46ff3",
    EventKind.PROOF_FAILED: "72af7c305e1b49b1aa574d69e70e2247",
    EventKind.AUDIT_LOST: "5ab066fb64214564b8971dd58dfb1448",
    EventKind.AUDIT_DROPPED: "60e6c8780b48479c8275111582f741db",
    EventKind.OUTBOX_DROPPED: "808e84b59d5a446eb79f4076325506c7",
}

_SOCKET = Path("/run/systemd/journal/socket")
_PRIORITY_OF_SEVERITY = {1: 6, 2: 5, 3: 4, 4: 3, 5: 2}
_LEVEL_OF_PRIORITY = {6: logging.INFO, 5: logging.INFO, 4: logging.WARNING, 3: logging.ERROR, 2: logging.CRITICAL}
_logger = logging.getLogger("tidegate.audit")

Teller = Callable[[AuditEvent, Mapping[str, object]], None]


def fields_of(event: AuditEvent, ocsf: Mapping[str, object]) -> dict[str, str]:
    """The journal fields of an event and its OCSF form; every value is one line."""
    severity, metadata = ocsf["severity_id"], ocsf["metadata"]
    fields = {
        "MESSAGE": str(ocsf["message"]),
        "MESSAGE_ID": MESSAGE_IDS[event.kind],
        "PRIORITY": str(_PRIORITY_OF_SEVERITY[severity] if isinstance(severity, int) else 4),
        "SYSLOG_IDENTIFIER": "tidegated",
        "EVENT_KIND": event.kind.value,
        "EVENT_UID": str(metadata["uid"]) if isinstance(metadata, Mapping) else "",
        "GRANT_ID": text(event.jti),
        "ISSUER": text(event.iss),
        "SUBJECT": text(event.sub),
        "TARGET_USER": text(event.login),
        "TARGET_UID": "" if event.uid is None else str(event.uid),
        "TICKET": text(event.ticket),
        "CODE": text(event.code),
        "REASON": text(event.reason),
    }
    return {name: value for name, value in fields.items() if value}


def teller() -> Teller:
    """journald where it listens and python3-systemd is there, else stderr through logging."""
    return tell_journald if _journal is not None and _SOCKET.exists() else tell_logging


def tell_journald(event: AuditEvent, ocsf: Mapping[str, object]) -> None:
    """One entry; when journald does not take it (gone, queue full), logging has it."""
    if not _SOCKET.exists():  # sd_journal_send(3) calls that a success
        tell_logging(event, ocsf)
        return
    try:
        # Naming the place spares systemd.journal a walk up the stack for each entry.
        _journal.send(**fields_of(event, ocsf), CODE_FILE=__file__, CODE_LINE=0, CODE_FUNC="tell_journald")
    except Exception:  # whatever the C extension raises, a teardown must not stop over a log line
        tell_logging(event, ocsf)


def tell_logging(event: AuditEvent, ocsf: Mapping[str, object]) -> None:
    """One line to the logger ``tidegate.audit``, at the level of its severity."""
    with contextlib.suppress(Exception):  # a closed or full stderr is no reason to stop either
        fields = fields_of(event, ocsf)
        _logger.log(_LEVEL_OF_PRIORITY[int(fields["PRIORITY"])], "%s", fields["MESSAGE"])
