"""Verified bytes → a revocation or a bulletin: what ends access, and what keeps it fresh. As strict as grants are.

Ending access takes one signature where opening may take several: whoever may grant may take it back alone.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from agent.errors import InvalidGrantError, UntrustedError
from agent.model import Bulletin, Revocation, Signer, SubjectFormat, VerifiedToken, fields
from agent.model.fields import FieldReader
from agent.trust import strictjson
from agent.trust.decode import IAT_LEEWAY_S, TIME_MAX, check_issuer, issuer_for_host
from agent.trust.token import TYP_BULLETIN, TYP_EVENT

SESSION_REVOKED: Final = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
BULLETIN_LIFETIME_MAX_S: Final = 7 * 86400
REVOKED_MAX: Final = 500
SEQ_MAX: Final = (1 << 63) - 1
_REASONS_MAX = 8

_seconds = fields.integer(0, TIME_MAX)


def decode_event(verified: VerifiedToken, *, host_id: str, now_s: float) -> Revocation:
    """The revocation in a Security Event Token (RFC 8417 §2.2): one event, CAEP's session-revoked, for this host.

    A signer revokes only grants of issuers that it may speak for: the one that ``sub_id`` names, or with an email, which
    names none, all of its own. How old the token is does not matter: it only reaches what was issued before it.

    Raises:
        UntrustedError: ``key_not_for_issuer`` (``iss``, or ``sub_id.iss``).
        InvalidGrantError: ``token_kind``, ``wrong_host``, ``issued_in_future``, ``event_unknown``, ``sub_id_format``, and
            those of :mod:`agent.model.fields` and :mod:`agent.trust.strictjson`.
    """
    if verified.typ != TYP_EVENT:
        raise InvalidGrantError("token_kind", f"is no {TYP_EVENT}")
    required = ("iss", "aud", "iat", "jti", "events", "sub_id")
    reader = FieldReader(strictjson.parse_object(verified.payload), "", required=required, optional=("toe", "txn"))
    iss = issuer_for_host(reader, verified.signers, host_id)
    iat, jti = _issued(reader, now_s), reader.one("jti", fields.jti)
    reader.optional("toe", _seconds, 0)
    reader.optional("txn", fields.text, "")
    reason = reader.one("events", _events)
    kind, issuers, value = _subject(reader.raw("sub_id"), verified.signers)
    return Revocation(iss, jti, iat, kind, issuers, value, reason)


def decode_bulletin(verified: VerifiedToken, *, host_id: str, now_s: float) -> Bulletin:
    """The bulletin that a verified token holds. Whether its ``seq`` is new, the journal says.

    Raises:
        UntrustedError: ``key_not_for_issuer``.
        InvalidGrantError: ``token_kind``, ``wrong_host``, ``issued_in_future``, ``times_out_of_order``, ``lifetime_too_long``,
            ``expired``, and those of :mod:`agent.model.fields` and :mod:`agent.trust.strictjson`.
    """
    if verified.typ != TYP_BULLETIN:
        raise InvalidGrantError("token_kind", f"is no {TYP_BULLETIN}")
    required = ("iss", "aud", "iat", "exp", "seq", "revoked")
    reader = FieldReader(strictjson.parse_object(verified.payload), "", required=required)
    iss = issuer_for_host(reader, verified.signers, host_id)
    iat, exp = _issued(reader, now_s), reader.one("exp", _seconds)
    if not iat < exp:
        raise InvalidGrantError("times_out_of_order", "must be after iat", field="exp")
    if exp - iat > BULLETIN_LIFETIME_MAX_S:
        raise InvalidGrantError(
            "lifetime_too_long", f"must be at most {BULLETIN_LIFETIME_MAX_S // 86400} days after iat", field="exp"
        )
    if not exp > now_s:
        raise InvalidGrantError("expired", f"has passed {now_s - exp:.0f} s ago", field="exp")
    seq = reader.one("seq", fields.integer(0, SEQ_MAX))
    reader.one("revoked", _is_list)  # FieldReader.many takes an absent one for empty: here it must be said
    return Bulletin(iss, iat, exp, seq, reader.many("revoked", fields.jti, least=0, most=REVOKED_MAX))


def spoken_for(signers: Sequence[Signer]) -> tuple[str, ...]:
    """The issuers that all of these signers together may speak for, as a grant of each would need (see check_issuer)."""
    found: list[str] = []
    for issuer in sorted({issuer for signer in signers for issuer in signer.issuers}):
        try:
            check_issuer(issuer, signers)
        except UntrustedError:
            continue
        found.append(issuer)
    return tuple(found)


def _issued(reader: FieldReader, now_s: float) -> int:
    iat = reader.one("iat", _seconds)
    if iat > now_s + IAT_LEEWAY_S:
        raise InvalidGrantError("issued_in_future", f"is {iat - now_s:.0f} s ahead of this host's clock", field="iat")
    return iat


def _events(value: object, field: str) -> str:
    """Exactly the one event; what it says about why, in English where there are several tongues."""
    if not isinstance(value, Mapping):
        raise InvalidGrantError("not_an_object", "must be an object", field=field)
    if set(value) != {SESSION_REVOKED}:
        raise InvalidGrantError("event_unknown", f"must hold exactly one event, {SESSION_REVOKED}", field=field)
    optional = ("event_timestamp", "initiating_entity", "reason_admin", "reason_user")
    event = FieldReader(value[SESSION_REVOKED], f"{field}.session-revoked", required=(), optional=optional)
    event.optional("event_timestamp", _seconds, 0)
    event.optional("initiating_entity", fields.choice("admin", "user", "policy", "system"), "system")
    event.optional("reason_user", _reasons, "")
    return event.optional("reason_admin", _reasons, "")


def _reasons(value: object, field: str) -> str:
    """Language tag → text (CAEP §2)."""
    if not isinstance(value, Mapping):
        raise InvalidGrantError("not_an_object", "must be an object", field=field)
    if not 1 <= len(value) <= _REASONS_MAX:
        raise InvalidGrantError("list_length", f"must have 1 to {_REASONS_MAX} members", field=field)
    told = {fields.text(tongue, field): fields.text(said, f"{field}.{str(tongue)[:20]}") for tongue, said in value.items()}
    return told.get("en") or next(iter(told.values()))


def _subject(value: object, signers: Sequence[Signer]) -> tuple[SubjectFormat, tuple[str, ...], str]:
    """RFC 9493, of the formats that name what a grant has: its id, its subject, an address that is its subject."""
    if not isinstance(value, Mapping):
        raise InvalidGrantError("not_an_object", "must be an object", field="sub_id")
    match value.get("format"):
        case "jwt_id":
            member, rule, kind = "jti", fields.jti, SubjectFormat.JWT_ID
        case "iss_sub":
            member, rule, kind = "sub", fields.text, SubjectFormat.ISS_SUB
        case "email":
            member, rule, kind = "email", fields.text, SubjectFormat.EMAIL
        case _:
            raise InvalidGrantError("sub_id_format", "must be jwt_id, iss_sub or email", field="sub_id.format")
    named = () if kind is SubjectFormat.EMAIL else ("iss",)
    reader = FieldReader(value, "sub_id", required=("format", *named, member))
    found = reader.one(member, rule)
    if not named:
        return kind, spoken_for(signers), found
    issuer = reader.one("iss", fields.text)
    try:
        check_issuer(issuer, signers)
    except UntrustedError as caught:
        raise UntrustedError("key_not_for_issuer", caught.reason, field="sub_id.iss") from caught
    return kind, (issuer,), found


def _is_list(value: object, field: str) -> None:
    if not isinstance(value, list):
        raise InvalidGrantError("not_a_list", "must be a list", field=field)
