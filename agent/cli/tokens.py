"""verify, keygen, sign: tokens without a daemon, for control planes, tests and a look at 3 a.m."""

import json
import secrets
import sys
import time
from datetime import datetime
from pathlib import Path

import click

from agent import policy as policies
from agent import trust
from agent.assembly import registry
from agent.cli.output import json_option, reporting, show, write_out
from agent.errors import ConfigError, DeniedError, RefusedError
from agent.host.clock import NS, rfc3339
from agent.model import Grant
from agent.model.summary import summarise
from agent.model.text import printable
from agent.settings import duration

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FILE_OR_STDIN = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
_CLAIMS_MAX = 1 << 20


def read_token(path: Path, payload_max: int = trust.PAYLOAD_MAX) -> bytes:
    """A token's bytes from a file or, for ``-``, stdin; never more than one byte past the longest legal token."""
    return _read(path, trust.token_max(payload_max) + 1)


def _read(path: Path, limit: int) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read(limit)
    with path.open("rb") as file:
        return file.read(limit)


@click.command()
@click.argument("file", type=_FILE_OR_STDIN)
@click.option("--keys", required=True, type=_FILE, help="JWK Set of the keys to trust, as in trust.d (each with its issuers).")
@click.option(
    "--host", "host_id", required=True, metavar="ID", help="The host id the grant must be for, as `tidegate status` shows it."
)
@click.option("--policy", "policy_file", type=_FILE, help="Also judge it by this policy file.")
@click.option("--at", metavar="TIME", help="Judge it at this moment (such as 2026-01-31T12:00:00Z) instead of now.")
@json_option
@reporting
def verify(file: Path, keys: Path, host_id: str, policy_file: Path | None, at: str | None, as_json: bool) -> None:
    """Check a grant anywhere: would a host take it?

    Needs no daemon and no root, and knows nothing of the host: whether the jti was used, a name is taken, or too many grants are
    live, only `tidegate plan` on the host can say. Exits 0 when valid, 3 when refused, with code and reason.
    """
    now_s = _moment(at)
    decoders = policies.decoders(registry())
    ring = trust.read_jwks(keys, guarded=False)
    verified = trust.verify(read_token(file), ring, typ=trust.TYP_GRANT)
    grant = trust.decode(verified, host_id=host_id, now_s=now_s, decoders=decoders)
    rule = None
    if policy_file:
        limits = policies.load_policy_file(policy_file, decoders)
        verdict = policies.judge(grant, limits, now_s=now_s, live=(), is_ours=lambda _login: False)
        if isinstance(verdict, policies.Denied):
            raise DeniedError(verdict.code, verdict.reason, field=verdict.field)
        grant, rule = verdict.grant, verdict.rule
    show(_view(grant, rule), as_json, lambda: _text(grant, rule))


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--kid", help="The key's id; by default the file's name without its ending.")
@click.option("--issuer", "issuers", multiple=True, required=True, help="An issuer the key may speak for. May be given again.")
@click.option("--approver", help="The person or system the key approves as (for k-of-n grants).")
@click.option(
    "--public", type=click.Path(dir_okay=False, path_type=Path), help="Write the public JWK Set here instead of to stdout."
)
@json_option
@reporting
def keygen(file: Path, kid: str | None, issuers: tuple[str, ...], approver: str | None, public: Path | None, as_json: bool) -> None:
    """Make a signing key (Ed25519).

    The private JWK goes into FILE (mode 0600), the public JWK Set to stdout or into --public; neither goes over another file.
    The public set goes into /etc/tidegate/trust.d/NAME.jwks on each host that is to trust the key.
    """
    if public and public.resolve() == file.resolve():
        raise click.UsageError("FILE and --public must be two files")
    if public and public.is_file():  # perhaps the only copy of another private key's public half
        raise ConfigError("key_file_exists", "is there already; a key is never overwritten", path=public)
    try:
        private, public_jwk = trust.generate_key(kid or file.stem, issuers, approver)
        trust.write_private_jwk(file, private)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except FileExistsError as error:
        raise ConfigError("key_file_exists", "is there already; a key is never overwritten", path=file) from error
    jwks = json.dumps({"keys": [public_jwk]}, indent=2)
    if public:
        try:
            write_out(public, jwks + "\n")
        except ConfigError:
            file.unlink()  # made a moment ago: a private key whose public half nobody has is of no use
            raise
    shown = {"kid": private["kid"], "private": str(file), "public": str(public) if public else None, "jwks": {"keys": [public_jwk]}}
    show(shown, as_json, lambda: f"private key: {file}\npublic keys: {public}" if public else jwks)


