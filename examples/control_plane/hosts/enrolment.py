"""A host comes in: a token that is good once, a proof by its own key, a certificate of days. And renewals."""

import hashlib
import hmac
import json
import re
import secrets
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from agent import trust
from agent.courier.places import host_token
from agent.errors import ConfigError, RefusedError
from agent.model import fields
from agent.model.fields import FieldReader
from agent.trust import base64url, jwk
from examples.control_plane.api.problems import Problem
from examples.control_plane.events.kinds import Kind
from examples.control_plane.hosts.identity import Caller
from examples.control_plane.plane import Plane
from examples.control_plane.signing import ca, ssh
from examples.control_plane.store import audit, touch
from examples.control_plane.workflow import rows

TYP_ENROLMENT = "enrolment+jwt"
_TOKEN = re.compile(r"(t-[a-z2-7]{16})\.([A-Za-z0-9_-]{43})")
_PROOF_AGE_S = 300
_URN = "urn:tidegate:"
_CERTIFICATES_KEPT = 2  # of one host: the one it has, and the one it is about to have


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a host says of itself."""

    token: str
    host_id: str
    host_key: Mapping[str, object]
    csr: str
    hostname: str
    version: str
    proof: str


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an admin says of a host to come."""

    name: str
    address: str
    labels: Mapping[str, str]
    bulletins: bool
    lives_s: int
    replaces: bool


def invite(plane: Plane, db: sqlite3.Connection, by: str, wanted: Invitation) -> tuple[str, str, int]:
    """A new token: (its id, the whole secret, its end). Only a hash of the secret is kept.

    Raises:
        Problem: ``name_taken``.
    """
    if db.execute("SELECT 1 FROM host WHERE name = ?", (wanted.name,)).fetchone() and not wanted.replaces:
        raise Problem("name_taken", f"a host is called {wanted.name!r} already", field="name")
    ident, secret = rows.new_id("t"), base64url.encode(secrets.token_bytes(32))
    end = plane.now() + wanted.lives_s
    values = (ident, _hash(secret), wanted.name, wanted.address, json.dumps(dict(wanted.labels)), int(wanted.bulletins))
    db.execute(
        "INSERT INTO enrolment_token (id, secret_hash, name, address, labels, bulletins, replaces, created_by, created_at,"
        " expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, int(wanted.replaces), by, plane.now(), end),
    )
    detail = {"entity": wanted.name, "token": ident, "labels": dict(wanted.labels), "replaces": wanted.replaces}
    audit.note(db, Kind.TOKEN_CREATED, actor=by, detail=detail)
    return ident, f"{ident}.{secret}", end


def enrol(plane: Plane, db: sqlite3.Connection, said: Enrolment) -> dict[str, object]:
    """Take the host in; the token is used by the same transaction.

    Raises:
        Problem: ``token_unknown``, ``token_used``, ``token_expired``, ``csr_invalid``, ``proof_invalid``, ``host_known``.
    """
    now = plane.now()
    invitation = _invitation(db, said.token, now)
    _check_proof(plane, said, now)
    host = host_token(said.host_id)
    issued = ca.client_certificate(plane.keys.ca, said.csr, host, plane.settings.certificate_life_s)
    _take_in(db, said, invitation, host, now)
    db.execute("UPDATE enrolment_token SET used_at = ?, used_by = ? WHERE id = ?", (now, host, invitation["id"]))
    db.execute("DELETE FROM certificate WHERE host = ?", (host,))
    _remember(db, host, issued)
    touch(db, f"host:{host}")
    detail = {"entity": invitation["name"], "host_id": said.host_id, "hostname": said.hostname, "token": invitation["id"]}
    audit.note(db, Kind.HOST_ENROLLED, actor=invitation["created_by"], detail=detail)
    answer: dict[str, object] = {**_certificate(plane, issued), "signing_keys": plane.keys.public_set()}
    if plane.settings.ssh_certificates:
        answer["ssh_user_ca"] = ssh.public_line(plane.keys.ssh_ca)
    nats = plane.settings.nats
    if nats is not None and nats.for_hosts:
        answer["nats"] = {"servers": list(nats.for_hosts), "bucket": nats.bucket}
    return answer | {"url": plane.settings.hosts_listener.url}


def renew(plane: Plane, db: sqlite3.Connection, caller: Caller, csr: str) -> dict[str, object]:
    """A new certificate for a host that has a good one; that one stays good until its end, or the next renewal.

    Raises:
        Problem: ``csr_invalid``.
    """
    issued = ca.client_certificate(plane.keys.ca, csr, caller.token, plane.settings.certificate_life_s)
    _remember(db, caller.token, issued)
    db.execute(
        "DELETE FROM certificate WHERE host = :host AND serial <> :now AND serial NOT IN"
        " (SELECT serial FROM certificate WHERE host = :host ORDER BY rowid DESC LIMIT :kept)",
        {"host": caller.token, "now": caller.serial, "kept": _CERTIFICATES_KEPT},
    )
    return _certificate(plane, issued)


def expel(db: sqlite3.Connection, host: str) -> None:
    """Nothing of this host's is taken from now on, and nothing is sent to it."""
    db.execute("UPDATE host SET state = 'expelled' WHERE token = ?", (host,))
    db.execute("DELETE FROM certificate WHERE host = ?", (host,))
    db.execute("DELETE FROM outbox WHERE host = ?", (host,))


