"""Verified bytes → a typed grant. Every claim is known, single, typed and in range, or the whole grant is refused."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from agent.errors import InvalidGrantError, UntrustedError
from agent.model import AccountWant, Grant, Recording, Signer, SshWant, VerifiedToken, Want, fields
from agent.model.fields import FieldReader
from agent.model.text import same_person
from agent.trust import strictjson
from agent.trust.token import TYP_GRANT

Decoder = Callable[[Mapping[str, object], str], Want]

TIME_MAX: Final = 1 << 40  # seconds; the year 36812
LIFETIME_MAX_S: Final = 90 * 86400
IAT_LEEWAY_S: Final = 60  # a signer's clock may be that much ahead of ours
WANTS_MAX: Final = 32
_REQUIRED = frozenset({"iss", "aud", "sub", "iat", "nbf", "exp", "jti", "authorization_details"})
_OPTIONAL = frozenset({"reason", "ticket", "recording", "supersedes"})
_SINGLE = (AccountWant, SshWant)

_seconds = fields.integer(0, TIME_MAX)


def decode(
    verified: VerifiedToken,
    *,
    host_id: str,
    now_s: float,
    decoders: Mapping[str, Callable[[Mapping[str, object], str], Want]],
    iat_leeway_s: int = IAT_LEEWAY_S,
    max_age_s: int | None = None,
) -> Grant:
    """The grant that a verified token holds, for this host, at this one moment.

    ``now_s`` is seconds since the epoch. ``decoders``: authorization_details type → an enforcer's decode, which gets the
    whole entry, ``type`` included. ``max_age_s`` refuses an ``iat`` further back. Nothing here lengthens ``exp``: only
    ``iat`` has a leeway. What the times mean to this host's policy, and whether the jti was used, others say.

    Raises:
        UntrustedError: ``key_not_for_issuer``.
        InvalidGrantError: ``token_kind``, ``wrong_host``, ``times_out_of_order``, ``lifetime_too_long``, ``expired``,
            ``issued_in_future``, ``issued_too_long_ago``, ``self_approval``, ``supersedes_itself``, ``unknown_type``,
            ``second_entry``, and the codes of :mod:`agent.model.fields`, :mod:`agent.trust.strictjson` and the decoders.
    """
    if verified.typ != TYP_GRANT:
        raise InvalidGrantError("token_kind", f"is no {TYP_GRANT}")
    reader = FieldReader(strictjson.parse_object(verified.payload), "", required=_REQUIRED, optional=_OPTIONAL)
    recording = reader.optional("recording", _recording, Recording())
    iss, sub = _parties(reader, verified.signers, host_id)
    iat, nbf, exp = _times(reader, now_s, iat_leeway_s, max_age_s)
    jti = reader.one("jti", fields.jti)
    return Grant(
        iss=iss,
        aud=host_id,
        sub=sub,
        iat=iat,
        nbf=nbf,
        exp=exp,
        jti=jti,
        wants=_wants(reader, decoders),
        signers=verified.signers,
        digest=verified.digest,
        reason=reader.optional("reason", fields.text, ""),
        ticket=reader.optional("ticket", fields.text, ""),
        recording_required=recording.required,
        recording_input=recording.input,
        supersedes=_supersedes(reader, jti),
    )


def _parties(reader: FieldReader, signers: Sequence[Signer], host_id: str) -> tuple[str, str]:
    """Who grants and who gets it, once it is known that the signers may say so, and say it to this host."""
    iss = issuer_for_host(reader, signers, host_id)
    sub = reader.one("sub", fields.text)
    _check_approvers(sub, signers)
    return iss, sub


def issuer_for_host(reader: FieldReader, signers: Sequence[Signer], host_id: str) -> str:
    """Claim ``iss``, once it is known that the signers speak for it, and to this host.

    Raises:
        UntrustedError: ``key_not_for_issuer``.
        InvalidGrantError: ``wrong_host``, and those of :mod:`agent.model.fields`.
    """
    iss = reader.one("iss", fields.text)
    check_issuer(iss, signers)
    aud = reader.one("aud", fields.text)
    if aud != host_id:
        raise InvalidGrantError("wrong_host", f"is for another host: {aud[:100]!a}", field="aud")
    return iss


def check_issuer(iss: str, signers: Sequence[Signer]) -> None:
    """One signer at least speaks for ``iss``, and every other one speaks for it too or is a named approver.

    So a key that is trusted for another issuer only can add nothing, not even a signature to be counted.

    Raises:
        UntrustedError: ``key_not_for_issuer``.
    """
    strangers = [signer for signer in signers if iss not in signer.issuers]
    if len(strangers) == len(signers):
        raise UntrustedError("key_not_for_issuer", f"no key that signed may speak for {iss[:100]!a}", field="iss")
    for signer in strangers:
        if signer.approver is None:
            reason = f"key {signer.kid!r} may not speak for {iss[:100]!a} and is no approver's"
            raise UntrustedError("key_not_for_issuer", reason, field="iss")


def _check_approvers(sub: str, signers: Sequence[Signer]) -> None:
    for signer in signers:
        if signer.approver is not None and same_person(signer.approver, sub):
            raise InvalidGrantError("self_approval", f"key {signer.kid!r} is the subject's own", field="sub")


def _times(reader: FieldReader, now_s: float, iat_leeway_s: int, max_age_s: int | None) -> tuple[int, int, int]:
    iat, nbf, exp = (reader.one(name, _seconds) for name in ("iat", "nbf", "exp"))
    if not nbf < exp:
        raise InvalidGrantError("times_out_of_order", "must be after nbf", field="exp")
    if exp - nbf > LIFETIME_MAX_S:
        raise InvalidGrantError("lifetime_too_long", f"must be at most {LIFETIME_MAX_S // 86400} days after nbf", field="exp")
    if not exp > now_s:
        raise InvalidGrantError("expired", f"has passed {now_s - exp:.0f} s ago", field="exp")
    if iat > now_s + iat_leeway_s:
        raise InvalidGrantError("issued_in_future", f"is {iat - now_s:.0f} s ahead of this host's clock", field="iat")
    if max_age_s is not None and iat < now_s - max_age_s:
        raise InvalidGrantError("issued_too_long_ago", f"is more than {max_age_s} s ago", field="iat")
    return iat, nbf, exp


def _recording(value: object, field: str) -> Recording:
    reader = FieldReader(value, field, required=("required",), optional=("input",))
    return Recording(required=reader.one("required", fields.boolean), input=reader.optional("input", fields.boolean, False))


def _supersedes(reader: FieldReader, jti: str) -> str | None:
    if not reader.has("supersedes"):
        return None
    found = reader.one("supersedes", fields.jti)
    if found == jti:
        raise InvalidGrantError("supersedes_itself", "is the grant's own jti", field="supersedes")
    return found


def _wants(reader: FieldReader, decoders: Mapping[str, Decoder]) -> tuple[Want, ...]:
    def entry(value: object, field: str) -> Want:
        if not isinstance(value, Mapping):
            raise InvalidGrantError("not_an_object", "must be an object", field=field)
        if "type" not in value:
            raise InvalidGrantError("missing_member", "member 'type' is missing", field=field)
        decoder = decoders.get(fields.string(value["type"], f"{field}.type"))
        if decoder is None:
            raise InvalidGrantError("unknown_type", f"{str(value['type'])[:40]!a} is not known here", field=f"{field}.type")
        return decoder(value, field)

    wants = reader.many("authorization_details", entry, most=WANTS_MAX)
    _check_single(wants, reader.path("authorization_details"))
    return wants


def _check_single(wants: Collection[Want], field: str) -> None:
    """One account and one ssh entry for each login; two could contradict each other."""
    seen: set[tuple[str, str]] = set()
    for index, want in enumerate(wants):
        key = (want.type, want.identifier)
        if isinstance(want, _SINGLE) and key in seen:
            reason = f"{want.identifier} has an {want.type} entry already"
            raise InvalidGrantError("second_entry", reason, field=f"{field}[{index}]")
        seen.add(key)
