"""What hosts say: answers and receipts, believed only under the enrolled key; events, kept as they are. Each is taken once."""

import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from agent import trust
from agent.errors import ConfigError, RefusedError
from agent.model.text import one_line
from agent.trust.token import TYP_RECEIPT
from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.hosts.identity import Caller
from examples.control_plane.plane import Plane
from examples.control_plane.store import audit
from examples.control_plane.workflow import rows
from examples.control_plane.workflow.model import Granted

BATCH_MAX = 1 << 20
LINES_MAX = 1000
LINE_MAX = 256 * 1024
KEY_MAX = 200
RECEIPT_MAX = 512 * 1024  # of claims: a receipt lists recordings and residue
TYP_ANSWER = "grant-answer+jwt"
KINDS = ("answer", "receipt", "event")
DEPTH_MAX = 64  # of an event's objects and lists: others must be able to read it too


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a batch."""

    key: str
    kind: str
    body: object
    size: int


class _Refused(Exception):  # noqa: N818  # what is never taken, with its code
    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def parse(data: bytes) -> tuple[list[Record], list[dict[str, str]]]:
    """NDJSON → records, and what of it will never be taken.

    Raises:
        Problem: ``body_invalid``: a line without a key can't be told apart, so the whole batch is refused.
    """
    if len(data) > BATCH_MAX:
        raise Problem("body_too_large", f"a batch has at most {BATCH_MAX} bytes")
    lines = [line for line in data.split(b"\n") if line.strip()]
    if len(lines) > LINES_MAX:
        raise Problem("body_too_large", f"a batch has at most {LINES_MAX} records")
    found: list[Record] = []
    refused: list[dict[str, str]] = []
    for number, line in enumerate(lines):
        try:
            value = json.loads(line, parse_constant=_no_constant)
            plain = _plain(value)
        except (ValueError, RecursionError) as caught:
            raise Problem("body_invalid", f"line {number + 1} is no JSON") from caught
        key = value.get("key") if isinstance(value, dict) else None
        if not isinstance(key, str) or not 1 <= len(key) <= KEY_MAX or not key.isprintable():
            raise Problem("body_invalid", f"line {number + 1} has no key")
        record = Record(key, str(value.get("kind")), value.get("body"), len(line))
        if len(line) > LINE_MAX or value.keys() != {"key", "kind", "body"} or record.kind not in KINDS or not plain:
            refused.append({"key": key, "code": "record_invalid"})
        else:
            found.append(record)
    return found, refused


def _plain(value: object) -> bool:
    """Whether it can be written as JSON again and read by anybody: no number beyond a double (1e999), not nested too deep."""
    level: list[object] = [value]
    for _ in range(DEPTH_MAX):
        below: list[object] = []
        for one in level:
            if isinstance(one, float) and not math.isfinite(one):
                return False
            if isinstance(one, Mapping | list):
                below += one.values() if isinstance(one, Mapping) else one
        if not below:
            return True
        level = below
    return False


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def take(plane: Plane, db: sqlite3.Connection, caller: Caller, records: list[Record]) -> dict[str, list[object]]:
    """Keep each that is new; one transaction, so that what is acked is durable and whole.

    Raises:
        Problem: ``quota_exceeded``: nothing of the batch is taken; the host keeps it and tries again later.
    """
    ring = _ring(caller)
    acked: list[object] = []
    refused: list[object] = []
    kept = 0
    for record in records:
        if db.execute("SELECT 1 FROM record WHERE host = ? AND key = ?", (caller.token, record.key)).fetchone():
            acked.append(record.key)
            continue
        try:
            body = _taken(plane, db, caller, ring, record)
        except _Refused as no:
            refused.append({"key": record.key, "code": no.code})
            detail = {"entity": caller.name, "key": one_line(record.key), "kind": record.kind}
            audit.note(db, Kind.RECORD_REFUSED, code=no.code, reason=one_line(str(no)), detail=detail)
            continue
        db.execute(
            "INSERT INTO record (host, key, kind, body, at) VALUES (?, ?, ?, ?, ?)",
            (caller.token, record.key, record.kind, body, plane.now()),
        )
        if record.kind != "event":  # of events the key alone is kept, for a while, and bounded by housekeeping
            kept += len(body) + len(record.key)
        acked.append(record.key)
    used = db.execute(
        "UPDATE host SET record_bytes = record_bytes + ? WHERE token = ? RETURNING record_bytes", (kept, caller.token)
    )
    if used.fetchone()[0] > plane.settings.caps.record_bytes and kept:
        raise Problem("quota_exceeded", "this host's answers and receipts fill its quota here: an admin must look")
    return {"acked": acked, "refused": refused}


def _taken(plane: Plane, db: sqlite3.Connection, caller: Caller, ring: trust.KeyRing, record: Record) -> str:
    """What is kept of it."""
    if record.kind == "event":
        if not isinstance(record.body, Mapping):
            raise _Refused("record_invalid", "an event is an object")
        audit.take(db, caller.token, {str(name): value for name, value in record.body.items()})
        return ""
    if record.kind == "answer":
        return _answer(plane, db, caller, ring, record.body)
    return _receipt(plane, db, caller, ring, record.body)


def _answer(plane: Plane, db: sqlite3.Connection, caller: Caller, ring: trust.KeyRing, body: object) -> str:
    jws = body.get("jws") if isinstance(body, Mapping) else None
    claims = _verified(ring, jws, TYP_ANSWER)
    jti, verdict, code = (str(claims.get(name, "")) for name in ("jti", "verdict", "code"))
    grant = _grant(db, caller, jti)
    if grant is None or grant.state not in ("sent", "revoking") or verdict not in ("accepted", "refused"):
        return str(jws)
    if code == "jti_replayed":  # one that was taken comes a second time: that says nothing about the first
        return str(jws)
    reason = one_line(str(claims.get("reason", "")))
    state = "accepted" if verdict == "accepted" else "refused"
    if grant.state == "revoking" and state == "accepted":
        return str(jws)  # it is being ended: what ends it, the receipt tells
    db.execute("UPDATE grant_ SET state = ?, code = ?, reason = ? WHERE jti = ?", (state, one_line(code), reason, jti))
    audit.note(
        db,
        Kind.GRANT_ANSWERED,
        subject=grant.subject,
        request=grant.request,
        code=one_line(code),
        reason=reason,
        detail={"entity": jti, "host": caller.name, "verdict": verdict},
        ok=verdict == "accepted",
    )
    _settle(plane, db, grant.request)
    return str(jws)


def _receipt(plane: Plane, db: sqlite3.Connection, caller: Caller, ring: trust.KeyRing, body: object) -> str:
    claims = _verified(ring, body, TYP_RECEIPT)
    about = claims.get("grant")
    jti = str(about.get("jti", "")) if isinstance(about, Mapping) else ""
    grant = _grant(db, caller, jti)
    if grant is None:
        return str(body)
    cause = one_line(str(claims.get("cause", "")))
    residue = claims.get("residue_count")
    values = (cause, plane.now(), str(body), jti)
    db.execute("UPDATE grant_ SET state = 'ended', cause = ?, ended_at = ?, receipt = ? WHERE jti = ?", values)
    detail = {"entity": jti, "host": caller.name, "residue": residue if isinstance(residue, int) else None}
    audit.note(db, Kind.RECEIPT_TAKEN, subject=grant.subject, request=grant.request, code=cause, detail=detail)
    _settle(plane, db, grant.request)
    return str(body)


def _settle(plane: Plane, db: sqlite3.Connection, ident: str) -> None:
    """A request whose last grant is over is over; an extension that every host refused lets the old request stand again."""
    request = rows.request(db, ident)
    grants = rows.grants_of(db, ident)
    over = all(grant.state in ("refused", "ended") for grant in grants)
    if request.state != "open" or not over:
        rows.change(db, ident)
        return
    refused = [grant for grant in grants if grant.state == "refused"]
    why = f"{refused[0].host_name} refused it: {refused[0].code}" if refused else f"ended: {grants[0].cause}"
    rows.change(db, ident, state="ended", why=why)
    audit.note(db, Kind.REQUEST_ENDED, subject=request.subject, request=ident, reason=why)
    if request.extends and len(refused) == len(grants):
        old = rows.request(db, request.extends)
        if old.state == "ended" and (old.ends_at or 0) > plane.now():
            rows.change(db, old.id, state="open", why=f"its extension was refused: {refused[0].code}")


def _grant(db: sqlite3.Connection, caller: Caller, jti: str) -> Granted | None:
    """The grant of that jti, if it was for this very host."""
    found = rows.grants_where(db, "g.jti = :jti AND g.host = :host", {"jti": jti, "host": caller.token})
    return found[0] if found else None


def _ring(caller: Caller) -> trust.KeyRing:
    return trust.keyring({"keys": [json.loads(caller.key)]})


def _verified(ring: trust.KeyRing, jws: object, typ: str) -> Mapping[str, object]:
    """The claims, under the host's own key and in its own name."""
    if not isinstance(jws, str) or len(jws) > LINE_MAX:
        raise _Refused("record_invalid", "is no signed token")
    try:
        verified = trust.verify(jws.strip().encode("ascii", "replace"), ring, typ=typ, payload_max=RECEIPT_MAX)
        claims = trust.parse_object(verified.payload)
        if typ == TYP_RECEIPT:  # an answer names no issuer: the key alone says whose it is
            trust.check_issuer(str(claims.get("iss")), verified.signers)
    except (RefusedError, ConfigError) as refused:
        raise _Refused("signature_refused", f"{refused.reason} [{refused.code}]") from refused
    return claims
