"""A nats-server's configuration for a fleet: who may do what. docs/FLEET.md has the reasons, tests/nats the proof.

Two accounts, not one: a NATS client names the subject that it wants its answer at, and the server publishes there without
looking at the client's permissions. In one account with the streams, a host could so overwrite another's tokens, or have what
it stored itself stored again in another's name. In an account of their own hosts reach only what is imported, and answers stay
there.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.courier.places import HOST_URI

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NKEY = re.compile(r"U[A-Z2-7]{55}")


@dataclass(frozen=True, slots=True)
class Login:
    """How one client shows who it is: by certificate or password (``user``), or by ``nkey`` (``U...``).

    For a client certificate ``user`` is its SAN URI (``urn:tidegate:host:T``) or else its whole subject (``CN=...``).
    """

    user: str = ""
    password: str = ""
    nkey: str = ""

    def fields(self) -> dict[str, object]:
        """As a user's entry has it. Raises ValueError unless exactly one of user and nkey is there."""
        if bool(self.user) == bool(self.nkey) or (self.nkey and not _NKEY.fullmatch(self.nkey)):
            raise ValueError("a login has either a user or an nkey")
        if self.nkey:
            return {"nkey": self.nkey}
        return {"user": self.user, **({"password": self.password} if self.password else {})}


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's own files, PEM. Every client must then have a certificate of ``ca``."""

    certificate: Path
    key: Path
    ca: Path


def by_certificate(token: str) -> Login:
    """The login of a host that has the certificate of its enrolment."""
    return Login(user=HOST_URI + token)


def permissions(token: str, bucket: str = "tidegate") -> dict[str, list[str]]:
    """All that the host with this token may publish to and subscribe to. Raises ValueError for what is no host token."""
    if not _TOKEN.fullmatch(token) or not _BUCKET.fullmatch(bucket):
        raise ValueError("not a host token or bucket")
    get, recordings = "$JS.API.DIRECT.GET", f"tidegate.recordings.{token}.*"
    return {
        "publish": [
            f"tidegate.records.{token}",
            recordings,
            f"{get}.KV_{bucket}.$KV.{bucket}.{token}.*",
            f"{get}.KV_{bucket}.$KV.{bucket}.index.{token}",
            f"{get}.TIDEGATE_RECORDINGS.{recordings}",
        ],
        "subscribe": [f"$KV.{bucket}.{token}.>", f"_INBOX.{token}.>"],
    }


def accounts(control: Login, hosts: Iterable[tuple[str, Login]], bucket: str = "tidegate") -> dict[str, object]:
    """The two accounts: ``TIDEGATE`` with JetStream, for the control plane, and ``HOSTS``, which imports only what hosts need."""
    get = "$JS.API.DIRECT.GET"
    services = [
        "tidegate.records.*",
        "tidegate.recordings.*.*",
        f"{get}.KV_{bucket}.$KV.{bucket}.*.*",
        f"{get}.TIDEGATE_RECORDINGS.tidegate.recordings.*.*",
    ]
    tokens = f"$KV.{bucket}.>"
    users = []
    for token, login in hosts:
        allowed = permissions(token, bucket)
        users.append({**login.fields(), "permissions": {side: {"allow": subjects} for side, subjects in allowed.items()}})
    return {
        "TIDEGATE": {
            "jetstream": "enabled",
            "users": [control.fields()],
            "exports": [
                {"stream": tokens, "accounts": ["HOSTS"]},
                *({"service": service, "accounts": ["HOSTS"]} for service in services),
            ],
        },
        "HOSTS": {
            "users": users,
            "imports": [
                {"stream": {"account": "TIDEGATE", "subject": tokens}},
                *({"service": {"account": "TIDEGATE", "subject": service}} for service in services),
            ],
        },
    }


def server_config(
    control: Login,
    hosts: Iterable[tuple[str, Login]],
    *,
    store: Path,
    listen: str = "127.0.0.1:4222",
    bucket: str = "tidegate",
    tls: Tls | None = None,
    sync_always: bool = False,
) -> str:
    """The whole configuration, JSON (which nats-server reads). When hosts change, write it again and send the server SIGHUP.

    ``sync_always`` makes JetStream acknowledge only what is on disk. Use it in production; nats-server knows it from 2.10 on,
    and 2.9 (Debian 12's) refuses to start with it.
    """
    settings = server_settings(store=store, listen=listen, tls=tls, sync_always=sync_always)
    return json.dumps({**settings, "accounts": accounts(control, hosts, bucket)}, indent=1) + "\n"


def server_settings(*, store: Path, listen: str, tls: Tls | None, sync_always: bool = False) -> dict[str, object]:
    """All of it but the accounts."""
    jetstream: dict[str, object] = {"store_dir": str(store)}
    if sync_always:
        jetstream["sync_interval"] = "always"
    config: dict[str, object] = {
        "listen": listen,
        "jetstream": jetstream,
        "max_payload": 1 << 20,
        "max_pending": 16 << 20,  # bytes that a slow client may have waiting before it is cut off
        "max_subscriptions": 32,  # of one connection
        "max_control_line": 4096,
        "write_deadline": "10s",
        "ping_interval": "30s",
        "ping_max": 2,
        "authorization": {"timeout": 15},  # seconds; 2 by default, too few when a whole fleet comes back at once
    }
    if tls:
        config["tls"] = {
            "cert_file": str(tls.certificate),
            "key_file": str(tls.key),
            "ca_file": str(tls.ca),
            "verify_and_map": True,
            "timeout": 10,
        }
    return config
