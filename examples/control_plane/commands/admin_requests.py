"""tidegate-cp requests, grants and break-glass: deciding on what people ask for, and ending it."""

import hashlib

import click

from agent import settings
from agent.cli.output import json_option, reporting, show
from agent.errors import RefusedError
from agent.trust import canonical
from examples.control_plane.commands.admin_common import lines, rows, segment
from examples.control_plane.commands.client import Api, Json, objects, shown, text
from examples.control_plane.commands.login import Connection, connect, say
from examples.control_plane.commands.waiting import progress

_REQUESTS = {
    "ID": "id", "STATE": "state", "WHO": "subject", "WHAT": "template", "HOSTS": "hosts", "FOR": "duration_s", "TICKET": "ticket",
    "BREAK-GLASS": "break_glass", "REASON": "reason",
}  # fmt: skip
_GRANTS = {
    "JTI": "jti",
    "REQUEST": "request",
    "HOST": "host_name",
    "LOGIN": "login",
    "WHO": "subject",
    "STATE": "state",
    "UNTIL": "exp",
    "WHY": "cause",
}
_COMMENT = click.option("--comment", metavar="TEXT", help="For the trail.")
_REASON = click.option("--reason", metavar="TEXT", required=True, help="For the trail, the person and the host's receipt.")


@click.group()
def requests() -> None:
    """What people ask for."""


@requests.command("list")
@click.option("--waiting", is_flag=True, help="Only those that wait for an approval.")
@click.option("--state", type=click.Choice(["waiting", "open", "denied", "withdrawn", "lapsed", "revoked", "ended"]))
@json_option
@click.pass_obj
@reporting
def list_requests(connection: Connection, waiting: bool, state: str | None, as_json: bool) -> None:
    """Requests, newest first."""
    found = connect(connection).get("/v1/requests", state="waiting" if waiting else state)
    show(found, as_json, lambda: rows(objects(found, "requests"), _REQUESTS, "there are none"))


@requests.command("show")
@click.argument("ident", metavar="ID")
@json_option
@click.pass_obj
@reporting
def show_request(connection: Connection, ident: str, as_json: bool) -> None:
    """One request: what exactly would be signed, and who has said what."""
    found = connect(connection).get(f"/v1/requests/{segment(ident)}")
    show(found, as_json, lambda: _shown(found))


@requests.command()
@click.argument("ident", metavar="ID")
@click.option("--digest", metavar="SHA256", help="Approve only exactly this; asks nothing. `requests show` has it.")
@click.option("--yes", is_flag=True, help="Ask nothing: approve what it is now.")
@_COMMENT
@json_option
@click.pass_obj
@reporting
def approve(connection: Connection, ident: str, digest: str | None, yes: bool, comment: str | None, as_json: bool) -> None:
    """Approve a request: shows what it is, and asks. What changes meanwhile is not approved."""
    api = connect(connection)
    if digest is None:
        digest = _looked_at(api, ident, yes=yes, as_json=as_json)
    body: Json = {"digest": digest, **({"comment": comment} if comment else {})}
    found = api.post(f"/v1/requests/{segment(ident)}/approve", body)
    show(
        found,
        as_json,
        lambda: progress(found) if found.get("state") == "waiting" else f"{shown(ident)} is {shown(found.get('state'))}",
    )


def _looked_at(api: Api, ident: str, *, yes: bool, as_json: bool) -> str:
    """The digest of what was shown. It is computed here: what one sees is what one approves."""
    if as_json and not yes:
        raise click.UsageError("--json asks nothing: name what you approve with --digest, or say --yes")
    found = api.get(f"/v1/requests/{segment(ident)}")
    asked = found.get("asked")
    if not isinstance(asked, dict) or hashlib.sha256(canonical(asked)).hexdigest() != found.get("digest"):
        raise RefusedError("digest_mismatch", "the control plane shows one thing and would have you approve another")
    if not yes:
        say(_shown(found))
        click.confirm("Approve exactly this?", abort=True, err=True)
    return text(found, "digest")


