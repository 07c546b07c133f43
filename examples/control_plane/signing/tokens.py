"""Signed words for hosts, in the formats of docs/PROTOCOL.md. Each grant is looked at as its host will look, before it leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent import policy, trust
from agent.errors import RefusedError
from agent.model import Grant
from agent.trust.orders import REVOKED_MAX, SESSION_REVOKED
from enforcers import REGISTRY
from examples.control_plane.api.problems import Problem
from examples.control_plane.signing.keys import Keys

_DECODERS = policy.decoders({enforcer.type: enforcer for enforcer in REGISTRY})


@dataclass(frozen=True, slots=True)
class GrantWords:
    """What a grant says. Times are seconds since the epoch."""

    host_id: str
    sub: str
    jti: str
    iat: int
    exp: int
    details: Sequence[Mapping[str, object]]
    reason: str
    ticket: str = ""
    recording: Mapping[str, bool] | None = None
    supersedes: str = ""

    def claims(self, issuer: str) -> dict[str, object]:
        """The payload; it begins when it is issued."""
        value: dict[str, object] = {
            "iss": issuer,
            "aud": self.host_id,
            "sub": self.sub,
            "iat": self.iat,
            "nbf": self.iat,
            "exp": self.exp,
            "jti": self.jti,
            "authorization_details": list(self.details),
            "reason": self.reason,
        }
        optional = {"ticket": self.ticket, "recording": self.recording, "supersedes": self.supersedes}
        return value | {name: found for name, found in optional.items() if found}


def grant(keys: Keys, words: GrantWords) -> tuple[str, Grant]:
    """The signed grant, and what a host reads in it.

    Raises:
        Problem: ``grant_invalid``: no host would take it; ``field`` and detail say why.
    """
    try:
        token = trust.sign_compact(words.claims(keys.issuer), trust.TYP_GRANT, keys.signing)
        verified = trust.verify(token.encode("ascii"), keys.ring(), typ=trust.TYP_GRANT)
        return token, trust.decode(verified, host_id=words.host_id, now_s=words.iat, decoders=_DECODERS)
    except RefusedError as refused:
        raise Problem("grant_invalid", f"{refused.reason} [{refused.code}]", field=refused.field or "") from refused


def revocation(keys: Keys, host_id: str, sub_id: Mapping[str, str], *, jti: str, iat: int, reason: str) -> str:
    """A Security Event Token (RFC 8417): CAEP's session-revoked about ``sub_id``."""
    event = {"event_timestamp": iat, "initiating_entity": "admin", "reason_admin": {"en": reason or "revoked"}}
    claims = {
        "iss": keys.issuer,
        "aud": host_id,
        "iat": iat,
        "jti": jti,
        "events": {SESSION_REVOKED: event},
        "sub_id": dict(sub_id),
    }
    return trust.sign_compact(claims, trust.TYP_EVENT, keys.signing)


def bulletin(keys: Keys, host_id: str, *, iat: int, life_s: int, seq: int, revoked: Sequence[str]) -> str:
    """A sign of life, and the newest of what is revoked and not over yet."""
    listed = list(revoked)[:REVOKED_MAX]
    claims = {"iss": keys.issuer, "aud": host_id, "iat": iat, "exp": iat + life_s, "seq": seq, "revoked": listed}
    return trust.sign_compact(claims, trust.TYP_BULLETIN, keys.signing)
