"""What happens to everything that somebody holds when they leave, or lose what allowed it."""

import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.plane import Plane
from examples.control_plane.signing import tokens
from examples.control_plane.store import audit
from examples.control_plane.workflow import decide, ending, outbox, rows
from examples.control_plane.workflow.model import Host, Party, Request


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of it: hosts that are told, requests that were open and that waited, approvals that count no more."""

    hosts: int
    revoked: tuple[str, ...]
    withdrawn: tuple[str, ...]
    voided: int

    def view(self) -> Mapping[str, object]:
        """As the API shows it."""
        return {"hosts": self.hosts, "revoked": list(self.revoked), "withdrawn": list(self.withdrawn), "voided": self.voided}


def end_all(plane: Plane, db: sqlite3.Connection, subject: str, *, by: str, reason: str) -> Ended:
    """Revoke the subject on every host where something of theirs may stand, withdraw what waits, void their approvals.

    Part of the caller's transaction; again does no harm. What is signed for them later has a later ``iat``, and works.
    """
    now = plane.now()
    grants = rows.grants_where(db, "g.subject = :subject AND g.exp > :now AND g.state <> 'ended'", {"subject": subject, "now": now})
    db.execute(
        "INSERT INTO subject_revocation (subject, iat) VALUES (?, ?)"
        " ON CONFLICT (subject) DO UPDATE SET iat = max(iat, excluded.iat)",
        (subject, now),
    )
    hosts = {grant.host: grant.host_id for grant in grants}
    for host, host_id in sorted(hosts.items()):
        sub_id = {"format": "iss_sub", "iss": plane.keys.issuer, "sub": subject}
        # A grant may carry an iat one second ahead, after an earlier revocation: this reaches it too.
        iat = max([now, *(grant.iat for grant in grants if grant.host == host)])
        token = tokens.revocation(plane.keys, host_id, sub_id, jti=rows.new_id("set"), iat=iat, reason=reason)
        end = max(grant.exp for grant in grants if grant.host == host)
        outbox.put(db, host, "revocation", token, about=subject, expires_at=end + ending.KEPT_S)
        db.execute("UPDATE subject_revocation SET iat = max(iat, ?) WHERE subject = ?", (iat, subject))
    for grant in grants:
        outbox.take_back(db, grant.jti)
    db.execute(
        "UPDATE grant_ SET state = 'revoking' WHERE subject = ? AND exp > ? AND state IN ('sent', 'accepted')", (subject, now)
    )
    revoked = _move(db, subject, "open", "revoked", reason)
    withdrawn = _move(db, subject, "waiting", "withdrawn", reason)
    voided = db.execute(
        "UPDATE approval SET verdict = 'void' WHERE by = ? AND verdict = 'approved'"
        " AND request IN (SELECT id FROM request WHERE state = 'waiting')",
        (subject,),
    ).rowcount
    detail = {"hosts": len(hosts), "revoked": list(revoked), "withdrawn": list(withdrawn), "voided": voided, "entity": subject}
    audit.note(db, Kind.SUBJECT_REVOKED, actor=by, subject=subject, reason=reason, detail=detail)
    for host in sorted(hosts):
        ending.put_bulletin(plane, db, host)
    return Ended(len(hosts), revoked, withdrawn, voided)


def end_unallowed(plane: Plane, db: sqlite3.Connection, subject: str, roles: Collection[str], *, by: str, reason: str) -> Ended:
    """Somebody has only these roles from now on: end what no rule would let them ask for any more."""
    revoked: list[str] = []
    withdrawn: list[str] = []
    hosts: set[str] = set()
    known = rows.hosts(db)
    found = db.execute("SELECT * FROM request WHERE subject = ? AND state IN ('open', 'waiting')", (subject,)).fetchall()
    for row in found:
        request = rows.from_row(db, row)
        if _allowed(plane, known, request, Party(subject, request.name, request.login, frozenset(roles))):
            continue
        if request.state == "open":
            hosts |= {grant.host for grant in rows.grants_of(db, request.id) if grant.live(plane.now())}
            ending.end_request(plane, db, request, by=by, reason=reason)
            revoked.append(request.id)
        else:
            rows.change(db, request.id, state="withdrawn", why=reason)
            audit.note(db, Kind.REQUEST_WITHDRAWN, actor=by, subject=subject, request=request.id, reason=reason)
            withdrawn.append(request.id)
    return Ended(len(hosts), tuple(revoked), tuple(withdrawn), 0)


def _allowed(plane: Plane, known: Mapping[str, Host], request: Request, party: Party) -> bool:
    """Whether a rule would let them ask for it as they are now, and what is open had as many approvals as that rule wants."""
    settings = plane.settings
    try:
        wanted = decide.restored(request.asked)
        judged = decide.judge(wanted, party, settings.policy, known, certificates=settings.ssh_certificates)
    except Problem:
        return False
    return request.state != "open" or request.break_glass or judged.rule.approvals <= request.needed


def _move(db: sqlite3.Connection, subject: str, before: str, after: str, reason: str) -> tuple[str, ...]:
    found = db.execute("SELECT id FROM request WHERE subject = ? AND state = ? ORDER BY number", (subject, before))
    idents = tuple(row["id"] for row in found.fetchall())
    for ident in idents:
        rows.change(db, ident, state=after, why=reason)
    return idents
