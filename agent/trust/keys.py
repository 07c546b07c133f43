"""The keys this host trusts: trust.d/*.jwks, each a JWK Set (RFC 7517 §5) whose keys say for which issuers they may speak.

Here a key ring is built as a whole or not at all: one bad file raises. What stays in force then, :mod:`agent.trust.store` says.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.errors import ConfigError, InvalidGrantError, RefusedError
from agent.model import Signer, fields
from agent.trust import files, jwk, strictjson
from agent.trust.token import KID

FILES_MAX = 256
KEYS_MAX = 1024  # of one file
ISSUERS_MAX = 64
_REQUIRED = frozenset({"kty", "crv", "x", "kid", "issuers"})
_OPTIONAL = frozenset({"use", "alg", "approver"})


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key, the issuers it may speak for, and the person it approves as, if any."""

    kid: str
    public_key: Ed25519PublicKey = field(repr=False, compare=False)  # the thumbprint stands for it
    thumbprint: str
    issuers: tuple[str, ...]
    approver: str | None = None

    def signer(self) -> Signer:
        """The same without the key, as it goes into a verified token."""
        return Signer(self.kid, self.thumbprint, self.issuers, self.approver)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """kid → key, fixed once made. No two kids stand for one key."""

    keys: Mapping[str, TrustedKey]

    def get(self, kid: str) -> TrustedKey | None:
        """The key of that kid, None when this host trusts none."""
        return self.keys.get(kid)

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[TrustedKey]:
        return iter(self.keys.values())


def load_keyring(folder: Path) -> KeyRing:
    """All :func:`key_files` of the folder in one ring. No file is an empty ring: nobody is trusted.

    Raises:
        ConfigError: names file and key: all of :func:`key_files` and :func:`read_jwks`.
    """
    return _ring((path, key) for path in key_files(folder) for key in _read(path, guarded=True))


def key_files(folder: Path) -> list[Path]:
    """All ``*.jwks`` of the folder by name; names with a leading dot are an editor's.

    Raises:
        ConfigError: ``trust_folder``, ``trust_too_many_files``, ``key_file_owner``, ``key_file_mode``.
    """
    try:
        status = folder.stat()
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".jwks" and entry.name[0] != ".")
    except OSError as caught:
        raise ConfigError("trust_folder", f"can't be read: {os.strerror(caught.errno or 0)}", path=folder) from caught
    files.check_guard(folder, status)
    if len(names) > FILES_MAX:
        raise ConfigError("trust_too_many_files", f"holds more than {FILES_MAX} JWK Sets", path=folder)
    return [folder / name for name in names]


def read_jwks(path: Path, *, guarded: bool = True) -> KeyRing:
    """One JWK Set file. ``guarded`` False skips the checks of owner and mode (a file named on the command line).

    Raises:
        ConfigError: names file and key. ``jwks_invalid`` (no set of keys), ``key_private`` (a private key lies where only public
            ones belong), ``key_invalid`` (no Ed25519 key as JWK, or an unknown member), ``key_kid``, ``key_issuers``,
            ``key_approver``, ``key_kid_twice``, ``key_twice`` (one key under two kids), those of
            :func:`agent.trust.files.read_key_file`, and the ``json_`` codes of :mod:`agent.trust.strictjson`.
    """
    return _ring((path, key) for key in _read(path, guarded=guarded))


def keyring(jwk_set: Mapping[str, object], path: Path = Path("-")) -> KeyRing:
    """The same from a parsed JWK Set; ``path`` is only for errors.

    Raises:
        ConfigError: as :func:`read_jwks`.
    """
    return _ring((path, key) for key in _keys(jwk_set, path))


def _read(path: Path, *, guarded: bool) -> Iterator[TrustedKey]:
    data = files.read_key_file(path, guarded=guarded)
    try:
        jwk_set = strictjson.parse_object(data)
    except RefusedError as caught:
        raise ConfigError(caught.code, caught.reason, path=path) from caught
    return _keys(jwk_set, path)


def _keys(jwk_set: Mapping[str, object], path: Path) -> Iterator[TrustedKey]:
    found = jwk_set.get("keys")
    if jwk_set.keys() != {"keys"} or not isinstance(found, list) or len(found) > KEYS_MAX:
        raise ConfigError("jwks_invalid", f'must be {{"keys": [...]}} with at most {KEYS_MAX} keys', path=path)
    return (_key(entry, path, f"keys[{index}]") for index, entry in enumerate(found))


def _key(entry: object, path: Path, where: str) -> TrustedKey:
    if not isinstance(entry, dict):
        raise ConfigError("key_invalid", "must be an object", path=path, key=where)
    kid = entry.get("kid")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise ConfigError("key_kid", f"its kid must match {KID.pattern}", path=path, key=where)
    where = f"{where} ({kid})"
    if "d" in entry:
        raise ConfigError("key_private", "has the private member d: the secret is out, make a new key", path=path, key=where)
    odd = sorted((_REQUIRED - entry.keys()) | (entry.keys() - _REQUIRED - _OPTIONAL))
    if odd:
        raise ConfigError("key_invalid", f"unknown or missing member: {odd[0][:40]!r}", path=path, key=where)
    try:
        public = jwk.public_key(entry)
    except ValueError as caught:
        raise ConfigError("key_invalid", str(caught), path=path, key=where) from caught
    return TrustedKey(kid, public, jwk.thumbprint(public), _issuers(entry, path, where), _approver(entry, path, where))


def _issuers(entry: Mapping[str, object], path: Path, where: str) -> tuple[str, ...]:
    issuers = entry["issuers"]
    if not isinstance(issuers, list) or not 1 <= len(issuers) <= ISSUERS_MAX:
        raise ConfigError("key_issuers", f"its issuers must be a list of 1 to {ISSUERS_MAX}", path=path, key=where)
    try:
        return tuple(fields.text(issuer, f"issuers[{index}]") for index, issuer in enumerate(issuers))
    except InvalidGrantError as caught:
        raise ConfigError("key_issuers", f"{caught.field} {caught.reason}", path=path, key=where) from caught


def _approver(entry: Mapping[str, object], path: Path, where: str) -> str | None:
    if "approver" not in entry:
        return None
    try:
        return fields.text(entry["approver"], "approver")
    except InvalidGrantError as caught:
        raise ConfigError("key_approver", f"its approver {caught.reason}", path=path, key=where) from caught


def _ring(found: Iterable[tuple[Path, TrustedKey]]) -> KeyRing:
    keys: dict[str, TrustedKey] = {}
    owners: dict[str, str] = {}
    for path, key in found:
        if key.kid in keys:
            raise ConfigError("key_kid_twice", "another key has the same kid", path=path, key=key.kid)
        if key.thumbprint in owners:
            raise ConfigError("key_twice", f"is the same key as {owners[key.thumbprint]}", path=path, key=key.kid)
        keys[key.kid] = key
        owners[key.thumbprint] = key.kid
    return KeyRing(MappingProxyType(keys))
