"""SSH certificates for requests that are open: one's own key, one's own subject as principal, never longer than the grants."""

import sqlite3

from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.plane import Plane
from examples.control_plane.signing import ssh
from examples.control_plane.store import audit
from examples.control_plane.workflow import acts, decide, rows
from examples.control_plane.workflow.model import Granted, Party, Request


def issue(plane: Plane, db: sqlite3.Connection, party: Party, ident: str, public_key: str) -> dict[str, object]:
    """A certificate and where it is good.

    Raises:
        Problem: ``not_yours``, ``person_gone``, ``not_open``, ``by_key``, ``certificates_off``, ``public_key_invalid``.
    """
    request = rows.request(db, ident)
    if not decide.own(request, party):
        raise Problem("not_yours", "it is for who asked to log in")
    if acts.known(plane, db, request.subject) is None:
        raise Problem("person_gone", f"{request.subject} is not known here any more")
    now = plane.now()
    grants = [one for one in rows.grants_of(db, ident) if one.exp > now and one.state in ("sent", "accepted")]
    if request.state != "open" or not grants:
        raise Problem("not_open", f"the request is {request.state}")
    if not plane.settings.ssh_certificates:
        raise Problem("certificates_off", "no certificates are made here")
    if request.asked["keys"]:
        raise Problem("by_key", "this request named its keys: log in by one of these")
    key = ssh.public_key(public_key)
    end = min(one.exp for one in grants)
    principals = (ssh.principal_of(request.subject),)
    cursor = db.execute(
        "INSERT INTO ssh_certificate (request, subject, fingerprint, valid_before, at) VALUES (?, ?, ?, ?, ?)",
        (ident, request.subject, ssh.fingerprint(public_key), end, now),
    )
    serial = cursor.lastrowid or 0
    actions, source = _ssh_entry(request)
    wanted = ssh.Wanted(principals, f"{ident}:{request.subject}", serial, now, end, actions, source)
    line = ssh.certify(plane.keys.ssh_ca, key, wanted)
    detail = {
        "serial": serial,
        "key": ssh.fingerprint(public_key),
        "until": rows.rfc3339(end),
        "privileges": [f"ssh until {rows.rfc3339(end)}"],
    }
    audit.note(db, Kind.CERTIFICATE_ISSUED, actor=party.subject, subject=request.subject, request=ident, detail=detail)
    return {
        "certificate": line,
        "serial": serial,
        "principals": list(principals),
        "valid_before": rows.rfc3339(end),
        "logins": [_login(one) for one in grants],
    }


def _login(grant: Granted) -> dict[str, object]:
    return {"host_name": grant.host_name, "address": grant.address, "login": grant.login, "state": grant.state}


def _ssh_entry(request: Request) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Actions and source addresses of the request's ssh entry."""
    entries = request.asked["authorization_details"]
    for entry in entries if isinstance(entries, list) else []:
        if entry["type"] == "ssh":
            return tuple(entry["actions"]), tuple(entry.get("source_address", ()))
    raise Problem("not_open", "the request gives no ssh")