@click.command()
@click.argument("claims", type=_FILE_OR_STDIN)
@click.option(
    "--key", "keys", multiple=True, required=True, type=_FILE, help="Private JWK. Given k times: General JSON, k signatures."
)
@click.option("--typ", default=trust.TYP_GRANT, show_default=True, help="The token's type.")
@click.option(
    "--for",
    "lifetime",
    metavar="TIME",
    help="Fill in iat and nbf (now), exp (now and this long: 90s, 15m, 8h) and a jti where missing.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the token here instead of to stdout.")
@json_option
@reporting
def sign(claims: Path, keys: tuple[Path, ...], typ: str, lifetime: str | None, out: Path | None, as_json: bool) -> None:
    """Sign a JSON file of claims as a grant.

    CLAIMS may be - for stdin. It signs what it is given: whether a host would take it, `tidegate verify` says.
    """
    data = _read(claims, _CLAIMS_MAX + 1)
    if len(data) > _CLAIMS_MAX:
        raise click.UsageError(f"{claims}: claims of more than {_CLAIMS_MAX >> 20} MiB are no token's")
    parsed = trust.parse_object(data)
    if lifetime is not None:
        parsed = _timed(parsed, _lifetime(lifetime))
    private = [trust.read_private_jwk(key) for key in keys]
    token = trust.sign_compact(parsed, typ, private[0]) if len(private) == 1 else trust.sign_general(parsed, typ, private)
    if out:
        write_out(out, token + "\n")
    shown = {"token": token, "jti": parsed.get("jti"), "file": str(out) if out else None}
    show(shown, as_json, lambda: f"{out}: {parsed.get('jti')}" if out else token)


def _timed(claims: dict[str, object], lifetime_s: int) -> dict[str, object]:
    now = int(time.time())
    return {"iat": now, "nbf": now, "exp": now + lifetime_s, "jti": f"g-{secrets.token_hex(8)}", **claims}


def _lifetime(text: str) -> int:
    try:
        return duration(text, "--for")
    except RefusedError as error:
        raise click.UsageError(f"--for: {text!r} {error.reason}") from error


def _moment(at: str | None) -> int:
    if at is None:
        return int(time.time())
    try:
        moment = datetime.fromisoformat(at)
    except ValueError as error:
        raise click.UsageError(f"--at: {at!r} is no RFC 3339 time such as 2026-01-31T12:00:00Z") from error
    if moment.tzinfo is None:
        raise click.UsageError("--at: say the zone, such as the Z of 2026-01-31T12:00:00Z")
    return int(moment.timestamp())


def _view(grant: Grant, rule: str | None) -> dict[str, object]:
    return {
        "verdict": "valid",
        "jti": grant.jti,
        "issuer": grant.iss,
        "subject": grant.sub,
        "begins": rfc3339(grant.nbf * NS),
        "ends": rfc3339(grant.exp * NS),
        "access": summarise(grant),
        "signers": [signer.kid for signer in grant.signers],
        "rule": rule,
    }


def _text(grant: Grant, rule: str | None) -> str:
    allowed = f", allowed by rule {rule}" if rule else ""
    until = rfc3339(grant.exp * NS)[:19]
    return printable(f"valid{allowed}: {grant.sub} gets {summarise(grant)} until {until}Z (signed by {grant.iss})")
