"""The pre-parser of tokens: raw bytes, and (after a zero byte) headers and payloads behind the base64url they are kept in."""

import json
from itertools import zip_longest

from agent.errors import RefusedError, UntrustedError
from agent.trust import REFUSALS, base64url, strictjson
from agent.trust.token import INCOMING_TYPES, PAYLOAD_MAX, SIGNATURE_BYTES, TokenParts, split, token_max

MAX_LEN = 4096
WORDS = (
    "alg",
    "typ",
    "kid",
    "EdDSA",
    "Ed25519",
    "access-grant+jwt",
    "payload",
    "signatures",
    "protected",
    "signature",
    "\\ud800",
    "1e9",
)


def check(data: bytes) -> None:
    """Refused with a code of the table, or parts that spell exactly the token that came."""
    _json(data)
    _base64url(data)
    token = _built(data[1:]) if data[:1] == b"\0" else data
    try:
        parts = split(token, typ=INCOMING_TYPES)
    except UntrustedError as error:
        assert error.code in REFUSALS, error.code
        return
    assert len(token) <= token_max() and len(parts.payload) <= PAYLOAD_MAX
    assert all(len(part.signature) == SIGNATURE_BYTES and part.typ == parts.typ for part in parts.signatures)
    if not token.startswith(b"{"):
        assert _spelled(parts) == token.removesuffix(b"\n")
    for part in parts.signatures:
        header, _, payload = part.signing_input.partition(b".")
        assert payload.decode() == base64url.encode(parts.payload)
        found = json.loads(base64url.decode(header.decode()) or b"")
        assert found.keys() == {"alg", "typ", "kid"} and found["kid"] == part.kid and found["typ"] in INCOMING_TYPES


def _built(data: bytes) -> bytes:
    """``header NUL payload NUL signature`` as a compact token; with more parts, General JSON of several signatures."""
    parts = data.split(b"\0")
    payload = base64url.encode(parts[1] if len(parts) > 1 else b"{}")
    signatures = [bytes(found[:SIGNATURE_BYTES]).ljust(SIGNATURE_BYTES, b"s") for found in parts[2::2]] or [bytes(SIGNATURE_BYTES)]
    if len(signatures) == 1:
        return f"{base64url.encode(parts[0])}.{payload}.{base64url.encode(signatures[0])}".encode()
    pairs = [
        {"protected": base64url.encode(header or b""), "signature": base64url.encode(signature or b"")}
        for header, signature in zip_longest([parts[0], *parts[3::2]], signatures)
    ]
    return json.dumps({"payload": payload, "signatures": pairs}).encode()


def _spelled(parts: TokenParts) -> bytes:
    (part,) = parts.signatures
    return part.signing_input + b"." + base64url.encode(part.signature).encode()


def _json(data: bytes) -> None:
    """What the strict parser takes, Python's takes too, to the same value, and it has one canonical spelling that comes back."""
    try:
        found = strictjson.parse_object(data)
    except RefusedError as error:
        assert error.code in REFUSALS, error.code
        return
    assert found == json.loads(data)
    spelled = strictjson.canonical(found)
    assert strictjson.parse_object(spelled) == found and strictjson.canonical(strictjson.parse_object(spelled)) == spelled


def _base64url(data: bytes) -> None:
    text = data.decode("latin-1")
    found = base64url.decode(text)
    assert found is None or base64url.encode(found) == text
    assert base64url.decode(base64url.encode(data)) == data
