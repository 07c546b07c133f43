"""Private keys: this host's own, which signs its receipts, and those that ``tidegate keygen`` makes."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import ConfigError, RefusedError
from agent.model import fields
from agent.trust import files, jwk, sign, strictjson
from agent.trust.token import KID


def generate_key(kid: str, issuers: Sequence[str], approver: str | None = None) -> tuple[dict[str, object], dict[str, object]]:
    """A new Ed25519 key: (private JWK, public JWK for a trust.d file).

    Raises:
        ValueError: the kid is none, no issuer is given, or an issuer or the approver is no printable text: no host would load it.
    """
    if not KID.fullmatch(kid):
        raise ValueError(f"the kid must match {KID.pattern}")
    if not issuers:
        raise ValueError("a key needs an issuer that it may speak for")
    try:
        for name in (*issuers, *([] if approver is None else [approver])):
            fields.text(name, repr(name))
    except RefusedError as caught:
        raise ValueError(f"{caught.field}: {caught.reason}") from caught
    key = Ed25519PrivateKey.generate()
    return jwk.to_private_jwk(key, kid), jwk.to_public_jwk(key.public_key(), kid, issuers, approver)


def write_private_jwk(path: Path, private_jwk: Mapping[str, object]) -> None:
    """Create the file, mode 0600, never over another.

    Raises:
        FileExistsError: something is there.
        ConfigError: ``key_file_unwritable``.
    """
    files.write_secret(path, strictjson.canonical(private_jwk) + b"\n")


def read_private_jwk(path: Path) -> dict[str, object]:
    """A private JWK, checked. The file must be regular and nobody else's to read.

    Raises:
        ConfigError: ``key_invalid``, ``key_kid``, those of :func:`agent.trust.files.read_key_file`, and the ``json_`` codes.
    """
    data = files.read_key_file(path, secret=True)
    try:
        found = strictjson.parse_object(data)
        jwk.private_key(found)
    except RefusedError as caught:
        raise ConfigError(caught.code, caught.reason, path=path) from caught
    except ValueError as caught:
        raise ConfigError("key_invalid", str(caught), path=path) from caught
    kid = found.get("kid")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise ConfigError("key_kid", f"its kid must match {KID.pattern}", path=path)
    return found


def default_host_id(thumbprint: str) -> str:
    """The audience of a host whose configuration names none: bound to its key, so that no two hosts share one."""
    return f"urn:tidegate:{thumbprint}"


@dataclass(frozen=True, slots=True)
class HostKey:
    """This host's Ed25519 key. Its kid is its thumbprint."""

    private_jwk: Mapping[str, object] = field(repr=False)
    thumbprint: str

    @classmethod
    def load(cls, path: Path) -> "HostKey":
        """Read the key.

        Raises:
            ConfigError: as :func:`read_private_jwk`; ``key_file_missing`` when there is none.
        """
        private_jwk = read_private_jwk(path)
        return cls(private_jwk, jwk.thumbprint(jwk.public_key(private_jwk)))

    @classmethod
    def load_or_create(cls, path: Path) -> "HostKey":
        """Read the key, or make one where there is none. A damaged one is never replaced: the host's id would change.

        Raises:
            ConfigError: as :meth:`load`, or ``key_file_unwritable``.
        """
        try:
            return cls.load(path)
        except ConfigError as caught:
            if caught.code != "key_file_missing":
                raise
        key = Ed25519PrivateKey.generate()
        with contextlib.suppress(FileExistsError):  # another process was first, and its key is the host's
            write_private_jwk(path, jwk.to_private_jwk(key, jwk.thumbprint(key.public_key())))
        return cls.load(path)

    @classmethod
    def unsaved(cls) -> "HostKey":
        """A key that nobody knows and that is gone with the process: what it signs proves nothing."""
        key = Ed25519PrivateKey.generate()
        thumbprint = jwk.thumbprint(key.public_key())
        return cls(jwk.to_private_jwk(key, thumbprint), thumbprint)

    @property
    def host_id(self) -> str:
        """What grants for this host name as audience when its configuration names nothing else."""
        return default_host_id(self.thumbprint)

    def public_jwk(self, host_id: str | None = None) -> dict[str, object]:
        """The public half, which may speak for this host: a JWK Set of it verifies the host's receipts."""
        return jwk.to_public_jwk(jwk.public_key(self.private_jwk), self.thumbprint, [host_id or self.host_id])

    def sign(self, typ: str, claims: Mapping[str, object]) -> str:
        """Claims → compact JWS by this host, such as a receipt.

        Raises:
            InvalidGrantError: a claim is no plain JSON value, as :func:`agent.trust.sign.sign_compact`.
        """
        return sign.sign_compact(claims, typ, self.private_jwk)
