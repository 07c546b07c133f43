"""What a control plane says about grants it has given: end these, and I am still here. Built only by :mod:`agent.trust.orders`."""

from dataclasses import dataclass
from enum import StrEnum

from agent.model.text import same_person


class SubjectFormat(StrEnum):
    """How a revocation names whom it is about (RFC 9493; jwt_id is RFC 8417's own pair of issuer and id)."""

    JWT_ID = "jwt_id"
    ISS_SUB = "iss_sub"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class Revocation:
    """A Security Event Token that ends access (RFC 8417, CAEP session-revoked). ``iat``: seconds since the epoch.

    ``issuers``: of whose grants it speaks: one for jwt_id and iss_sub, all that its signers may speak for with an email.
    ``value`` is a jti, a sub, or an address. ``iss`` and ``jti`` are the token's own.
    """

    iss: str
    jti: str
    iat: int
    format: SubjectFormat
    issuers: tuple[str, ...]
    value: str
    reason: str = ""

    def means(self, iss: str, jti: str, sub: str, iat: int) -> bool:
        """Whether the grant with these claims is to end: named by its id, or issued to that subject no later than this was."""
        if iss not in self.issuers:
            return False
        if self.format is SubjectFormat.JWT_ID:
            return jti == self.value
        named = same_person(sub, self.value) if self.format is SubjectFormat.EMAIL else sub == self.value
        return named and iat <= self.iat


@dataclass(frozen=True, slots=True)
class Bulletin:
    """A sign of life, and what is revoked. Seconds since the epoch; ``seq`` only ever grows for one ``iss``."""

    iss: str
    iat: int
    exp: int
    seq: int
    revoked: tuple[str, ...]
