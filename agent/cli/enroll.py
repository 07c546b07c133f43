"""enroll: this host and a control plane get to know each other, by a token, a fingerprint, and the keys that the admin names."""

import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.cli.daemon_view import configured
from agent.cli.output import json_option, reporting, show
from agent.config import Config
from agent.courier import enrolment, installing
from agent.courier.proxies import chosen
from agent.courier.settings import TRANSPORTS, Proxy, address, load_settings
from agent.errors import ConfigError, HostError, RefusedError, TidegateError
from agent.model.text import printable
from agent.trust import HostKey, load_keyring

_TOKEN_MAX = 4096
_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_SSH_PIN = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class Pins:
    """What the admin named: thumbprints of signing keys, the SSH CA's fingerprint (or empty)."""

    keys: tuple[str, ...]
    ssh_ca: str


@click.command()
@click.argument("url")
@click.option("--token", metavar="T", help="The single-use token; others on this host may see it in the list of processes.")
@click.option("--token-file", type=click.Path(path_type=Path, allow_dash=True), help="A file that holds it; - is standard input.")
@click.option("--ca-fingerprint", required=True, metavar="F", help="SHA-256 of the control plane's CA certificate, hex.")
@click.option(
    "--signing-key", "pins", multiple=True, metavar="THUMBPRINT", help="Trust this key to sign grants (RFC 7638); again for more."
)
@click.option("--ssh-ca", default="", metavar="SHA256:...", help="Trust this SSH user CA, as ssh-keygen -l shows it.")
@click.option(
    "--transport",
    type=click.Choice(TRANSPORTS),
    help="How the courier goes on. Default: nats where the control plane offers it and it is installed here, else https.",
)
@json_option
@click.pass_obj
@reporting
def enroll(
    config_file: Path | None,
    url: str,
    token: str | None,
    token_file: Path | None,
    ca_fingerprint: str,
    pins: tuple[str, ...],
    ssh_ca: str,
    transport: str | None,
    as_json: bool,
) -> None:
    """Enrol this host at the control plane at URL, by a single-use token. Run it as root.

    The token is sent only over a connection that a server with a certificate of that CA has opened. Keys that may sign grants are
    trusted only if you name them; others are shown, and nothing of them is installed.
    """
    if (token is None) == (token_file is None):
        raise click.UsageError("give the token by exactly one of --token and --token-file")
    pinned = _fingerprint(ca_fingerprint)
    for pin in pins:
        if not _THUMBPRINT.fullmatch(pin):
            raise click.BadParameter("a thumbprint has 43 characters of A-Z a-z 0-9 - _", param_hint="--signing-key")
    if ssh_ca and not _SSH_PIN.fullmatch(ssh_ca):
        raise click.BadParameter("must be SHA256: and 43 characters, as ssh-keygen -l shows it", param_hint="--ssh-ca")
    if os.geteuid() != 0:
        raise HostError("not_root", "only root can write the courier's key and the keys that are trusted")
    if transport is not None and not installing.speaks(transport):  # said before the token is spent
        raise RefusedError("transport_unavailable", f"transport {transport} is not installed here; nothing was sent")
    config = configured(config_file, "enrolling by the defaults")
    result = _enrol(config, url, token if token is not None else _read(token_file), pinned, Pins(pins, ssh_ca), transport)
    show(result, as_json, lambda: _text(result, config))


