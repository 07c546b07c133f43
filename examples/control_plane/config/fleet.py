"""The section ``nats``: the servers of a fleet, and how the control plane and the hosts reach them. docs/FLEET.md says what for."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.courier.settings import BUCKET, SERVER, on_loopback
from agent.errors import RefusedError
from agent.model import fields
from agent.settings import Section
from agent.strictyaml import Node

_SERVERS_MAX = 16
_FILES = ("ca", "certificate", "key", "credentials", "accounts_file", "pid_file")


@dataclass(frozen=True, slots=True)
class Nats:
    """``servers``: as the control plane reaches them; ``for_hosts``: as hosts are told, empty if they are told nothing.

    Without ``certificate`` and ``key`` the control plane makes its own client certificate, and without ``ca`` it believes its own
    CA. ``accounts_file``: where it writes who may do what, and ``pid_file``: which server is told then.
    """

    servers: tuple[str, ...]
    for_hosts: tuple[str, ...]
    bucket: str = "tidegate"
    replicas: int = 1
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    credentials: Path | None = None
    accounts_file: Path | None = None
    pid_file: Path | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the control plane's own connection is."""
        return self.servers[0].startswith("tls://")


def read_nats(node: Node | None) -> Nats | None:
    """Raises ConfigError, as :class:`agent.settings.Section`; ``nats_invalid``."""
    if node is None:
        return None
    found = Section(node, required=("servers",), optional=("for_hosts", "bucket", "replicas", *_FILES))
    servers = found.many("servers", _server)
    files = {name: Path(text) if (text := found.optional(name, fields.absolute_path, "")) else None for name in _FILES}
    encrypted = {server.startswith("tls://") for server in servers}
    if len(encrypted) > 1:
        raise node.error("nats_invalid", "either all servers are tls:// or none is")
    if (files["certificate"] is None) != (files["key"] is None):
        raise node.error("nats_invalid", "certificate and key belong together")
    if encrypted == {False} and files["credentials"] is None:
        raise node.error("nats_invalid", "without tls:// the control plane needs credentials")
    told = found.many("for_hosts", _encrypted, default=servers if encrypted == {True} else ())
    if len(told) > _SERVERS_MAX:
        raise node.error("nats_invalid", f"hosts are told at most {_SERVERS_MAX} servers")
    bucket, replicas = found.optional("bucket", _bucket, "tidegate"), found.optional("replicas", fields.integer(1, 5), 1)
    return Nats(servers, told, bucket, replicas, **files)


def _server(value: object, field: str) -> str:
    """``tls://`` anywhere, ``nats://`` to this very machine only."""
    text = fields.text(value, field)
    if not SERVER.fullmatch(text) or not (text.startswith("tls://") or on_loopback(urlsplit(text).hostname or "")):
        raise RefusedError("nats_invalid", "must be tls://HOST[:PORT], or nats:// on loopback", field=field)
    return text


def _encrypted(value: object, field: str) -> str:
    text = fields.text(value, field)
    if not SERVER.fullmatch(text) or not text.startswith("tls://"):
        raise RefusedError("nats_invalid", "must be tls://HOST[:PORT]", field=field)
    return text


def _bucket(value: object, field: str) -> str:
    text = fields.text(value, field)
    if not BUCKET.fullmatch(text):
        raise RefusedError("nats_invalid", "must be of A-Z a-z 0-9 _ -, at most 64", field=field)
    return text
