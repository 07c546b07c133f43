"""Revocations: signed for every host concerned, in the one transaction that says so; and bulletins, which say it again."""

import sqlite3
from collections.abc import Sequence

from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.plane import Plane
from examples.control_plane.signing import tokens
from examples.control_plane.store import audit
from examples.control_plane.workflow import decide, outbox, rows
from examples.control_plane.workflow.model import Granted, Party, Request

KEPT_S = 86400  # a revocation is sent for that much longer than what it ends could last


def revoke_request(plane: Plane, db: sqlite3.Connection, party: Party, ident: str, reason: str) -> Request:
    """End all grants of an open request, and those whose place they took. Raises Problem ``not_yours``, ``not_open``."""
    request = rows.request(db, ident)
    decide.revocable(request, party)
    if request.state != "open":
        raise Problem("not_open", f"the request is {request.state}")
    end_request(plane, db, request, by=party.subject, reason=reason)
    return rows.request(db, ident)


def end_request(plane: Plane, db: sqlite3.Connection, request: Request, *, by: str, reason: str) -> None:
    """The same without asking whether somebody may."""
    now = plane.now()
    hosts = set()
    for grant in _chain(db, rows.grants_of(db, request.id)):
        if grant.live(now):
            revoke(plane, db, grant, reason)
            hosts.add(grant.host)
    rows.change(db, request.id, state="revoked", why=reason)
    audit.note(
        db,
        Kind.REQUEST_REVOKED,
        actor=by,
        subject=request.subject,
        request=request.id,
        ticket=request.ticket,
        reason=reason,
        detail={"hosts": len(hosts)},
    )
    for host in sorted(hosts):
        put_bulletin(plane, db, host)


def revoke_grant(plane: Plane, db: sqlite3.Connection, party: Party, jti: str, reason: str) -> Granted:
    """End one grant. Raises Problem ``not_yours``, ``not_open``."""
    grant = rows.grant(db, jti)
    request = rows.request(db, grant.request)
    decide.revocable(request, party)
    if not grant.live(plane.now()):
        raise Problem("not_open", f"the grant is {grant.state}")
    for one in _chain(db, [grant]):
        if one.live(plane.now()):
            revoke(plane, db, one, reason)
    rows.change(db, request.id)
    left = [one for one in rows.grants_of(db, request.id) if one.live(plane.now()) and one.state != "revoking"]
    if not left:
        rows.change(db, request.id, state="revoked", why=reason)
    audit.note(
        db, Kind.REQUEST_REVOKED, actor=party.subject, subject=grant.subject, request=request.id, reason=reason, detail={"jti": jti}
    )
    put_bulletin(plane, db, grant.host)
    return rows.grant(db, jti)


def revoke(plane: Plane, db: sqlite3.Connection, grant: Granted, reason: str) -> None:
    """Sign it, and stop sending the grant itself."""
    now = plane.now()
    sub_id = {"format": "jwt_id", "iss": plane.keys.issuer, "jti": grant.jti}
    token = tokens.revocation(plane.keys, grant.host_id, sub_id, jti=rows.new_id("set"), iat=now, reason=reason)
    outbox.take_back(db, grant.jti)
    outbox.put(db, grant.host, "revocation", token, about=grant.jti, expires_at=max(now, grant.exp) + KEPT_S)
    db.execute("UPDATE grant_ SET state = 'revoking' WHERE jti = ?", (grant.jti,))


def put_bulletin(plane: Plane, db: sqlite3.Connection, host: str) -> None:
    """A fresh word for one host, if it wants such, with the newest of what is revoked and not over by time."""
    row = db.execute("SELECT * FROM host WHERE token = ? AND state = 'enrolled' AND bulletins = 1", (host,)).fetchone()
    if row is None:
        return
    now = plane.now()
    found = db.execute(
        "SELECT jti FROM grant_ WHERE host = ? AND exp > ? AND (state = 'revoking' OR cause = 'revoked')"
        " ORDER BY iat DESC LIMIT 500",
        (host, now),
    )
    seq = max(row["bulletin_seq"] + 1, int(plane.clock() * 1000))
    life = plane.settings.bulletin_life_s
    revoked = [one["jti"] for one in found]
    token = tokens.bulletin(plane.keys, row["host_id"], iat=now, life_s=life, seq=seq, revoked=revoked)
    outbox.put(db, host, "bulletin", token, about="", expires_at=now + life)
    due = now + plane.settings.bulletin_every_s
    db.execute("UPDATE host SET bulletin_seq = ?, bulletin_due = ? WHERE token = ?", (seq, due, host))


def bulletins_due(plane: Plane, db: sqlite3.Connection) -> None:
    """Fresh words for those hosts whose last one is old and who were seen within a day: one that is gone needs none."""
    now = plane.now()
    due = db.execute(
        "SELECT token FROM host WHERE state = 'enrolled' AND bulletins = 1 AND bulletin_due <= ? AND seen_at > ?",
        (now, now - 86400),
    ).fetchall()
    for row in due:
        put_bulletin(plane, db, row["token"])


def _chain(db: sqlite3.Connection, grants: Sequence[Granted]) -> list[Granted]:
    """These, and those whose place they took: if a host refused the newer one, the older one stands."""
    found = {grant.jti: grant for grant in grants}
    queue = [grant.supersedes for grant in grants]
    while queue:
        jti = queue.pop()
        if jti and jti not in found:
            found[jti] = rows.grant(db, jti)
            queue.append(found[jti].supersedes)
    return list(found.values())
