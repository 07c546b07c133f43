"""courier.yaml: how this host reaches its control plane. Read strictly, like every file of the admin's."""

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import RefusedError
from agent.forms import COURIER, current
from agent.settings import Section
from agent.strictyaml import Node, read_yaml

TRANSPORTS = ("https", "nats")
SERVER = re.compile(r"(?:tls|nats)://[A-Za-z0-9.:\[\]-]{1,255}")  # of NATS
BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of its key-value store
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
_HOST_ID = re.compile(r"[!-~]{1,255}")
_URL_MAX = 500
_OFFERED_MAX = 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to. ``base``: what every path begins with, without a slash at its end."""

    host: str
    port: int
    base: str = ""

    @property
    def url(self) -> str:
        """Its one spelling."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}{'' if self.port == 443 else f':{self.port}'}{self.base}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that CONNECTs (RFC 9110 §9.3.6). ``authorization``: the header's value, or empty."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one host takes at most. Tokens and bytes over it wait; nothing is lost."""

    tokens_per_minute: int = 1200
    bytes_per_minute: int = 32 << 20
    inbox_files: int = 1000
    inbox_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Nats:
    """The NATS way. ``credentials``: a .creds file, or None where the client certificate speaks for the host."""

    servers: tuple[str, ...]
    bucket: str = "tidegate"
    credentials: Path | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole file. ``host_id`` is what the host is enrolled as.

    ``nats`` is None for https. With nats ``url`` is where certificates are renewed, or None.
    """

    transport: str = "https"
    url: Address | None = None
    proxy: Proxy | None = None
    host_id: str = ""
    nats: Nats | None = None
    limits: Limits = field(default_factory=Limits)


def load_settings(path: Path) -> Settings:
    """Read courier.yaml.

    Raises:
        ConfigError: all of :func:`agent.strictyaml.read_yaml` (``file_missing`` among them), :func:`agent.forms.current` and
            :class:`agent.settings.Section`;
            ``url_invalid``, ``proxy_invalid``, ``host_id_invalid``, ``nats_invalid``, ``limit_invalid``, ``unknown_value``.
    """
    node = current(read_yaml(path), COURIER)
    section = Section(node, optional=("transport", "url", "proxy", "host_id", "nats", "limits"))
    transport = section.optional("transport", _transport, "https")
    needed = "url" if transport == "https" else "nats"
    if section.member(needed) is None:
        raise node.error("missing_key", f"setting {needed!r} is missing: transport {transport} needs it")
    return Settings(
        transport=transport,
        url=section.optional("url", address, None),
        proxy=section.optional("proxy", proxy, None),
        host_id=section.optional("host_id", _host_id, ""),
        nats=_nats(section.member("nats")),
        limits=_limits(section.member("limits")),
    )


def address(value: object, key: str) -> Address:
    """``https://host[:port][/base]``, nothing else in it. Raises RefusedError ``url_invalid``."""
    what = "must be https://HOST[:PORT][/PATH], without user, query or fragment"
    if not isinstance(value, str) or not value.startswith("https://") or len(value) > _URL_MAX:
        raise RefusedError("url_invalid", what, field=key)
    host, port, path = _split(value, "url_invalid", key, what)
    if "@" in value or "?" in value or "#" in value or not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise RefusedError("url_invalid", what, field=key)
    return Address(host, port or 443, path.rstrip("/"))


def proxy(value: object, key: str) -> Proxy:
    """``http://[user:password@]host[:port]``. Raises RefusedError ``proxy_invalid``."""
    what = "must be http://[USER:PASSWORD@]HOST[:PORT]; the courier speaks CONNECT to it, and TLS through it"
    if not isinstance(value, str) or len(value) > _URL_MAX or not value.isascii() or not value.isprintable():
        raise RefusedError("proxy_invalid", what, field=key)
    text = value if "://" in value else f"http://{value}"  # https_proxy is often written so
    if not text.startswith("http://"):
        raise RefusedError("proxy_invalid", what, field=key)
    host, port, path = _split(text, "proxy_invalid", key, what)
    if path not in {"", "/"}:
        raise RefusedError("proxy_invalid", what, field=key)
    return Proxy(host, port or 80, _basic(text))


