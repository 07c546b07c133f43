"""An OpenID provider's metadata and its public keys, fetched when needed, kept for a while, never asked for too often.

A token names its key by a kid that anybody can make up, so an unknown one makes us ask again at most every
:data:`AGAIN_S`. Keys that the provider takes back stop counting when they are fetched anew, after :data:`FRESH_S`; while the
provider can't be asked they go on for :data:`STALE_S`, and then nobody is let in.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.errors import TidegateError
from examples.control_plane.people.errors import LoginRefusedError, ProviderError
from examples.control_plane.people.https import Https, strict_object

log = logging.getLogger(__name__)

FRESH_S = 600.0
STALE_S = 6 * 3600.0
AGAIN_S = 20.0
KEYS_MAX = 64
RSA_BITS_MIN = 2048

# RFC 7518 and RFC 8037. Asymmetric only: with an HMAC whoever can read the public key could sign.
TYPES = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "EdDSA": "OKP",
}  # fmt: skip
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class Metadata:
    """What of OpenID Connect Discovery 1.0 is used. ``device`` is empty where the provider has no device flow (RFC 8628)."""

    issuer: str
    authorization: str
    token: str
    jwks: str
    device: str = ""
    says_issuer: bool = False  # in its redirects (RFC 9207)


def discover(issuer: str, https: Https) -> Metadata:
    """The provider's own document, fetched from below ``issuer``.

    Raises:
        ProviderError: ``provider_metadata`` (it speaks for another issuer, or something is missing or not https), and as Https.get.
    """
    answer = https.get(issuer.rstrip("/") + "/.well-known/openid-configuration")
    if answer.status != 200:
        raise ProviderError("provider_metadata", f"{issuer} answered {answer.status} when asked for its OpenID configuration")
    found = strict_object(answer.body, "the OpenID configuration")
    if found.get("issuer") != issuer:
        raise ProviderError("provider_metadata", f"{issuer} speaks for another issuer: {str(found.get('issuer'))[:200]!a}")
    return Metadata(
        issuer=issuer,
        authorization=_endpoint(found, "authorization_endpoint"),
        token=_endpoint(found, "token_endpoint"),
        jwks=_endpoint(found, "jwks_uri"),
        device=_endpoint(found, "device_authorization_endpoint", needed=False),
        says_issuer=found.get("authorization_response_iss_parameter_supported") is True,
    )


def _endpoint(found: Mapping[str, object], name: str, *, needed: bool = True) -> str:
    value = found.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or not value.startswith("https://"):
        raise ProviderError("provider_metadata", f"the OpenID configuration's {name} is no https address")
    return value


@dataclass(frozen=True, slots=True)
class Keys:
    """The usable keys of one JWK Set (RFC 7517) by kid. A kid that two usable keys share names none."""

    by_kid: Mapping[str, tuple[Mapping[str, object], ...]]
    fetched: float

    def one(self, kid: str | None, alg: str) -> PublicKey | None:
        """The key for a token's header. A token that names none is taken only where one key alone could have signed it."""
        named = self.by_kid.get(kid, ()) if kid is not None else tuple(key for same in self.by_kid.values() for key in same)
        fitting = [key for key in named if key["kty"] == TYPES[alg] and key.get("alg", alg) == alg]
        return _public(fitting[0], alg) if len(fitting) == 1 else None


def usable(document: Mapping[str, object], now: float) -> Keys:
    """A JWK Set's signing keys. Symmetric, private and encryption keys are left out.

    Raises:
        ProviderError: ``provider_keys``: no JWK Set, or more than 64 keys.
    """
    listed = document.get("keys")
    if not isinstance(listed, list) or len(listed) > KEYS_MAX:
        raise ProviderError("provider_keys", f"the provider's key set is no list of at most {KEYS_MAX} keys")
    found: dict[str, tuple[Mapping[str, object], ...]] = {}
    for key in listed:
        if not isinstance(key, dict) or key.get("kty") not in {"RSA", "EC", "OKP"} or "d" in key:
            continue
        kid = key.get("kid", "")
        if key.get("use", "sig") == "sig" and isinstance(kid, str):
            found[kid] = (*found.get(kid, ()), key)
    return Keys(found, now)


def _public(key: Mapping[str, object], alg: str) -> PublicKey | None:
    try:
        found = jwt.PyJWK.from_dict(dict(key), algorithm=alg).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(found, rsa.RSAPublicKey):
        return found if found.key_size >= RSA_BITS_MIN else None
    if isinstance(found, ec.EllipticCurvePublicKey):
        return found if isinstance(found.curve, _CURVES[alg]) else None
    return found if isinstance(found, ed25519.Ed25519PublicKey) else None


@dataclass(slots=True)
class KeySource:
    """One provider's keys over time. Safe to use from any thread; ``now`` is seconds on a clock that only goes forward."""

    issuer: str
    https: Https
    _keys: Keys | None = None
    _tried: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def key(self, kid: str | None, alg: str, now: float) -> PublicKey:
        """The public key that a token's header names.

        Raises:
            LoginRefusedError: ``id_token_key_unknown``.
            ProviderError: the keys can't be had, and those of before are too old.
        """
        keys = self._keys
        found = keys.one(kid, alg) if keys is not None and now - keys.fetched < FRESH_S else None
        if found is None:
            found = self._refreshed(now).one(kid, alg)
        if found is None:
            raise LoginRefusedError("id_token_key_unknown", "no key that its issuer publishes now could have signed it")
        return found

    def _refreshed(self, now: float) -> Keys:
        with self._lock:
            if now - self._tried >= AGAIN_S:
                self._tried = now
                try:
                    self._keys = self._fetch(now)
                except TidegateError as error:
                    if self._keys is None:
                        raise
                    log.warning("the keys of %s can't be fetched: %s", self.issuer, error)
            if self._keys is None or now - self._keys.fetched >= STALE_S:
                raise ProviderError("provider_unreachable", f"the keys of {self.issuer} can't be fetched; try again in a minute")
            return self._keys

    def _fetch(self, now: float) -> Keys:
        answer = self.https.get(discover(self.issuer, self.https).jwks)
        if answer.status != 200:
            raise ProviderError("provider_keys", f"{self.issuer} answered {answer.status} when asked for its keys")
        return usable(strict_object(answer.body, "the key set"), now)
