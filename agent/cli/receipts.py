"""receipts: the signed proof of what has ended."""

import json
from pathlib import Path
from typing import cast

import click

from agent import trust
from agent.cli.daemon_view import ask
from agent.cli.output import json_option, reporting, show, table
from agent.cli.tokens import read_token
from agent.errors import InvalidGrantError
from agent.model.text import printable

Object = dict[str, object]
RECEIPT_MAX = 1 << 20  # bytes of payload; a receipt lists what was found, so it can be longer than any grant


@click.group()
def receipts() -> None:
    """Signed proof of what has ended."""


@receipts.command("list")
@json_option
@click.pass_obj
@reporting
def list_receipts(config_file: Path | None, as_json: bool) -> None:
    """The latest receipts, newest first."""
    found = cast(list[Object], cast(Object, ask(config_file, "receipts"))["receipts"])
    show({"receipts": found}, as_json, lambda: _table(found) if found else "No receipts yet.")


@receipts.command("show")
@click.argument("jti")
@json_option
@click.pass_obj
@reporting
def show_receipt(config_file: Path | None, jti: str, as_json: bool) -> None:
    """One grant's receipt, and the signed token."""
    found = cast(Object, ask(config_file, "receipt", jti=jti))
    show(found, as_json, lambda: "\n".join(_text(entry) for entry in cast(list[Object], found["receipts"])))


@receipts.command("key")
@json_option
@click.pass_obj
@reporting
def host_key(config_file: Path | None, as_json: bool) -> None:
    """This host's public key, to verify its receipts elsewhere.

    Prints a JWK Set, for --keys of `tidegate receipts verify`. The running daemon is asked.
    """
    found = cast(Object, ask(config_file, "host_key"))
    show(found, as_json, lambda: json.dumps(found, indent=2, ensure_ascii=True))


@receipts.command("verify")
@click.argument("receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JWK Set of the host's public key (`tidegate receipts key`, there); without it the running daemon is asked.",
)
@json_option
@click.pass_obj
@reporting
def verify_receipt(config_file: Path | None, receipt: Path, keys: Path | None, as_json: bool) -> None:
    """Check a receipt's signature.

    With the key of the daemon on this host, or with --keys. Exits 3 when it does not hold.
    """
    ring = trust.read_jwks(keys, guarded=False) if keys else trust.keyring(cast(Object, ask(config_file, "host_key")))
    verified = trust.verify(read_token(receipt, RECEIPT_MAX), ring, typ=trust.TYP_RECEIPT, payload_max=RECEIPT_MAX)
    claims = trust.parse_object(verified.payload)
    trust.check_issuer(str(claims.get("iss")), verified.signers)
    grant, late = claims.get("grant"), claims.get("lateness_ms")
    if not isinstance(grant, dict) or not isinstance(late, dict):
        raise InvalidGrantError("receipt_malformed", "names no grant, or not how late it ended", field="grant")
    result = {"verdict": "valid", "host": claims["iss"], "grant": grant, "receipt": claims}
    text = f"valid: {claims['iss']} says grant {grant.get('jti')} of {grant.get('sub')} ended {claims.get('ended')} "
    text += f"({claims.get('cause')}), "
    stood = late.get("doors") is not None
    text += f"doors {late['doors']} ms and last process {late.get('last_process')} ms after it was due" if stood else "never opened"
    show(result, as_json, lambda: printable(text))


def _table(found: list[Object]) -> str:
    rows = []
    for entry in found:
        claims = cast(Object, entry["claims"])
        late = cast(Object, claims["lateness_ms"])
        grant = cast(Object, claims["grant"])
        rows.append(
            [
                str(claims["ended"]),
                str(grant["jti"]),
                str(grant["sub"]),
                str(claims["cause"]),
                *("-" if late[what] is None else str(late[what]) for what in ("doors", "last_process")),
            ]
        )
    return table(["ENDED", "GRANT", "WHO", "CAUSE", "DOORS MS", "LAST PROCESS MS"], rows)


def _text(entry: Object) -> str:
    return json.dumps(entry["claims"], indent=2, ensure_ascii=True) + "\n\n" + str(entry["jws"])
