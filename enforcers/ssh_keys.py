"""Bare public keys (RFC 4253 section 6.6, RFC 5656, RFC 8709, PROTOCOL.u2f), parsed to the last byte.

What sshd reads from authorized_keys is options, type, blob and comment; a key of a grant is type and blob alone, and the
blob must be the one encoding of exactly that type: no certificate, no second key behind the first.
"""

import base64
import binascii
import re
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import InvalidGrantError
from agent.model.fields import string

KEY_MAX = 8192  # characters; sshd's own line limit is 8 KiB
RSA_BITS_MIN, RSA_BITS_MAX = 2048, 8192
_LINE = re.compile(r"([a-z0-9@.-]{1,64}) ([A-Za-z0-9+/]+={0,2})(?: [ -~]*)?")
_CURVES: dict[str, type[ec.EllipticCurve]] = {"nistp256": ec.SECP256R1, "nistp384": ec.SECP384R1, "nistp521": ec.SECP521R1}


class _Blob:
    """Length-prefixed strings, read one by one; ValueError when there are none left, or some are left over."""

    def __init__(self, data: bytes) -> None:
        self._rest = data

    def take(self) -> bytes:
        """The next string (RFC 4251 section 5: uint32 length, then the bytes)."""
        size = int.from_bytes(self._rest[:4], "big")
        value, rest = self._rest[4 : 4 + size], self._rest[4 + size :]
        if len(self._rest) < 4 or len(value) != size:
            raise ValueError("the key ends early")
        self._rest = rest
        return value

    def mpint(self) -> int:
        """The next positive integer, in its shortest form."""
        value = self.take()
        number = int.from_bytes(value, "big", signed=True)
        if number <= 0 or value != number.to_bytes(number.bit_length() // 8 + 1, "big"):
            raise ValueError("a number is negative or padded")
        return number

    def end(self) -> None:
        """Nothing may follow."""
        if self._rest:
            raise ValueError("bytes follow the key")


def _ed25519(blob: _Blob) -> None:
    if len(blob.take()) != 32:
        raise ValueError("an Ed25519 key has 32 bytes")


def _ecdsa(curve: str) -> Callable[[_Blob], None]:
    def check(blob: _Blob) -> None:
        if blob.take() != curve.encode():
            raise ValueError("the curve is not the type's")
        point = blob.take()
        if point[:1] != b"\x04":
            raise ValueError("the point is not in uncompressed form")
        ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve](), point)  # ValueError when it is not on the curve

    return check


def _rsa(blob: _Blob) -> None:
    exponent, modulus = blob.mpint(), blob.mpint()
    if not RSA_BITS_MIN <= modulus.bit_length() <= RSA_BITS_MAX:
        raise ValueError(f"an RSA key has {RSA_BITS_MIN} to {RSA_BITS_MAX} bits, this has {modulus.bit_length()}")
    if exponent < 3 or exponent % 2 == 0 or modulus % 2 == 0:
        raise ValueError("the RSA numbers are even or too small")


def _security_key(inner: Callable[[_Blob], None]) -> Callable[[_Blob], None]:
    def check(blob: _Blob) -> None:
        inner(blob)
        application = blob.take()
        if not application.startswith(b"ssh:") or not application.decode("ascii").isprintable():
            raise ValueError("a security key's application begins with ssh:")

    return check


TYPES: dict[str, Callable[[_Blob], None]] = {
    "ssh-ed25519": _ed25519,
    "ecdsa-sha2-nistp256": _ecdsa("nistp256"),
    "ecdsa-sha2-nistp384": _ecdsa("nistp384"),
    "ecdsa-sha2-nistp521": _ecdsa("nistp521"),
    "ssh-rsa": _rsa,
    "sk-ssh-ed25519@openssh.com": _security_key(_ed25519),
    "sk-ecdsa-sha2-nistp256@openssh.com": _security_key(_ecdsa("nistp256")),
}


def public_key(value: object, field: str) -> str:
    """A bare public key as ``type blob``; a comment is dropped.

    Raises:
        InvalidGrantError: ``key_invalid`` (not one line of type and canonical base64), ``key_type`` (DSA, a certificate,
            anything not in :data:`TYPES`), ``key_blob`` (the blob is not exactly one key of that type, or a weak one).
    """
    found = string(value, field)
    line = _LINE.fullmatch(found) if len(found) <= KEY_MAX else None
    if line is None:
        raise InvalidGrantError("key_invalid", "is no bare public key: type, one space, base64", field=field)
    kind, encoded = line[1], line[2]
    if kind not in TYPES:
        raise InvalidGrantError("key_type", f"{kind!r} is none of {', '.join(TYPES)}", field=field)
    try:
        _check(kind, encoded)
    except (binascii.Error, ValueError) as error:
        raise InvalidGrantError("key_blob", f"the {kind} key is malformed: {error}", field=field) from error
    return f"{kind} {encoded}"


def _check(kind: str, encoded: str) -> None:
    """One key of that type and nothing else, in the one encoding it has. Raises ValueError."""
    data = base64.b64decode(encoded, validate=True)
    if base64.b64encode(data).decode() != encoded:
        raise ValueError("the base64 is not canonical")
    blob = _Blob(data)
    if blob.take() != kind.encode():
        raise ValueError("the blob is of another type")
    TYPES[kind](blob)
    blob.end()
