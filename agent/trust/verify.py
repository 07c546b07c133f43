"""Parts → a verified token: each signature, under a key that this host already had. The payload stays bytes."""

from cryptography.exceptions import InvalidSignature

from agent.errors import UntrustedError
from agent.model import Signer, VerifiedToken
from agent.trust.keys import KeyRing
from agent.trust.token import PAYLOAD_MAX, SignaturePart, split


def verify(token: bytes, ring: KeyRing, *, typ: str, payload_max: int = PAYLOAD_MAX) -> VerifiedToken:
    """Check the token's bytes, then every signature it carries; one that fails refuses the whole (RFC 7515 §5.2 leaves that to us).

    Ed25519 (RFC 8032) is the only algorithm there is here; the header's ``alg`` was checked and chooses nothing. Two
    signatures by one key never count as two. How many signers a grant needs is the policy's to say.

    Raises:
        UntrustedError: ``unknown_key``, ``signature_invalid``, ``signer_twice``, and those of :func:`agent.trust.token.split`.
    """
    parts = split(token, typ=frozenset({typ}), payload_max=payload_max)
    signers = tuple(_signer(part, ring, f"signatures[{index}]") for index, part in enumerate(parts.signatures))
    if len({signer.thumbprint for signer in signers}) != len(signers):  # so their kids differ too: one kid has one key
        raise UntrustedError("signer_twice", "one key signed twice", field="signatures")
    return VerifiedToken(parts.typ, parts.payload, signers, parts.digest)


def _signer(part: SignaturePart, ring: KeyRing, field: str) -> Signer:
    key = ring.get(part.kid)
    if key is None:
        raise UntrustedError("unknown_key", f"this host trusts no key {part.kid!r}", field=f"{field}.protected.kid")
    try:
        key.public_key.verify(part.signature, part.signing_input)
    except InvalidSignature as caught:
        reason = f"is not key {part.kid!r}'s over this token"
        raise UntrustedError("signature_invalid", reason, field=f"{field}.signature") from caught
    return key.signer()
