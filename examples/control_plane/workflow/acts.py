"""What people do with requests. Each function is one transaction's body: the new state, its row in the trail, the signed words."""

import json
import sqlite3
from collections.abc import Mapping

from agent.trust import canonical
from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.plane import Plane
from examples.control_plane.store import audit, touch
from examples.control_plane.workflow import decide, opening, rows
from examples.control_plane.workflow.model import Ask, Judged, Party, Request


def party_of(person: object) -> Party:
    """The people module's Person as decisions need it."""
    return Party(
        str(getattr(person, "subject")),  # noqa: B009  # a structural type: people/ is another part
        str(getattr(person, "name")),  # noqa: B009
        str(getattr(person, "login")),  # noqa: B009
        frozenset(getattr(person, "roles")),  # noqa: B009
    )


def known(plane: Plane, db: sqlite3.Connection, subject: str) -> Party | None:
    """Who that is now; None when unknown or offboarded."""
    found = plane.people.find(db, subject)
    return None if found is None else party_of(found)


def ask(plane: Plane, db: sqlite3.Connection, party: Party, wanted: Ask) -> Request:
    """A new request. With break-glass, or where the rule needs nobody, it is open when this returns.

    Raises:
        Problem: all of :func:`decide.judge`; ``too_many_waiting``, ``already_open``, ``not_extendable``, ``grant_invalid``.
    """
    judged = _judged(plane, db, party, wanted)
    opening.check(plane, judged, party.subject)
    now = plane.now()
    if not wanted.extends:
        for host in judged.hosts:
            live = opening.live_on(db, party.subject, host.token, now)
            if live is not None:
                raise Problem("already_open", f"you have {live.request} open on {host.name}: extend or end that one", field="hosts")
    waiting = db.execute(
        "SELECT count(*) FROM request WHERE subject = ? AND state = 'waiting' AND lapses_at > ?", (party.subject, now)
    ).fetchone()[0]
    if waiting >= plane.settings.caps.waiting:
        raise Problem("too_many_waiting", f"{waiting} of your requests wait already: withdraw one")
    needed = 0 if wanted.break_glass else judged.rule.approvals
    request = _insert(plane, db, party, judged, needed)
    audit.note(
        db,
        Kind.REQUEST_ASKED,
        actor=party.subject,
        subject=party.subject,
        request=request.id,
        ticket=wanted.ticket,
        reason=wanted.reason,
        detail={"template": wanted.template, "hosts": list(wanted.hosts), "digest": request.digest, "needed": needed},
    )
    if needed == 0:
        opening.open_now(plane, db, request, judged, actor=party.subject)
    return rows.request(db, request.id)


def approve(plane: Plane, db: sqlite3.Connection, party: Party, ident: str, digest: str, comment: str) -> Request:
    """One approval; the last one that is needed opens the request. The policy is asked anew, and so is who they all are.

    Raises:
        Problem: those of :func:`decide.approvable`; ``person_gone``, ``policy_changed``, and those of opening.
    """
    request = rows.request(db, ident)
    now = plane.now()
    judged = _again(plane, db, request)
    decide.approvable(request, party, judged.rule.approver_roles, digest, now)
    db.execute(
        "INSERT INTO approval (request, by, verdict, digest, comment, at) VALUES (?, ?, 'approved', ?, ?, ?)",
        (ident, party.subject, digest, comment, now),
    )
    rows.change(db, ident, needed=judged.rule.approvals)
    request = rows.request(db, ident)
    approvers = {by: found for by in decide.approved_by(request.approvals) if (found := known(plane, db, by)) is not None}
    have = decide.counted(request, digest, approvers, judged.rule.approver_roles)
    audit.note(
        db,
        Kind.REQUEST_APPROVED,
        actor=party.subject,
        subject=request.subject,
        request=ident,
        ticket=request.ticket,
        reason=comment,
        detail={"have": have, "needed": judged.rule.approvals, "digest": digest},
    )
    if have >= judged.rule.approvals:
        opening.open_now(plane, db, request, judged, actor=party.subject)
    return rows.request(db, ident)


def deny(plane: Plane, db: sqlite3.Connection, party: Party, ident: str, reason: str) -> Request:
    """One approver says no. Raises Problem, as :func:`decide.decidable`."""
    request = rows.request(db, ident)
    decide.decidable(request, party, request.approver_roles, plane.now())
    db.execute(
        "INSERT INTO approval (request, by, verdict, digest, comment, at) VALUES (?, ?, 'denied', ?, ?, ?)"
        " ON CONFLICT (request, by) DO UPDATE SET verdict = 'denied', comment = excluded.comment, at = excluded.at",
        (ident, party.subject, request.digest, reason, plane.now()),
    )
    return _over(db, request, "denied", Kind.REQUEST_DENIED, party.subject, reason)


