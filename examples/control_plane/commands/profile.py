"""What the commands remember in ``~/.config/tidegate``: which control plane, how it is known again, the session with it."""

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from agent.errors import ConfigError, RefusedError
from examples.control_plane.people.https import Https

_FILE_MAX = 64 * 1024
_SERVERS = "servers.json"
_EARLY_S = 30  # a session that ends so soon is not begun with


@dataclass(frozen=True, slots=True)
class Server:
    """A control plane: its address, and the file of the authority that vouches for it (None: the system's authorities)."""

    url: str
    ca_file: Path | None

    def https(self, bearer: str = "") -> Https:
        """How to reach it, as whoever's session the bearer is."""
        return Https(self.ca_file, headers={"Authorization": f"Bearer {bearer}"} if bearer else {})


@dataclass(frozen=True, slots=True)
class Profile:
    """The folder of it all."""

    folder: Path

    @classmethod
    def of_this_user(cls) -> "Profile":
        """``$XDG_CONFIG_HOME/tidegate``, else ``~/.config/tidegate``."""
        return cls(Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "tidegate")

    def server(self, url: str | None, ca_file: Path | None, fingerprint: str | None) -> Server:
        """The server to use; one that is named for the first time is remembered, and is the one when none is named.

        Raises:
            ConfigError: ``server_unnamed``, or the folder is somebody else's.
            RefusedError: ``ca_fingerprint_differs``, ``ca_changed``.
            ProviderError: it can't be asked for its authority.
        """
        known = self._read(_SERVERS)
        chosen = (url or str(known.get("default") or "")).rstrip("/")
        if not chosen:
            raise ConfigError("server_unnamed", "no control plane is known yet: name one with --url", path=self.folder / _SERVERS)
        kept = self.folder / f"ca-{_mark(chosen)}.pem"
        if fingerprint is not None:
            self._write(kept.name, fetch_authority(chosen, fingerprint))
        elif ca_file is not None:
            self._write(kept.name, ca_file.read_bytes()[:_FILE_MAX])
        if url is not None and known.get("default") != chosen:
            self._write(_SERVERS, json.dumps({"default": chosen}).encode())
        return Server(chosen, kept if kept.exists() else None)

    def session(self, server: Server) -> str:
        """The bearer of a session that is not over; empty when there is none."""
        found = self._read(_session_file(server))
        bearer, expires = found.get("session"), found.get("expires")
        alive = isinstance(expires, int) and expires > time.time() + _EARLY_S and found.get("url") == server.url
        return bearer if alive and isinstance(bearer, str) else ""

    def keep_session(self, server: Server, bearer: str, expires: int) -> None:
        """Remember a session; ``expires`` in seconds since the epoch."""
        self._write(_session_file(server), json.dumps({"url": server.url, "session": bearer, "expires": expires}).encode())

    def forget_session(self, server: Server) -> None:
        """Nothing is left of it here."""
        (self.folder / _session_file(server)).unlink(missing_ok=True)

    def _read(self, name: str) -> Mapping[str, object]:
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError("file_not_private", "is open to others: remove it, or `chmod 600` it if it is yours", path=path)
            data = file.read(_FILE_MAX)
        try:
            found = json.loads(data)
        except ValueError:
            return {}  # half written by something else: as if it were not there
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, data: bytes) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.geteuid():
            raise ConfigError("folder_not_yours", "belongs to somebody else", path=self.folder)
        part = self.folder / f".{name}.{secrets.token_hex(6)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
                file.write(data)
            part.replace(self.folder / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def fetch_authority(url: str, fingerprint: str) -> bytes:
    """A server's own TLS authority (PEM), known by the SHA-256 of its DER: whatever else answers there is not taken.

    Raises:
        RefusedError: ``ca_fingerprint_differs``.
        ProviderError: it can't be asked.
    """
    answer = Https(unverified=True).get(f"{url}/v1/ca")
    wanted = fingerprint.lower().removeprefix("sha256:").replace(":", "")
    try:
        certificate = x509.load_pem_x509_certificate(answer.body)
    except ValueError as error:
        raise RefusedError("ca_fingerprint_differs", f"{url} gave no certificate of an authority") from error
    found = certificate.fingerprint(hashes.SHA256()).hex()
    if answer.status != 200 or found != wanted:
        why = f"{url} has another authority ({found}): compare with the admin; somebody may be in between"
        raise RefusedError("ca_fingerprint_differs", why)
    return certificate.public_bytes(serialization.Encoding.PEM)


def _mark(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]


def _session_file(server: Server) -> str:
    return f"session-{_mark(server.url)}.json"
