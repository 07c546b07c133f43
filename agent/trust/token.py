"""The pre-parser: bytes → the parts of a JWS, before any cryptography and before the payload is looked at.

Compact (RFC 7515 §7.1) or General JSON (§7.2.1) serialization. One spelling only, one small header only: everything
that could make a verifier choose an algorithm or a key by what the token says is refused before there is a choice.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass

from agent.errors import UntrustedError
from agent.trust import base64url, strictjson

TYP_GRANT = "access-grant+jwt"
TYP_EVENT = "secevent+jwt"
TYP_BULLETIN = "host-bulletin+jwt"
TYP_RECEIPT = "teardown-receipt+jwt"
INCOMING_TYPES = frozenset({TYP_GRANT, TYP_EVENT, TYP_BULLETIN})

PAYLOAD_MAX = 32 * 1024  # decoded bytes
HEADER_MAX = 512  # decoded bytes; the longest legal one has about 200
SIGNATURES_MAX = 8
SIGNATURE_BYTES = 64  # RFC 8032 §5.1.6
ALGORITHMS = frozenset({"EdDSA", "Ed25519"})  # RFC 8037; renamed by RFC 9864
KID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HEADER = frozenset({"alg", "typ", "kid"})
_COMPACT_PARTS = 3
_ENVELOPE_MAX = 8 * 1024  # all that is not payload: 8 headers and signatures, and some white space
_DEPTH_MAX = 4  # {"signatures":[{...}]} is 3


@dataclass(frozen=True, slots=True)
class SignaturePart:
    """One signature that the token carries, not yet verified. ``signing_input`` is what it must be over (RFC 7515 §5.2)."""

    kid: str
    typ: str
    signing_input: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class TokenParts:
    """A well-formed token, nothing of it verified. ``digest``: hex SHA-256 of the bytes as they came."""

    typ: str
    payload: bytes
    signatures: tuple[SignaturePart, ...]
    digest: str


def token_max(payload_max: int = PAYLOAD_MAX) -> int:
    """Bytes of the longest token text that may be read, for a payload of that many (so read one more, never all)."""
    return (payload_max * 4 + 2) // 3 + _ENVELOPE_MAX


def split(token: bytes, *, typ: Collection[str], payload_max: int = PAYLOAD_MAX) -> TokenParts:
    """Bytes → parts. ``typ`` is what the caller takes; every signature's header must name the same one.

    Raises:
        UntrustedError: ``token_too_long``, ``token_not_ascii``, ``token_shape``, ``base64url_invalid``, ``payload_too_long``,
            ``signature_count``, ``signature_length``, ``header_too_long``, ``header_member``, ``header_alg``,
            ``header_typ``, ``header_kid``, and the codes of :func:`agent.trust.strictjson.parse_object`.
    """
    if len(token) > token_max(payload_max):
        raise UntrustedError("token_too_long", f"is longer than {token_max(payload_max)} bytes")
    if not token.isascii():
        raise UntrustedError("token_not_ascii", "has bytes outside ASCII")
    text = token.removesuffix(b"\n").decode("ascii")
    payload_text, pairs = _general(text) if text.startswith("{") else _compact(text)
    payload = _decoded(payload_text, "payload")
    if len(payload) > payload_max:
        raise UntrustedError("payload_too_long", f"is longer than {payload_max} bytes", field="payload")
    signatures = tuple(_signature(payload_text, *pair, index, typ) for index, pair in enumerate(pairs))
    if len({part.typ for part in signatures}) != 1:
        raise UntrustedError("header_typ", "the signatures are for different types of token", field="signatures")
    return TokenParts(signatures[0].typ, payload, signatures, hashlib.sha256(token).hexdigest())


def claimed_typ(token: bytes, *, among: Collection[str] = INCOMING_TYPES) -> str:
    """Which kind of token this says it is, NOT verified: only for choosing the verifier, which then insists on it.

    Raises:
        UntrustedError: as :func:`split`.
    """
    return split(token, typ=among).typ


def _compact(text: str) -> tuple[str, list[tuple[str, str]]]:
    parts = text.split(".", _COMPACT_PARTS)  # bounded: a text of dots makes no long list
    if len(parts) != _COMPACT_PARTS:
        raise UntrustedError("token_shape", "is neither three parts joined by dots nor a JSON object")
    protected, payload, signature = parts
    return payload, [(protected, signature)]


def _general(text: str) -> tuple[str, list[tuple[str, str]]]:
    if not text.endswith("}"):
        raise UntrustedError("token_shape", "something follows the JSON object")
    outer = strictjson.parse_object(text.encode("ascii"), error=UntrustedError, depth_max=_DEPTH_MAX)
    if outer.keys() != {"payload", "signatures"}:
        raise UntrustedError("token_shape", "General JSON has exactly the members payload and signatures")
    payload, signatures = outer["payload"], outer["signatures"]
    if not isinstance(payload, str):
        raise UntrustedError("token_shape", "must be a string", field="payload")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= SIGNATURES_MAX:
        raise UntrustedError("signature_count", f"must be a list of 1 to {SIGNATURES_MAX}", field="signatures")
    return payload, [_pair(entry, f"signatures[{index}]") for index, entry in enumerate(signatures)]


def _pair(entry: object, field: str) -> tuple[str, str]:
    if not isinstance(entry, dict) or entry.keys() != {"protected", "signature"}:
        raise UntrustedError("token_shape", "has exactly the members protected and signature", field=field)
    protected, signature = entry["protected"], entry["signature"]
    if not isinstance(protected, str) or not isinstance(signature, str):
        raise UntrustedError("token_shape", "protected and signature must be strings", field=field)
    return protected, signature


def _signature(payload: str, protected: str, signature: str, index: int, typ: Collection[str]) -> SignaturePart:
    field = f"signatures[{index}]"
    kid, found_typ = _header(protected, f"{field}.protected", typ)
    raw = _decoded(signature, f"{field}.signature")
    if len(raw) != SIGNATURE_BYTES:
        raise UntrustedError("signature_length", f"must have {SIGNATURE_BYTES} bytes, has {len(raw)}", field=f"{field}.signature")
    return SignaturePart(kid, found_typ, f"{protected}.{payload}".encode("ascii"), raw)


def _header(protected: str, field: str, typ: Collection[str]) -> tuple[str, str]:
    """The protected header's kid and typ; no member beside alg, typ and kid is ever looked at."""
    if len(protected) * 3 > HEADER_MAX * 4:
        raise UntrustedError("header_too_long", f"is longer than {HEADER_MAX} bytes", field=field)
    header = strictjson.parse_object(_decoded(protected, field), error=UntrustedError, field=field, depth_max=_DEPTH_MAX)
    if header.keys() != _HEADER:
        odd = ", ".join(repr(name[:40]) for name in sorted(header.keys() ^ _HEADER)[:4])
        raise UntrustedError("header_member", f"must have exactly alg, typ and kid; unknown or missing: {odd}", field=field)
    alg, found, kid = header["alg"], header["typ"], header["kid"]
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise UntrustedError("header_alg", "must be EdDSA or Ed25519", field=f"{field}.alg")
    if not isinstance(found, str) or found not in typ:
        raise UntrustedError("header_typ", f"must be {' or '.join(sorted(typ))}", field=f"{field}.typ")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise UntrustedError("header_kid", f"must match {KID.pattern}", field=f"{field}.kid")
    return kid, found


def _decoded(text: str, field: str) -> bytes:
    data = base64url.decode(text)
    if data is None:
        raise UntrustedError("base64url_invalid", "is no canonical base64url without padding", field=field)
    return data
