"""The moment a request is opened: every grant signed, put into the outbox and told, in the one transaction of the caller."""

import json
import sqlite3

from examples.control_plane.api.problems import Problem
from examples.control_plane.config.policy import Policy
from examples.control_plane.events.kinds import Kind
from examples.control_plane.plane import Plane
from examples.control_plane.signing import tokens
from examples.control_plane.signing.keys import Keys
from examples.control_plane.store import audit
from examples.control_plane.workflow import decide, outbox, rows
from examples.control_plane.workflow.model import Ask, Granted, Host, Judged, Party, Request


def open_now(plane: Plane, db: sqlite3.Connection, request: Request, judged: Judged, *, actor: str) -> None:
    """Sign one grant for each host.

    Raises:
        Problem: ``already_open``, ``not_extendable``, ``grant_invalid``; then the caller's transaction is undone.
    """
    begin = _issued_at(db, request.subject, plane.now())
    end = begin + int(str(judged.asked["duration_s"]))
    for number, host in enumerate(judged.hosts, start=1):
        before = _superseded(db, request, host, begin)
        words = _words(request, judged, host, f"{request.id}.{number}", (begin, end), before)
        token, grant = tokens.grant(plane.keys, words)
        _insert(db, request, host, words)
        outbox.put(db, host.token, "grant", token, about=grant.jti, expires_at=end)
    if request.extends:  # from now on it is the new request that is extended and revoked, and that reaches the old grants too
        rows.change(db, request.extends, state="ended", why=f"extended by {request.id}")
    values: dict[str, str | int] = {"state": "open", "opened_at": begin, "ends_at": end}
    if request.break_glass:
        values["review"] = "open"
    rows.change(db, request.id, **values)
    audit.note(
        db,
        Kind.BREAK_GLASS if request.break_glass else Kind.REQUEST_OPENED,
        actor=actor,
        subject=request.subject,
        request=request.id,
        ticket=request.ticket,
        reason=str(judged.asked["reason"]),
        detail={
            "template": judged.template.name,
            "rule": judged.rule.name,
            "hosts": [host.name for host in judged.hosts],
            "until": rows.rfc3339(end),
            "digest": request.digest,
            "privileges": [f"{judged.template.name} on {host.name}" for host in judged.hosts],
        },
    )


def check(plane: Plane, judged: Judged, subject: str) -> None:
    """Sign the grants and throw them away: what no host would take is told to the asker, not to the approver. Raises Problem."""
    now = plane.now()
    for host in judged.hosts:
        words = tokens.GrantWords(
            host_id=host.host_id,
            sub=subject,
            jti="check",
            iat=now,
            exp=now + int(str(judged.asked["duration_s"])),
            details=_listed(judged),
            reason=str(judged.asked["reason"]),
            ticket=str(judged.asked["ticket"]),
            recording=_recording(judged),
        )
        tokens.grant(plane.keys, words)


def check_templates(keys: Keys, policy: Policy) -> None:
    """Each template as a host would read it, before anybody asks for it. Raises ValueError for one that none would take."""
    party = Party("check@example.com", "Check", "jit-check", frozenset())
    for template in policy.templates.values():
        details = decide.details(Ask(template.name, (), 60, "check"), party, template, template.source_address, certificates=True)
        words = tokens.GrantWords("urn:tidegate:check", party.subject, "check", 0, 60, details, "check")
        try:
            tokens.grant(keys, words)
        except Problem as caught:
            raise ValueError(f"template {template.name}: {caught.field}: {caught.detail}") from caught


def live_on(db: sqlite3.Connection, subject: str, host: str, now: int) -> Granted | None:
    """The subject's grant that may stand on the host now and that none has followed, None without one."""
    condition = (
        "g.subject = :subject AND g.host = :host AND g.exp > :now AND g.state IN ('sent', 'accepted', 'revoking')"
        " AND NOT EXISTS (SELECT 1 FROM grant_ n WHERE n.supersedes = g.jti AND n.state IN ('sent', 'accepted', 'revoking'))"
    )
    found = rows.grants_where(db, condition, {"subject": subject, "host": host, "now": now})
    return found[0] if found else None


def _superseded(db: sqlite3.Connection, request: Request, host: Host, now: int) -> str:
    """The jti whose place the new grant takes, "" when it takes none."""
    live = live_on(db, request.subject, host.token, now)
    if not request.extends:
        if live is not None:
            raise Problem("already_open", f"{request.subject} has {live.request} open on {host.name}: extend or end that one")
        return ""
    if live is None or live.request != request.extends or live.state == "revoking":
        raise Problem("not_extendable", f"{request.extends} does not stand on {host.name} any more")
    return live.jti


def _issued_at(db: sqlite3.Connection, subject: str, now: int) -> int:
    """Later than the last revocation of the subject: an equal iat would be revoked too (docs/PROTOCOL.md)."""
    row = db.execute("SELECT iat FROM subject_revocation WHERE subject = ?", (subject,)).fetchone()
    return now if row is None else max(now, row["iat"] + 1)


def _words(request: Request, judged: Judged, host: Host, jti: str, times: tuple[int, int], supersedes: str) -> tokens.GrantWords:
    return tokens.GrantWords(
        host_id=host.host_id,
        sub=request.subject,
        jti=jti,
        iat=times[0],
        exp=times[1],
        details=_listed(judged),
        reason=str(judged.asked["reason"]),
        ticket=str(judged.asked["ticket"]),
        recording=_recording(judged),
        supersedes=supersedes,
    )


def _listed(judged: Judged) -> list[dict[str, object]]:
    found = judged.asked["authorization_details"]
    return [dict(entry) for entry in found] if isinstance(found, list) else []


def _recording(judged: Judged) -> dict[str, bool] | None:
    return {name: True for name, wanted in judged.template.recording.items() if wanted} or None


def _insert(db: sqlite3.Connection, request: Request, host: Host, words: tokens.GrantWords) -> None:
    db.execute(
        "INSERT INTO grant_ (jti, request, host, subject, login, iat, nbf, exp, supersedes, details, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'sent')",
        (
            words.jti,
            request.id,
            host.token,
            request.subject,
            request.login,
            words.iat,
            words.iat,
            words.exp,
            words.supersedes,
            json.dumps(list(words.details)),
        ),
    )
