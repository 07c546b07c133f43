"""The sections that name other systems: the ticket check, hooks for break-glass, the SIEM. URLs come from here alone."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agent.errors import RefusedError
from agent.model import fields
from agent.settings import Section, duration, elements
from agent.strictyaml import Node


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where JSON is posted to, signed by HMAC-SHA-256 under the secret in ``secret_file``."""

    url: str
    secret_file: Path
    timeout_s: int = 5
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Syslog:
    """A syslog server: RFC 5424 over TCP, octet counting (RFC 6587), with TLS (RFC 5425) unless ``tls`` is false."""

    host: str
    port: int
    tls: bool = True
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class HttpSink:
    """A collector that takes a JSON array of OCSF events. ``token_file``: what goes into ``Authorization: Bearer``."""

    url: str
    token_file: Path | None = None
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """All of them; None or empty where the file names none."""

    tickets: Webhook | None = None
    hooks: tuple[Webhook, ...] = ()
    syslog: Syslog | None = None
    http: HttpSink | None = None


def read_outside(section: Section) -> Outside:
    """Raises ConfigError, as :class:`agent.settings.Section`."""
    tickets, hooks, siem = section.member("tickets"), section.member("break_glass_hooks"), section.member("siem")
    sinks = Section(siem, optional=("syslog", "http")) if siem is not None else None
    syslog, http = (sinks.member("syslog"), sinks.member("http")) if sinks else (None, None)
    return Outside(
        _webhook(tickets) if tickets is not None else None,
        tuple(_webhook(node) for node in elements(hooks)) if hooks is not None else (),
        _syslog(syslog) if syslog is not None else None,
        _http(http) if http is not None else None,
    )


def _webhook(node: Node) -> Webhook:
    found = Section(node, required=("url", "secret_file"), optional=("timeout", "ca"))
    return Webhook(
        found.one("url", outside_url),
        Path(found.one("secret_file", fields.absolute_path)),
        found.optional("timeout", duration, 5),
        _path(found, "ca"),
    )


def _syslog(node: Node) -> Syslog:
    found = Section(node, required=("host", "port"), optional=("tls", "ca"))
    return Syslog(
        found.one("host", fields.text),
        found.one("port", fields.integer(1, 65535)),
        found.optional("tls", fields.boolean, True),
        _path(found, "ca"),
    )


def _http(node: Node) -> HttpSink:
    found = Section(node, required=("url",), optional=("token_file", "ca"))
    return HttpSink(found.one("url", outside_url), _path(found, "token_file"), _path(found, "ca"))


def _path(section: Section, key: str) -> Path | None:
    found = section.optional(key, fields.absolute_path, "")
    return Path(found) if found else None


def outside_url(value: object, field: str) -> str:
    """https, or http to this very machine (for trying out)."""
    found = fields.text(value, field)
    parts = urlsplit(found)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.username or not (parts.scheme == "https" or (parts.scheme == "http" and local)):
        raise RefusedError("url_invalid", "must be https://..., or http:// to localhost", field=field)
    return found
