"""Making tokens: ``tidegate sign``, this host's receipts, and the tests. The inverse of :mod:`agent.trust.verify`."""

from collections.abc import Mapping, Sequence

from agent.trust import base64url, jwk, strictjson
from agent.trust.token import KID

Claims = bytes | Mapping[str, object]


def sign_compact(claims: Claims, typ: str, private_jwk: Mapping[str, object]) -> str:
    """Claims → compact JWS (RFC 7515 §7.1) under the key's kid. Bytes are signed as they are, a mapping in canonical JSON.

    Raises:
        ValueError: ``private_jwk`` is no private Ed25519 JWK with a kid.
        InvalidGrantError: a claim is no plain JSON value (``json_float``, ``json_not_plain``, ``json_lone_surrogate``).
    """
    payload = base64url.encode(_payload(claims))
    protected, signature = _signed(payload, typ, private_jwk)
    return f"{protected}.{payload}.{signature}"


def sign_general(claims: Claims, typ: str, private_jwks: Sequence[Mapping[str, object]]) -> str:
    """Claims → General JSON (RFC 7515 §7.2.1), one signature for each key over the one payload.

    Raises:
        ValueError, InvalidGrantError: as :func:`sign_compact`.
    """
    payload = base64url.encode(_payload(claims))
    pairs = [_signed(payload, typ, private_jwk) for private_jwk in private_jwks]
    signatures = [{"protected": protected, "signature": signature} for protected, signature in pairs]
    return strictjson.canonical({"payload": payload, "signatures": signatures}).decode("ascii")


def _payload(claims: Claims) -> bytes:
    return claims if isinstance(claims, bytes) else strictjson.canonical(claims)


def _signed(payload: str, typ: str, private_jwk: Mapping[str, object]) -> tuple[str, str]:
    kid = private_jwk.get("kid")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise ValueError(f"its kid must match {KID.pattern}")
    header = strictjson.canonical({"alg": "EdDSA", "typ": typ, "kid": kid})
    protected = base64url.encode(header)
    signature = jwk.private_key(private_jwk).sign(f"{protected}.{payload}".encode("ascii"))
    return protected, base64url.encode(signature)
