"""The configuration file as frozen values; anything unknown in it refuses the start, with its line (agent.settings)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import RefusedError
from agent.model import fields
from agent.settings import Section, duration, members
from agent.strictyaml import Node, read_yaml
from examples.control_plane.config.fleet import Nats, read_nats
from examples.control_plane.config.outside import Outside, read_outside
from examples.control_plane.config.policy import Policy, read_policy

_DAY = 86400
_KEYS = ("templates", "rules", "people", "tickets", "break_glass_hooks", "siem", "lapse_after", "certificate_life", "bulletins")
_MORE = ("ssh_certificates", "caps", "keep_events", "nats")


@dataclass(frozen=True, slots=True)
class Listener:
    """Where one API is served. ``url``: how others reach it. ``certificate`` and ``key``: PEM files; without them our own CA's."""

    address: str
    port: int
    url: str
    certificate: Path | None = None
    key: Path | None = None

    @property
    def host(self) -> str:
        """The name in the URL, which the certificate must have."""
        return urlsplit(self.url).hostname or "localhost"


@dataclass(frozen=True, slots=True)
class Caps:
    """What one host, and all together, may cost. Bytes and counts."""

    record_bytes: int = 256 << 20  # answers and receipts of one host that are kept
    recording_bytes: int = 4 << 30  # recordings of one host
    events_kept: int = 1_000_000
    followers: int = 16  # of live sessions
    event_bytes_an_hour: int = 64 << 20  # of one host; it keeps the rest, and tells what it had to drop
    waiting: int = 20  # requests of one person that wait


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything. Lengths of time are seconds."""

    issuer: str
    people_listener: Listener
    hosts_listener: Listener
    policy: Policy
    outside: Outside
    people: Node | None
    lapse_after_s: int = 3600
    certificate_life_s: int = 7 * _DAY
    bulletin_every_s: int = 60
    bulletin_life_s: int = 600
    ssh_certificates: bool = True
    keep_events_s: int = 90 * _DAY
    caps: Caps = Caps()
    nats: Nats | None = None


def load(path: Path) -> Settings:
    """Read and check the file.

    Raises:
        ConfigError: names file, line and key.
    """
    section = Section(read_yaml(path), required=("issuer", "people_listener", "hosts_listener"), optional=(*_KEYS, *_MORE))
    bulletins = _sub(section, "bulletins", ("every", "life"))
    return Settings(
        issuer=section.one("issuer", fields.text),
        people_listener=_listener(section, "people_listener"),
        hosts_listener=_listener(section, "hosts_listener"),
        policy=read_policy(section),
        outside=read_outside(section),
        people=section.member("people"),
        lapse_after_s=section.optional("lapse_after", duration, 3600),
        certificate_life_s=section.optional("certificate_life", duration, 7 * _DAY),
        bulletin_every_s=bulletins.optional("every", duration, 60) if bulletins else 60,
        bulletin_life_s=bulletins.optional("life", duration, 600) if bulletins else 600,
        ssh_certificates=section.optional("ssh_certificates", fields.boolean, True),
        keep_events_s=section.optional("keep_events", duration, 90 * _DAY),
        caps=_caps(section.member("caps")),
        nats=read_nats(section.member("nats")),
    )


def _listener(section: Section, key: str) -> Listener:
    node = section.member(key)
    assert node is not None  # noqa: S101  # Section has seen to it
    found = Section(node, required=("listen", "url"), optional=("certificate", "key"))
    address, port = found.one("listen", _address)
    files = [found.optional(name, fields.absolute_path, "") for name in ("certificate", "key")]
    if bool(files[0]) != bool(files[1]):
        raise node.error("listener_invalid", "certificate and key belong together")
    certificate, secret = (Path(name) if name else None for name in files)
    return Listener(address, port, found.one("url", https_url), certificate, secret)


def _address(value: object, field: str) -> tuple[str, int]:
    """``127.0.0.1:8443`` or ``[::1]:8443``; port 0 takes any that is free."""
    host, colon, port = fields.text(value, field).rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise RefusedError("address_invalid", "must be an address and a port, such as 127.0.0.1:8443", field=field)
    return host.strip("[]"), int(port)


def https_url(value: object, field: str) -> str:
    """An https URL with a host and without query, fragment or password."""
    found = fields.text(value, field)
    parts = urlsplit(found)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise RefusedError("url_invalid", "must be https://HOST[:PORT][/PATH]", field=field)
    return found.rstrip("/")


def _sub(section: Section, key: str, optional: tuple[str, ...]) -> Section | None:
    node = section.member(key)
    return None if node is None else Section(node, optional=optional)


def _caps(node: Node | None) -> Caps:
    if node is None:
        return Caps()
    known = Caps.__dataclass_fields__
    found = Section(node, optional=tuple(known))
    values: Mapping[str, int] = {name: found.one(name, fields.integer(1, 1 << 50)) for name, _ in members(node)}
    return Caps(**values)
