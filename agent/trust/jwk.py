"""One Ed25519 key as a JSON Web Key (RFC 7517; OKP of RFC 8037) and its thumbprint (RFC 7638).

Errors here are ValueError with one line for a person: whoever read the key knows the file it stood in, and says so.
"""

import hashlib
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.trust import base64url, strictjson

KEY_BYTES = 32

# Points of order 1, 2, 4 and 8 (sign bit cleared), in every encoding: under such a "key" anybody's signature verifies.
_SMALL_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


def raw_public(key: Ed25519PublicKey) -> bytes:
    """The key's 32 bytes (RFC 8032 §5.1.5)."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def thumbprint(key: Ed25519PublicKey) -> str:
    """RFC 7638 SHA-256 thumbprint, base64url, over the required members of an OKP key (RFC 8037 §2)."""
    required = {"crv": "Ed25519", "kty": "OKP", "x": base64url.encode(raw_public(key))}
    return base64url.encode(hashlib.sha256(strictjson.canonical(required)).digest())


def public_key(jwk: Mapping[str, object]) -> Ed25519PublicKey:
    """The public key of a JWK. Raises ValueError when it is none, or a point that vouches for everything."""
    if jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519":
        raise ValueError("must have kty OKP and crv Ed25519 (RFC 8037)")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("its use must be sig")
    if jwk.get("alg", "EdDSA") not in ("EdDSA", "Ed25519"):
        raise ValueError("its alg must be EdDSA or Ed25519")
    raw = _key_bytes(jwk, "x")
    if raw[:-1] + bytes([raw[-1] & 0x7F]) in _SMALL_ORDER:
        raise ValueError("is a point of small order: anybody's signature would verify")
    return Ed25519PublicKey.from_public_bytes(raw)


def private_key(jwk: Mapping[str, object]) -> Ed25519PrivateKey:
    """The private key of a JWK. Raises ValueError when it is none, or its public half is another key's."""
    public = public_key(jwk)
    private = Ed25519PrivateKey.from_private_bytes(_key_bytes(jwk, "d"))
    if raw_public(private.public_key()) != raw_public(public):
        raise ValueError("its x is not the public key of its d")
    return private


def to_private_jwk(key: Ed25519PrivateKey, kid: str) -> dict[str, object]:
    """A private JWK. Holds the secret: never log it."""
    secret = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return {**_public_members(key.public_key(), kid), "d": base64url.encode(secret)}


def to_public_jwk(key: Ed25519PublicKey, kid: str, issuers: Sequence[str], approver: str | None = None) -> dict[str, object]:
    """A public JWK with the members that a trust.d file needs."""
    jwk = {**_public_members(key, kid), "issuers": list(issuers)}
    return jwk if approver is None else {**jwk, "approver": approver}


def _public_members(key: Ed25519PublicKey, kid: str) -> dict[str, object]:
    return {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(raw_public(key)), "kid": kid, "use": "sig", "alg": "EdDSA"}


def _key_bytes(jwk: Mapping[str, object], name: str) -> bytes:
    text = jwk.get(name)
    raw = base64url.decode(text) if isinstance(text, str) else None
    if raw is None or len(raw) != KEY_BYTES:
        raise ValueError(f"its {name} must be {KEY_BYTES} bytes in canonical base64url")
    return raw
