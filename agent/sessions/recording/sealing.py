"""Seals under the host's key, for :func:`agent.sessions.recording.verify`. Apart from the format, which needs no cryptography."""

from collections.abc import Mapping

from agent import trust
from agent.sessions.recording.format import SEAL_TYP
from agent.sessions.recording.verify import SealKey


def seal_key(ring: trust.KeyRing) -> SealKey:
    """What verifies a seal's token under these keys, each for the hosts that it may speak for."""

    def claims(jws: bytes) -> Mapping[str, object]:
        verified = trust.verify(jws, ring, typ=SEAL_TYP)
        found = trust.parse_object(verified.payload)
        trust.check_issuer(str(found.get("iss")), verified.signers)
        return found

    return claims
