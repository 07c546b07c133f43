"""Rows of requests, grants and hosts as values, and as the API shows them."""

import base64
import json
import secrets
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime

from examples.control_plane.api.problems import Problem
from examples.control_plane.store import touch
from examples.control_plane.workflow.model import Approval, Granted, Host, Request

_GRANTS = (
    "SELECT g.*, h.name AS host_name, h.address AS address, h.host_id AS host_id FROM grant_ g JOIN host h ON h.token = g.host "
)


def new_id(prefix: str) -> str:
    """80 random bits."""
    return f"{prefix}-{base64.b32encode(secrets.token_bytes(10)).decode('ascii').lower()}"


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def maybe(seconds: int | None) -> str | None:
    """The same, null for null."""
    return None if seconds is None else rfc3339(seconds)


def hosts(db: sqlite3.Connection) -> dict[str, Host]:
    """Enrolled hosts by name."""
    rows = db.execute("SELECT * FROM host WHERE state = 'enrolled' ORDER BY name")
    return {row["name"]: host(row) for row in rows}


def host(row: sqlite3.Row) -> Host:
    """One host of a row."""
    return Host(row["token"], row["host_id"], row["name"], row["address"], json.loads(row["labels"]))


def request(db: sqlite3.Connection, ident: str) -> Request:
    """One request. Raises Problem ``not_found``."""
    row = db.execute("SELECT * FROM request WHERE id = ?", (ident,)).fetchone()
    if row is None:
        raise Problem("not_found", "there is no such request")
    return from_row(db, row)


def from_row(db: sqlite3.Connection, row: sqlite3.Row) -> Request:
    """The request of a row, with its approvals."""
    found = db.execute("SELECT * FROM approval WHERE request = ? ORDER BY at, by", (row["id"],))
    return Request(
        id=row["id"],
        version=row["version"],
        subject=row["subject"],
        name=row["name"],
        login=row["login"],
        asked=json.loads(row["asked"]),
        digest=row["digest"],
        template=row["template"],
        title=row["title"],
        ticket=row["ticket"],
        extends=row["extends"] or "",
        break_glass=bool(row["break_glass"]),
        needed=row["needed"],
        approver_roles=frozenset(json.loads(row["approver_roles"])),
        state=row["state"],
        why=row["why"],
        asked_at=row["asked_at"],
        lapses_at=row["lapses_at"],
        opened_at=row["opened_at"],
        ends_at=row["ends_at"],
        review=row["review"],
        approvals=tuple(Approval(one["by"], one["verdict"], one["digest"], one["comment"], one["at"]) for one in found),
    )


def change(db: sqlite3.Connection, ident: str, **values: str | int) -> None:
    """Set columns of a request; its version grows, and who waits for it is woken. Column names are the code's own."""
    columns = "".join(f", {name} = :{name}" for name in values)
    statement = f"UPDATE request SET version = version + 1{columns} WHERE id = :ident"  # noqa: S608  # no name comes from outside
    db.execute(statement, {**values, "ident": ident})
    touch(db, f"request:{ident}")


def grants_of(db: sqlite3.Connection, ident: str) -> list[Granted]:
    """A request's grants, by host."""
    return [_granted(row) for row in db.execute(_GRANTS + "WHERE g.request = ? ORDER BY g.jti", (ident,))]


def grants_where(db: sqlite3.Connection, condition: str, values: Mapping[str, str | int], *, limit: int = 100_000) -> list[Granted]:
    """Grants by a condition of the code's own, newest first."""
    query = f"{_GRANTS}WHERE {condition} ORDER BY g.iat DESC, g.jti LIMIT :limit"
    return [_granted(row) for row in db.execute(query, {**values, "limit": limit})]


def grant(db: sqlite3.Connection, jti: str) -> Granted:
    """One grant. Raises Problem ``not_found``."""
    row = db.execute(_GRANTS + "WHERE g.jti = ?", (jti,)).fetchone()
    if row is None:
        raise Problem("not_found", "there is no such grant")
    return _granted(row)


def _granted(row: sqlite3.Row) -> Granted:
    names = Granted.__dataclass_fields__
    return Granted(**{name: row[name] for name in names})


def grant_view(found: Granted) -> dict[str, object]:
    """As the API shows it."""
    texts = {"supersedes": found.supersedes, "code": found.code, "reason": found.reason, "cause": found.cause}
    return {
        "jti": found.jti,
        "request": found.request,
        "host": found.host,
        "host_name": found.host_name,
        "address": found.address,
        "login": found.login,
        "subject": found.subject,
        "nbf": rfc3339(found.iat),
        "exp": rfc3339(found.exp),
        "state": found.state,
        "ended_at": maybe(found.ended_at),
        **{name: text for name, text in {**texts, "receipt": found.receipt}.items() if text},
    }


def view(db: sqlite3.Connection, found: Request) -> dict[str, object]:
    """A request as the API shows it, with its grants."""
    asked_hosts = found.asked["hosts"]
    listed = [one["name"] for one in asked_hosts if isinstance(one, Mapping)] if isinstance(asked_hosts, list) else []
    texts = {"ticket": found.ticket, "extends": found.extends, "why": found.why, "review": found.review}
    return {
        "id": found.id,
        "version": found.version,
        "subject": found.subject,
        "name": found.name,
        "template": found.template,
        "title": found.title,
        "hosts": listed,
        "login": found.login,
        "duration_s": found.asked["duration_s"],
        "reason": found.asked["reason"],
        "state": found.state,
        "break_glass": found.break_glass,
        "digest": found.digest,
        "asked": found.asked,
        "approvals_needed": found.needed,
        "approver_roles": sorted(found.approver_roles),
        "approvals": [
            {"by": one.by, "verdict": one.verdict, "at": rfc3339(one.at), "comment": one.comment} for one in found.approvals
        ],
        "asked_at": rfc3339(found.asked_at),
        "lapses_at": rfc3339(found.lapses_at),
        "opened_at": maybe(found.opened_at),
        "ends_at": maybe(found.ends_at),
        "certificate": not found.asked["keys"],
        "grants": [grant_view(one) for one in grants_of(db, found.id)],
        **{name: text for name, text in texts.items() if text},
    }