def _split(text: str, code: str, key: str, what: str) -> tuple[str, int | None, str]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise RefusedError(code, what, field=key) from error
    if not _HOST.fullmatch(host) or port == 0:
        raise RefusedError(code, what, field=key)
    return host, port, parts.path


def _basic(text: str) -> str:
    from base64 import b64encode  # noqa: PLC0415  # few hosts have a proxy that asks who they are
    from urllib.parse import unquote  # noqa: PLC0415

    parts = urlsplit(text)
    if parts.username is None:
        return ""
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return "Basic " + b64encode(pair.encode()).decode("ascii")


def _transport(value: object, key: str) -> str:
    if not isinstance(value, str) or value not in TRANSPORTS:
        raise RefusedError("unknown_value", f"must be {' or '.join(TRANSPORTS)}", field=key)
    return value


def _host_id(value: object, key: str) -> str:
    if not isinstance(value, str) or not _HOST_ID.fullmatch(value):
        raise RefusedError("host_id_invalid", "must be 1 to 255 printable ASCII characters without spaces", field=key)
    return value


def offered_nats(value: object) -> Nats:
    """What an enrolment's answer has as ``nats``: ``servers`` (1 to 16, ``tls://`` only) and ``bucket``, nothing else.

    Raises:
        RefusedError: ``nats_invalid``.
    """
    if not isinstance(value, dict) or not {"servers"} <= value.keys() <= {"servers", "bucket"}:
        raise RefusedError("nats_invalid", "must have servers and bucket, and nothing else", field="nats")
    servers = value["servers"]
    if not isinstance(servers, list) or not 1 <= len(servers) <= _OFFERED_MAX:
        raise RefusedError("nats_invalid", f"must be a list of 1 to {_OFFERED_MAX} servers", field="nats.servers")
    found = tuple(_server(server, "nats.servers") for server in servers)
    if not all(server.startswith("tls://") for server in found):  # nobody who answers may talk a host out of encryption
        raise RefusedError("nats_invalid", "must be tls://HOST[:PORT]", field="nats.servers")
    return Nats(found, _bucket(value.get("bucket", "tidegate"), "nats.bucket"))


def on_loopback(host: str) -> bool:
    """Whether a server of that name or address is on this very machine, so that ``nats://``, unencrypted, may do."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nats(node: Node | None) -> Nats | None:
    if node is None:
        return None
    section = Section(node, required=("servers",), optional=("bucket", "credentials"))
    return Nats(
        servers=section.many("servers", _server),
        bucket=section.optional("bucket", _bucket, "tidegate"),
        credentials=section.optional("credentials", _file, None),
    )


def _server(value: object, key: str) -> str:
    if not isinstance(value, str) or not SERVER.fullmatch(value):
        raise RefusedError("nats_invalid", "must be tls://HOST[:PORT], or nats:// on loopback", field=key)
    return value


def _bucket(value: object, key: str) -> str:
    if not isinstance(value, str) or not BUCKET.fullmatch(value):
        raise RefusedError("nats_invalid", "must be a bucket's name of A-Z a-z 0-9 _ -, at most 64", field=key)
    return value


def _file(value: object, key: str) -> Path | None:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise RefusedError("nats_invalid", "must be an absolute path", field=key)
    return Path(value)


def _limits(node: Node | None) -> Limits:
    if node is None:
        return Limits()
    names = ("tokens_per_minute", "bytes_per_minute", "inbox_files", "inbox_bytes")
    section = Section(node, optional=names)
    base = Limits()
    return Limits(*(section.optional(name, _limit, getattr(base, name)) for name in names))


def _limit(value: object, key: str) -> int:
    least = 256 * 1024 if key.rpartition(".")[2].startswith(("bytes", "inbox_b")) else 10
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 1 << 40:
        raise RefusedError("limit_invalid", f"must be a whole number from {least} to 2^40", field=key)
    return value
