"""ID tokens (OpenID Connect Core 1.0, section 3.1.3.7) and logout tokens (Back-Channel Logout 1.0): bytes → who somebody is.

An ID token is taken once, soon after it was made, for a session of our own (:mod:`examples.control_plane.people.sessions`);
it is no credential here. Order: size and header first, then the signature by PyJWT, and only then what the token says.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jwt

from agent.model.fields import TEXT_MAX
from agent.model.text import unseen
from agent.trust import base64url, strictjson
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.people.keyset import TYPES, KeySource

TOKEN_MAX = 16 * 1024  # bytes
HEADER_MAX = 2048
LEEWAY_S = 30
AGE_MAX_S = 600  # an ID token is for a login that happens now, however long its provider lets it live
GROUPS_MAX = 200
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"


@dataclass(frozen=True, slots=True)
class Provider:
    """One OpenID provider, as configured. ``algorithms`` are some of :data:`keyset.TYPES`."""

    issuer: str
    client_id: str
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    scopes: tuple[str, ...] = ("openid", "profile", "email", "groups")
    groups_claim: str = "groups"
    ca_file: Path | None = None
    device_flow: bool = True


@dataclass(frozen=True, slots=True)
class Claims:
    """Whom a provider says somebody is. ``email`` is empty unless the provider has verified it."""

    issuer: str
    subject: str
    name: str
    email: str
    username: str
    groups: frozenset[str]
    sid: str
    expires: int
    fingerprint: str  # of what was signed: the signature itself can be written in several ways (ECDSA)


@dataclass(frozen=True, slots=True)
class Logout:
    """Whose sessions a provider ends: all of ``subject``, or those of its own session ``sid``; one of the two may be empty."""

    issuer: str
    subject: str
    sid: str
    jti: str


def verify(token: str, provider: Provider, keys: KeySource, *, nonce: str | None, now: float, monotonic: float) -> Claims:
    """An ID token → its claims. ``now`` is the wall clock in seconds, ``monotonic`` the clock that ``keys`` counts on.

    Raises:
        LoginRefusedError: ``id_token_malformed``, ``id_token_algorithm``, ``id_token_type``, ``id_token_key_unknown``,
            ``id_token_signature``, ``id_token_issuer``, ``id_token_audience``, ``id_token_expired``, ``id_token_early``,
            ``id_token_old``, ``id_token_nonce``, ``id_token_claims``.
        ProviderError: the provider's keys can't be had.
    """
    claims = _verified(token, provider, keys, {"JWT"}, now, monotonic)
    if "events" in claims:
        raise LoginRefusedError("id_token_type", "is a security event token, no ID token")
    if now - _integer(claims, "iat") > AGE_MAX_S:
        raise LoginRefusedError("id_token_old", f"was issued more than {AGE_MAX_S // 60} minutes ago: log in again")
    _check_nonce(claims.get("nonce"), nonce)
    return Claims(
        issuer=provider.issuer,
        subject=_subject(claims),
        name=_shown(claims.get("name")),
        email=_shown(claims.get("email")) if claims.get("email_verified") is True else "",
        username=_shown(claims.get("preferred_username")),
        groups=_groups(claims.get(provider.groups_claim)),
        sid=_shown(claims.get("sid")),
        expires=_integer(claims, "exp"),
        fingerprint=hashlib.sha256(token.rpartition(".")[0].encode("ascii")).hexdigest(),
    )


def verify_logout(token: str, provider: Provider, keys: KeySource, *, now: float, monotonic: float) -> Logout:
    """A logout token (Back-Channel Logout 1.0, section 2.6) → whose sessions end.

    The caller looks whether its jti was there before.

    Raises:
        LoginRefusedError, ProviderError: as :func:`verify`.
    """
    claims = _verified(token, provider, keys, {"JWT", "LOGOUT+JWT"}, now, monotonic)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict) or "nonce" in claims:
        raise LoginRefusedError("id_token_type", "is no logout token")
    if now - _integer(claims, "iat") > AGE_MAX_S:
        raise LoginRefusedError("id_token_old", "is too old a logout token")
    found = Logout(provider.issuer, _shown(claims.get("sub")), _shown(claims.get("sid")), _shown(claims.get("jti")))
    if not found.jti or not (found.subject or found.sid):
        raise LoginRefusedError("id_token_claims", "names neither a subject nor a session, or has no jti")
    return found


def _verified(
    token: str, provider: Provider, keys: KeySource, types: set[str], now: float, monotonic: float
) -> Mapping[str, object]:
    """The claims of a token whose signature, issuer, audience and times are right."""
    header = _header(token)
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in provider.algorithms or alg not in TYPES:
        raise LoginRefusedError("id_token_algorithm", f"is signed by {str(alg)[:20]!a}; taken: {', '.join(provider.algorithms)}")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper().removeprefix("APPLICATION/") not in types:
        raise LoginRefusedError("id_token_type", f"is a token of type {str(typ)[:40]!a}")
    kid = header.get("kid")
    if (kid is not None and not isinstance(kid, str)) or "crit" in header:
        raise LoginRefusedError("id_token_malformed", "its header has members that are not understood")
    key = keys.key(kid, alg, monotonic)
    try:
        # Times are ours to check: PyJWT has a clock of its own. Whom it is from and for is checked below once more, more narrowly.
        claims = jwt.decode(
            token,
            key,
            algorithms=[alg],
            issuer=provider.issuer,
            audience=provider.client_id,
            options={"require": ["iss", "aud", "exp", "iat"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except jwt.InvalidSignatureError as error:
        raise LoginRefusedError("id_token_signature", "its signature is not its issuer's") from error
    except (jwt.InvalidIssuerError, jwt.InvalidAudienceError) as error:
        code = "id_token_issuer" if isinstance(error, jwt.InvalidIssuerError) else "id_token_audience"
        raise LoginRefusedError(code, "is from another provider, or for another program") from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise LoginRefusedError("id_token_claims", f"does not say what it must: {str(error)[:200]}") from error
    _check_audience(claims, provider.client_id)
    _check_times(claims, now)
    return claims


def _header(token: str) -> dict[str, object]:
    first, *others = token.split(".") if len(token) <= TOKEN_MAX else [""]
    data = base64url.decode(first) if len(others) == 2 and len(first) <= HEADER_MAX else None
    try:
        return strictjson.parse_object(data or b"", error=LoginRefusedError)
    except LoginRefusedError as error:
        raise LoginRefusedError("id_token_malformed", f"is no signed token of at most {TOKEN_MAX} bytes") from error


def _check_audience(claims: Mapping[str, object], client_id: str) -> None:
    """Core 3.1.3.7: ours alone. A token that others may show too would let them log in as whoever visits them."""
    audience = claims.get("aud")
    if audience not in (client_id, [client_id]) or claims.get("azp", client_id) != client_id:
        raise LoginRefusedError("id_token_audience", "is for another program, or for others too")


def _check_times(claims: Mapping[str, object], now: float) -> None:
    if _integer(claims, "exp") + LEEWAY_S <= now:
        raise LoginRefusedError("id_token_expired", "has expired: log in again")
    latest = max(_integer(claims, "iat"), _integer(claims, "nbf") if "nbf" in claims else 0)
    if latest > now + LEEWAY_S:
        raise LoginRefusedError("id_token_early", "is from the future: compare the clocks here and at the provider")


def _check_nonce(said: object, expected: str | None) -> None:
    if said is None and expected is None:  # the device flow has none
        return
    if not isinstance(said, str) or expected is None or not hmac.compare_digest(said.encode(), expected.encode()):
        raise LoginRefusedError("id_token_nonce", "was not made for this login")


def _integer(claims: Mapping[str, object], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise LoginRefusedError("id_token_claims", f"its {name} is no time in whole seconds")
    return value


def _subject(claims: Mapping[str, object]) -> str:
    value = claims.get("sub")
    if not isinstance(value, str) or not 1 <= len(value) <= 255 or any(map(unseen, value)):  # Core, section 2: at most 255
        raise LoginRefusedError("id_token_claims", "its sub is no text of 1 to 255 characters")
    return value


def _shown(value: object) -> str:
    """A text that may be shown and signed; anything else counts as not there, since nothing hangs on it."""
    return value if isinstance(value, str) and len(value) <= TEXT_MAX and not any(map(unseen, value)) else ""


def _groups(value: object) -> frozenset[str]:
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    if len(listed) > GROUPS_MAX:
        raise LoginRefusedError(
            "id_token_claims", f"names more than {GROUPS_MAX} groups: let the provider send only those that matter here"
        )
    return frozenset(group for group in listed if isinstance(group, str) and len(group) <= TEXT_MAX)