def _invitation(db: sqlite3.Connection, token: str, now: int) -> sqlite3.Row:
    match = _TOKEN.fullmatch(token)
    row: sqlite3.Row | None = None
    if match is not None:
        row = db.execute("SELECT * FROM enrolment_token WHERE id = ?", (match[1],)).fetchone()
    kept = row["secret_hash"] if row is not None else b"\0" * 32
    if not hmac.compare_digest(kept, _hash(match[2] if match is not None else "")) or row is None:
        raise Problem("token_unknown", "no such enrolment token")
    if row["used_at"] is not None:
        raise Problem("token_used", "this enrolment token was used before: ask for another one, and look who used it")
    if row["expires_at"] <= now:
        raise Problem("token_expired", "this enrolment token has expired: ask for another one")
    return row


def _check_proof(plane: Plane, said: Enrolment, now: int) -> None:
    """The host's key signs what is asked here and now: nobody enrols a key that is not theirs, or an answer to another question."""
    try:
        key = jwk.public_key(said.host_key)
        thumbprint = jwk.thumbprint(key)
        fields.text(said.host_id, "host_id")
        ring = trust.keyring({"keys": [jwk.to_public_jwk(key, thumbprint, [said.host_id])]})
        verified = trust.verify(said.proof.encode("utf-8"), ring, typ=TYP_ENROLMENT)
        required = ("iss", "aud", "iat", "csr_sha256", "token_sha256")
        claims = FieldReader(trust.parse_object(verified.payload), "proof", required=required, optional=("exp", "jti"))
        found = tuple(claims.one(name, fields.string) for name in ("iss", "aud", "csr_sha256", "token_sha256"))
        issued = claims.one("iat", fields.integer(0, 1 << 40))
    except (RefusedError, ConfigError) as refused:
        raise Problem("proof_invalid", f"{refused.reason} [{refused.code}]", field=refused.field or "proof") from refused
    except ValueError as refused:
        raise Problem("proof_invalid", str(refused), field="host_key") from refused
    digests = tuple(hashlib.sha256(text.encode("utf-8")).hexdigest() for text in (said.csr, said.token))
    if found[0] != said.host_id or found[2:] != digests:
        raise Problem("proof_invalid", "the proof is about another host, request or token", field="proof")
    if found[1].rstrip("/") != plane.settings.hosts_listener.url:
        raise Problem(
            "proof_invalid", f"the proof is for {found[1]!r}, not for {plane.settings.hosts_listener.url}", field="proof.aud"
        )
    if abs(now - issued) > _PROOF_AGE_S:
        raise Problem("proof_invalid", f"the proof is {now - issued} s old by the clock here", field="proof.iat")
    if said.host_id.startswith(_URN) and said.host_id != _URN + thumbprint:
        raise Problem("proof_invalid", "the host's id is another key's thumbprint", field="host_id")


def _take_in(db: sqlite3.Connection, said: Enrolment, invitation: sqlite3.Row, host: str, now: int) -> None:
    known = db.execute("SELECT * FROM host WHERE token = ? OR name = ?", (host, invitation["name"])).fetchall()
    if known and not invitation["replaces"]:
        raise Problem("host_known", "this host, or one of this name, is enrolled: an admin may let it be replaced")
    key = jwk.public_key(said.host_key)
    stored = json.dumps(jwk.to_public_jwk(key, jwk.thumbprint(key), [said.host_id]))
    for row in known:
        # An id may be any name (`host_id` in a host's settings): who may take one host's place must not take another's.
        if row["token"] == host and row["name"] != invitation["name"] and row["host_key"] != stored:
            raise Problem("host_known", "that id is another host's, with another key: its own name must be let be replaced")
        if row["token"] != host:  # another key under the old name: the old one goes, and keeps its records under a name of the past
            expel(db, row["token"])
            touch(db, f"host:{row['token']}")
            past = f"was.{hashlib.sha256(row['token'].encode()).hexdigest()[:12]}.{row['name']}"[:63].rstrip(".-")
            db.execute("UPDATE host SET name = ? WHERE token = ?", (past, row["token"]))
    values = {
        "token": host,
        "host_id": said.host_id,
        "name": invitation["name"],
        "address": invitation["address"] or invitation["name"],
        "labels": invitation["labels"],
        "host_key": stored,
        "hostname": said.hostname,
        "version": said.version,
        "bulletins": invitation["bulletins"],
        "now": now,
    }
    db.execute(
        "INSERT INTO host (token, host_id, name, address, labels, host_key, hostname, version, state, bulletins,"
        " enrolled_at, seen_at) VALUES (:token, :host_id, :name, :address, :labels, :host_key, :hostname, :version, 'enrolled',"
        " :bulletins, :now, :now)"
        " ON CONFLICT (token) DO UPDATE SET name = excluded.name, address = excluded.address, labels = excluded.labels,"
        " host_key = excluded.host_key, hostname = excluded.hostname, version = excluded.version, state = 'enrolled',"
        " bulletins = excluded.bulletins, enrolled_at = excluded.enrolled_at",
        values,
    )


def _remember(db: sqlite3.Connection, host: str, issued: ca.Issued) -> None:
    db.execute("INSERT INTO certificate (serial, host, not_after) VALUES (?, ?, ?)", (issued.serial, host, issued.not_after))


def _certificate(plane: Plane, issued: ca.Issued) -> dict[str, object]:
    return {"certificate": issued.pem, "ca": plane.keys.ca.pem(), "expires": rows.rfc3339(issued.not_after)}


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8")).digest()