def withdraw(plane: Plane, db: sqlite3.Connection, party: Party, ident: str) -> Request:
    """The asker takes it back. Raises Problem ``not_yours``, ``not_waiting``."""
    request = rows.request(db, ident)
    if not decide.own(request, party):
        raise Problem("not_yours", "it is for who asked to withdraw it")
    if request.state != "waiting" or request.lapses_at <= plane.now():
        raise Problem("not_waiting", "it does not wait any more")
    return _over(db, request, "withdrawn", Kind.REQUEST_WITHDRAWN, party.subject, "")


def extend(
    plane: Plane, db: sqlite3.Connection, party: Party, ident: str, *, duration_s: int, reason: str, ticket: str, break_glass: bool
) -> Request:
    """Ask for the same once more, to begin in the place of what stands. Judged and approved as any request.

    Raises:
        Problem: ``not_yours``, ``not_extendable``, and all of :func:`ask`.
    """
    old = rows.request(db, ident)
    if not decide.own(old, party):
        raise Problem("not_yours", "it is for who asked to extend it")
    live = [one for one in rows.grants_of(db, ident) if one.state in ("sent", "accepted") and one.exp > plane.now()]
    if old.state != "open" or not live:
        raise Problem("not_extendable", "none of its grants stands any more: ask anew")
    before = decide.restored(old.asked)
    wanted = Ask(
        template=before.template,
        hosts=tuple(one.host_name for one in live),
        duration_s=duration_s,
        reason=reason,
        ticket=ticket or before.ticket,
        keys=before.keys,
        source_address=before.source_address,
        break_glass=break_glass,
        extends=ident,
    )
    return ask(plane, db, party, wanted)


def review(db: sqlite3.Connection, party: Party, ident: str, verdict: str, comment: str) -> Request:
    """What came of a break-glass. Raises Problem ``not_to_review``, ``own_request``."""
    request = rows.request(db, ident)
    decide.reviewable(request, party)
    rows.change(db, ident, review=verdict, reviewed_by=party.subject)
    audit.note(
        db,
        Kind.BREAK_GLASS_REVIEWED,
        actor=party.subject,
        subject=request.subject,
        request=ident,
        reason=comment,
        code=verdict,
        ok=verdict == "justified",
    )
    return rows.request(db, ident)


def lapse(plane: Plane, db: sqlite3.Connection) -> None:
    """What nobody approved in time, and what has come to its end."""
    now = plane.now()
    for row in db.execute("SELECT * FROM request WHERE state = 'waiting' AND lapses_at <= ? LIMIT 500", (now,)).fetchall():
        _over(db, rows.from_row(db, row), "lapsed", Kind.REQUEST_LAPSED, "", "nobody approved it in time")
    for row in db.execute("SELECT * FROM request WHERE state = 'open' AND ends_at <= ? LIMIT 500", (now,)).fetchall():
        _over(db, rows.from_row(db, row), "ended", Kind.REQUEST_ENDED, "", "its time is over")


def _judged(plane: Plane, db: sqlite3.Connection, party: Party, wanted: Ask) -> Judged:
    settings = plane.settings
    return decide.judge(wanted, party, settings.policy, rows.hosts(db), certificates=settings.ssh_certificates)


def _again(plane: Plane, db: sqlite3.Connection, request: Request) -> Judged:
    """The request under the policy, the hosts and the roles of now: what is approved is what was asked, or nothing."""
    party = known(plane, db, request.subject)
    if party is None:
        raise Problem("person_gone", f"{request.subject} is not known here any more")
    try:
        judged = _judged(plane, db, party, decide.restored(request.asked))
    except Problem as caught:
        raise Problem("policy_changed", f"it is not allowed any more: {caught.detail} [{caught.code}]") from caught
    if judged.digest != request.digest:
        raise Problem("policy_changed", "what the template gives is not what it was: ask anew")
    return judged


def _insert(plane: Plane, db: sqlite3.Connection, party: Party, judged: Judged, needed: int) -> Request:
    asked: Mapping[str, object] = judged.asked
    ident, now = rows.new_id("r"), plane.now()
    number = db.execute("SELECT coalesce(max(number), 0) + 1 FROM request").fetchone()[0]
    db.execute(
        "INSERT INTO request (id, number, subject, name, login, asked, digest, template, title, ticket, extends, break_glass,"
        " needed, approver_roles, state, asked_at, lapses_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?)",
        (
            ident,
            number,
            party.subject,
            party.name,
            party.login,
            canonical(asked).decode("utf-8"),
            judged.digest,
            judged.template.name,
            judged.template.title,
            str(asked["ticket"]),
            str(asked["extends"]) or None,
            int(asked["break_glass"] is True),
            needed,
            json.dumps(sorted(judged.rule.approver_roles)),
            now,
            now + plane.settings.lapse_after_s,
        ),
    )
    touch(db, "requests")
    return rows.request(db, ident)


def _over(db: sqlite3.Connection, request: Request, state: str, kind: Kind, by: str, why: str) -> Request:
    rows.change(db, request.id, state=state, why=why)
    audit.note(db, kind, actor=by, subject=request.subject, request=request.id, ticket=request.ticket, reason=why)
    return rows.request(db, request.id)
