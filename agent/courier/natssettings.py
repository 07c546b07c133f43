"""Which broker, and as whom: the value a NATS transport is made of, and the files it names."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from agent.courier.natswire import Credentials, parse_credentials
from agent.courier.places import HOST_URI, Places, host_token
from agent.courier.settings import Settings, on_loopback
from agent.errors import ConfigError, CourierError, HostError
from agent.host.files import read_bounded

_FILE_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class NatsSettings:
    """Where the broker is and who this host is. Give a client certificate, a credentials file, or both.

    ``servers`` are ``tls://host:port``; ``nats://`` (no encryption) is for loopback only. ``token`` is the host token.
    """

    servers: tuple[str, ...]
    token: str
    bucket: str = "tidegate"
    credentials: Path | None = None
    ca: Path | None = None  # PEM; the system's if None
    certificate: Path | None = None
    key: Path | None = None
    bytes_per_minute: int = 32 << 20  # read from the network; what is more waits
    resync_s: float = 300.0  # how often the index is looked at while all seems well, half to one and a half times


def of(settings: Settings, places: Places) -> NatsSettings:
    """What courier.yaml and the enrolment's files say. The host is the one of ``host_id``, else the one of its certificate.

    Raises:
        ConfigError: ``missing_key``: there is no section ``nats``, or neither ``host_id`` nor a certificate.
    """
    if settings.nats is None:
        raise ConfigError("missing_key", "setting 'nats' is missing", path=places.settings)
    enrolled = places.certificate.exists()
    token = host_token(settings.host_id) if settings.host_id else _certified(places.certificate) if enrolled else ""
    if not token:
        raise ConfigError("missing_key", "setting 'host_id' is missing, and no certificate names this host", path=places.settings)
    return NatsSettings(
        servers=settings.nats.servers,
        token=token,
        bucket=settings.nats.bucket,
        credentials=settings.nats.credentials,
        ca=places.ca if places.ca.exists() else None,
        certificate=places.certificate if enrolled else None,
        key=places.key if enrolled else None,
        bytes_per_minute=settings.limits.bytes_per_minute,
    )


def _certified(path: Path) -> str:
    """The host token in a client certificate; empty where there is none."""
    try:
        certificate = x509.load_pem_x509_certificate(read_bounded(path, _FILE_MAX) or b"")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, HostError, x509.ExtensionNotFound):
        return ""
    found = [name for name in names.get_values_for_type(x509.UniformResourceIdentifier) if name.startswith(HOST_URI)]
    return found[0].removeprefix(HOST_URI) if len(found) == 1 else ""


def tls(settings: NatsSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or later for all servers; None if all are on loopback and unencrypted."""
    if not settings.servers:
        raise CourierError("nats_server", "no server is named")
    plain = [urlsplit(server) for server in settings.servers if not server.startswith("tls://")]
    for server in plain:
        if server.scheme != "nats" or not on_loopback(server.hostname or ""):
            raise CourierError("nats_server", f"{server.geturl()[:200]!r} is neither tls:// nor nats:// on loopback")
    if plain and len(plain) < len(settings.servers):
        raise CourierError("nats_server", "either all servers are tls:// or none is")
    if plain:
        return None
    try:
        context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate:
            context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise CourierError("courier_tls", f"the certificate files can't be used: {error}") from error
    return context


def credentials(path: Path | None) -> Credentials | None:
    if path is None:
        return None
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return parse_credentials(file.read(64 * 1024))
    except OSError as error:
        raise CourierError("nats_credentials", f"the credentials file can't be read: {error}") from error
