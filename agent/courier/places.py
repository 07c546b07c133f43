"""Where the courier's files are, and how a host is named in certificates, URLs and subjects."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from agent.config import Paths
from agent.host.courier import status_file

HOST_URI = "urn:tidegate:host:"  # then the host token


@dataclass(frozen=True, slots=True)
class Places:
    """Every path that the courier reads or writes. ``folder`` is its own."""

    settings: Path
    folder: Path
    inbox: Path
    outbox: Path
    sessions: Path
    status: Path

    @classmethod
    def of(cls, paths: Paths) -> "Places":
        """From the host's configuration."""
        return cls(
            settings=paths.courier_config,
            folder=paths.courier,
            inbox=paths.inbox,
            outbox=paths.outbox,
            sessions=paths.sessions,
            status=status_file(paths),
        )

    @property
    def key(self) -> Path:
        """The client key, PEM (PKCS#8)."""
        return self.folder / "client.key"

    @property
    def certificate(self) -> Path:
        """The client certificate and its chain, PEM."""
        return self.folder / "client.pem"

    @property
    def ca(self) -> Path:
        """Whom the courier believes to be the control plane: PEM."""
        return self.folder / "ca.pem"

    @property
    def shipped(self) -> Path:
        """One empty file for each recording that was carried whole."""
        return self.folder / "shipped"


def host_token(host_id: str) -> str:
    """43 characters that name a host where its id can't stand: base64url, unpadded, of the id's SHA-256."""
    return base64.urlsafe_b64encode(hashlib.sha256(host_id.encode()).digest()).rstrip(b"=").decode("ascii")


def host_uri(host_id: str) -> str:
    """The one SAN URI of the host's client certificate."""
    return HOST_URI + host_token(host_id)