@requests.command()
@click.argument("ident", metavar="ID")
@_REASON
@json_option
@click.pass_obj
@reporting
def deny(connection: Connection, ident: str, reason: str, as_json: bool) -> None:
    """Deny a request."""
    _act(connection, f"/v1/requests/{segment(ident)}/deny", {"reason": reason}, as_json)


@click.group()
def grants() -> None:
    """What is signed and sent to hosts."""


@grants.command("list")
@click.option("--live", is_flag=True, help="Only those that have not ended.")
@json_option
@click.pass_obj
@reporting
def list_grants(connection: Connection, live: bool, as_json: bool) -> None:
    """Grants, newest first."""
    found = connect(connection).get("/v1/grants", live=live)
    show(found, as_json, lambda: rows(objects(found, "grants"), _GRANTS, "there are none"))


@grants.command()
@click.argument("ident", metavar="ID")
@_REASON
@json_option
@click.pass_obj
@reporting
def revoke(connection: Connection, ident: str, reason: str, as_json: bool) -> None:
    """End access now: all grants of a request (r-...), or one grant (its jti)."""
    kind = "requests" if ident.startswith("r-") else "grants"
    _act(connection, f"/v1/{kind}/{segment(ident)}/revoke", {"reason": reason}, as_json)


@grants.command()
@click.argument("ident", metavar="REQUEST")
@click.option("--for", "time", required=True, metavar="TIME", help="From now on: 30m, 8h.")
@_REASON
@json_option
@click.pass_obj
@reporting
def extend(connection: Connection, ident: str, time: str, reason: str, as_json: bool) -> None:
    """Ask for more time for an open request of one's own; it is approved like any other, and drops no session."""
    try:
        seconds = settings.duration(time, "--for")
    except RefusedError as error:
        raise click.UsageError(f"--for {error.reason}") from error
    _act(connection, f"/v1/requests/{segment(ident)}/extend", {"duration_s": seconds, "reason": reason}, as_json)


@click.group("break-glass")
def break_glass() -> None:
    """Emergencies: what was opened without an approval, and what came of it."""


@break_glass.command("list")
@json_option
@click.pass_obj
@reporting
def list_reviews(connection: Connection, as_json: bool) -> None:
    """Those that nobody has reviewed, oldest first."""
    found = connect(connection).get("/v1/reviews")
    show(found, as_json, lambda: rows(objects(found, "requests"), _REQUESTS, "all are reviewed"))


@break_glass.command()
@click.argument("ident", metavar="ID")
@click.argument("verdict", type=click.Choice(["justified", "misused"]))
@click.option("--comment", metavar="TEXT", required=True, help="What was looked at, and what was found.")
@json_option
@click.pass_obj
@reporting
def review(connection: Connection, ident: str, verdict: str, comment: str, as_json: bool) -> None:
    """Say what came of one; never of one's own."""
    _act(connection, f"/v1/reviews/{segment(ident)}", {"verdict": verdict, "comment": comment}, as_json)


def _act(connection: Connection, path: str, body: Json, as_json: bool) -> None:
    found = connect(connection).post(path, body)
    state = found.get("review") or found.get("state")
    show(found, as_json, lambda: f"{shown(found.get('id') or found.get('jti'))} is {shown(state)}")


def _shown(request: Json) -> str:
    """All of it, without what is there twice."""
    asked = request.get("asked")
    plain = {
        key: value for key, value in request.items() if key not in {"asked", "grants", "approvals"} and value not in (None, "")
    }
    said = [
        f"  {shown(item.get('verdict'))} by {shown(item.get('by'))}: {shown(item.get('comment'))}"
        for item in objects(request, "approvals")
    ]
    given = asked.get("authorization_details") if isinstance(asked, dict) else None
    entries = [f"  {shown(entry)}" for entry in given] if isinstance(given, list) else []
    return "\n".join([lines(plain), "gives:", *entries, *(["decided:", *said] if said else [])])