def _enrol(config: Config, url: str, token: str, pinned: str, pins: Pins, transport: str | None) -> Object:
    to = address(url, "URL")
    installing.courier_account()  # before the token is spent: it is good once
    trusted = load_keyring(config.paths.trust_dir) if pins.keys else None
    host_key = HostKey.load_or_create(config.paths.host_key)
    host_id = config.host_id or host_key.host_id
    found = enrolment.enrol(to, chosen(to, _proxy(config), os.environ), token, pinned, host_key, host_id)
    keys = installing.offered_keys(found.signing_keys, pins.keys)
    if trusted is not None:
        installing.check_kids(keys, trusted)
    ca = installing.offered_ca(found.ssh_user_ca, pins.ssh_ca)
    way = installing.chosen_transport(found, transport)
    files = installing.install_courier(config, found, host_id, way)
    shown: list[Object] = []
    for offered in keys:
        path = installing.install_key(config, offered) if offered.pinned else None
        shown.append(
            {
                "kid": offered.key.kid,
                "thumbprint": offered.key.thumbprint,
                "issuers": list(offered.key.issuers),
                "trusted": offered.pinned,
                "file": None if path is None else str(path),
                "jwk": dict(offered.jwk),
            }
        )
    ssh: Object | None = None
    if ca is not None:
        path = installing.install_ca(config, ca) if ca.pinned else None
        ssh = {"fingerprint": ca.fingerprint, "trusted": ca.pinned, "file": None if path is None else str(path), "line": ca.line}
    return {
        "host_id": host_id,
        "url": found.url.url,
        "transport": way,
        "nats": None if found.nats is None else {"servers": list(found.nats.servers), "bucket": found.nats.bucket},
        "certificate_ends": datetime.fromtimestamp(found.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "files": [str(path) for path in files],
        "signing_keys": shown,
        "ssh_user_ca": ssh,
    }


def _proxy(config: Config) -> Proxy | None:
    """The one of a courier.yaml that is there already."""
    try:
        return load_settings(config.paths.courier_config).proxy
    except TidegateError:
        return None


def _fingerprint(text: str) -> str:
    found = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", found):
        raise click.BadParameter("must be 64 hex digits, with or without colons", param_hint="--ca-fingerprint")
    return found


def _read(path: Path | None) -> str:
    try:
        if path is None or str(path) == "-":
            text = sys.stdin.read(_TOKEN_MAX + 1)
        else:
            with path.open(encoding="utf-8") as file:
                text = file.read(_TOKEN_MAX + 1)
    except (OSError, UnicodeError) as error:
        raise ConfigError("file_unreadable", f"the token can't be read: {error}", path=path or Path("-")) from error
    if not text.strip() or len(text) > _TOKEN_MAX:
        raise RefusedError("token_unknown", f"a token has 1 to {_TOKEN_MAX} characters")
    return text.strip()


def _way(result: Object) -> list[str]:
    nats = result["nats"]
    if not isinstance(nats, dict):
        return []
    servers = ", ".join(nats["servers"])
    if result["transport"] == "nats":
        return [f"the courier goes over NATS: {servers}"]
    return [f"the courier goes over https, not over the NATS that is offered too ({servers}): see --transport"]


def _text(result: Object, config: Config) -> str:
    lines = [
        f"{result['host_id']} is enrolled at {result['url']}",
        *_way(result),
        f"certificate until {result['certificate_ends']}, renewed by itself",
    ]
    keys, ssh = result["signing_keys"], result["ssh_user_ca"]
    for key in keys if isinstance(keys, list) else []:
        what = f"signing key {key['thumbprint']} (kid {key['kid']}, for {', '.join(key['issuers'])})"
        if key["trusted"]:
            lines.append(f"trusted: {what}: {key['file'] or 'it was trusted already'}")
        else:
            public = json.dumps({"keys": [key["jwk"]]}, separators=(",", ":"))
            lines += [
                f"NOT trusted: {what}",
                f"  if that thumbprint is your control plane's, put this into {config.paths.trust_dir}/NAME.jwks:",
                f"  {public}",
            ]
    if isinstance(ssh, dict):
        if ssh["trusted"]:
            lines.append(f"trusted: SSH user CA {ssh['fingerprint']}: {ssh['file'] or 'it was trusted already'}")
        else:
            lines += [
                f"NOT trusted: SSH user CA {ssh['fingerprint']}",
                f"  if that is your control plane's, put this line into {config.paths.ssh_user_ca}:",
                f"  {ssh['line']}",
            ]
    lines.append("now: systemctl enable --now tidegate-courier")
    return "\n".join(map(printable, lines))
