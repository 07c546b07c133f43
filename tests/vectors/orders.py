"""Writes orders.json: `python -m tests.vectors.orders`. Revocations (SETs) and bulletins; host, time and keys as in tokens.json.

A vector: ``typ`` (what takes it), ``token``, ``verdict`` good or refused; a refusal's ``error``, ``code`` and, where it
matters, ``field``; of a good one ``means``: for a revocation its format, issuers and value, for a bulletin its seq and how
many it revokes.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from agent.trust import TYP_BULLETIN, TYP_EVENT, TYP_GRANT, sign_compact, sign_general
from agent.trust.orders import SESSION_REVOKED
from tests.vectors.make import HOST, ISS, NOW, Claims, Vector, jwks, private

FILE = Path(__file__).with_name("orders.json")
JWT_ID = {"format": "jwt_id", "iss": ISS, "jti": "grant-1"}
OTHER = "https://other.example"


def event(**changes: object) -> Claims:
    """Claims of a good SET; a change to None takes the claim out."""
    good: Claims = {"iss": ISS, "aud": HOST, "iat": NOW, "jti": "set-1", "events": {SESSION_REVOKED: {}}, "sub_id": JWT_ID}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def bulletin(**changes: object) -> Claims:
    """Claims of a good bulletin."""
    good: Claims = {"iss": ISS, "aud": HOST, "iat": NOW, "exp": NOW + 300, "seq": 7, "revoked": []}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(claims: Claims, typ: str, *kids: str) -> str:
    keys = [private(kid) for kid in kids or ("cp-1",)]
    return sign_compact(claims, typ, keys[0]) if len(keys) == 1 else sign_general(claims, typ, keys)


def good(name: str, typ: str, claims: Claims, means: list[object], *kids: str) -> Vector:
    return {"name": name, "typ": typ, "verdict": "good", "means": means, "token": signed(claims, typ, *kids)}


def refused(name: str, typ: str, claims: Claims, code: str, field: str | None, *kids: str, signed_as: str = "") -> Vector:
    trust = code in {"key_not_for_issuer", "unknown_key", "header_typ"}
    where = {} if field is None else {"field": field}
    error = {"error": "UntrustedError" if trust else "InvalidGrantError", "code": code, **where}
    return {"name": name, "typ": typ, "verdict": "refused", **error, "token": signed(claims, signed_as or typ, *kids)}


def events() -> Iterator[Vector]:
    e = TYP_EVENT
    yield good("a grant by its id", e, event(), ["jwt_id", [ISS], "grant-1"])
    by_sub = {"format": "iss_sub", "iss": ISS, "sub": "alice@example.com"}
    yield good("a subject of an issuer", e, event(sub_id=by_sub), ["iss_sub", [ISS], "alice@example.com"])
    by_mail = {"format": "email", "email": "alice@example.com"}
    yield good("an address: all that the key may speak for", e, event(sub_id=by_mail), ["email", [ISS], "alice@example.com"])
    both = ["https://both.example", ISS]
    yield good("an address, by a key of two issuers", e, event(sub_id=by_mail), ["email", both, "alice@example.com"], "cp-2")
    yield good(
        "an address, by two keys: what both may", e, event(sub_id=by_mail), ["email", [ISS], "alice@example.com"], "cp-1", "cp-2"
    )
    theirs = {"format": "jwt_id", "iss": "https://both.example", "jti": "x"}
    yield good(
        "another issuer that the key speaks for too", e, event(sub_id=theirs), ["jwt_id", ["https://both.example"], "x"], "cp-2"
    )
    told = {"event_timestamp": NOW, "initiating_entity": "policy", "reason_admin": {"en": "left"}, "reason_user": {"de": "weg"}}
    everything = event(events={SESSION_REVOKED: told}, toe=NOW - 1, txn="t-1")
    yield good("all that CAEP has", e, everything, ["jwt_id", [ISS], "grant-1"])
    yield good("years old: it reaches only what is older still", e, event(iat=1), ["jwt_id", [ISS], "grant-1"])
    yield good("issued by a clock 60 s ahead", e, event(iat=NOW + 60), ["jwt_id", [ISS], "grant-1"])
    yield good("with an approver", e, event(), ["jwt_id", [ISS], "grant-1"], "cp-1", "bob")

    for name in ("iss", "aud", "iat", "jti", "events", "sub_id"):
        yield refused(f"no {name}", e, event(**{name: None}), "missing_member", "")
    for name in ("exp", "sub", "nbf", "foo"):
        yield refused(f"with {name}", e, event(**{name: NOW}), "unknown_member", "")
    yield refused("a grant's typ", e, event(), "header_typ", None, signed_as=TYP_GRANT)
    yield refused("a bulletin's typ", e, event(), "header_typ", None, signed_as=TYP_BULLETIN)
    yield refused("another host's", e, event(aud="urn:tidegate:other"), "wrong_host", "aud")
    yield refused("aud a list", e, event(aud=[HOST]), "not_a_string", "aud")
    yield refused("issued in an hour", e, event(iat=NOW + 3600), "issued_in_future", "iat")
    yield refused("iat a text", e, event(iat=str(NOW)), "not_an_integer", "iat")
    yield refused("iat true", e, event(iat=True), "not_an_integer", "iat")
    yield refused("jti with a slash", e, event(jti="a/b"), "jti_invalid", "jti")
    yield refused("a key of another issuer", e, event(), "key_not_for_issuer", "iss", "other")
    yield refused("an unknown key", e, event(), "unknown_key", None, "stranger")
    stolen = {"format": "jwt_id", "iss": OTHER, "jti": "grant-1"}
    yield refused("a grant of an issuer it may not speak for", e, event(sub_id=stolen), "key_not_for_issuer", "sub_id.iss")
    stolen_sub = {"format": "iss_sub", "iss": OTHER, "sub": "alice@example.com"}
    yield refused("a subject of another issuer", e, event(sub_id=stolen_sub), "key_not_for_issuer", "sub_id.iss")
    yield refused("an approver alone", e, event(), "key_not_for_issuer", "iss", "bob")
    yield refused("no event", e, event(events={}), "event_unknown", "events")
    yield refused("events a list", e, event(events=[SESSION_REVOKED]), "not_an_object", "events")
    two: dict[str, object] = {SESSION_REVOKED: {}, "https://schemas.openid.net/secevent/caep/event-type/credential-change": {}}
    yield refused("two events", e, event(events=two), "event_unknown", "events")
    yield refused("another event", e, event(events={"urn:other": {}}), "event_unknown", "events")
    yield refused("an event that is no object", e, event(events={SESSION_REVOKED: True}), "not_an_object", None)
    yield refused("an event with an unknown member", e, event(events={SESSION_REVOKED: {"x": 1}}), "unknown_member", None)
    yield refused("a reason that is no object", e, event(events={SESSION_REVOKED: {"reason_admin": "left"}}), "not_an_object", None)
    bad = {"reason_admin": {"en": "a\u001b[2Jb"}}
    yield refused("a reason with an escape", e, event(events={SESSION_REVOKED: bad}), "text_unprintable", None)
    yield refused("sub_id a text", e, event(sub_id="grant-1"), "not_an_object", "sub_id")
    for form in ("opaque", "phone_number", "", 1, None):
        yield refused(f"format {form!r}", e, event(sub_id={**JWT_ID, "format": form}), "sub_id_format", "sub_id.format")
    yield refused("no format", e, event(sub_id={"iss": ISS, "jti": "grant-1"}), "sub_id_format", "sub_id.format")
    yield refused("a jwt_id without iss", e, event(sub_id={"format": "jwt_id", "jti": "grant-1"}), "missing_member", "sub_id")
    yield refused("a jwt_id with sub", e, event(sub_id={**JWT_ID, "sub": "alice"}), "unknown_member", "sub_id")
    yield refused("a jwt_id with a wildcard", e, event(sub_id={**JWT_ID, "jti": "*"}), "jti_invalid", "sub_id.jti")
    yield refused("an empty address", e, event(sub_id={"format": "email", "email": ""}), "text_length", "sub_id.email")
    yield refused("an address with iss", e, event(sub_id={**by_mail, "iss": ISS}), "unknown_member", "sub_id")


def bulletins() -> Iterator[Vector]:
    b = TYP_BULLETIN
    yield good("nothing revoked", b, bulletin(), [7, 0])
    yield good("two revoked", b, bulletin(revoked=["grant-1", "grant-2"]), [7, 2])
    yield good("the longest life", b, bulletin(exp=NOW + 7 * 86400), [7, 0])
    yield good("seq 0", b, bulletin(seq=0), [0, 0])
    for name in ("iss", "aud", "iat", "exp", "seq", "revoked"):
        yield refused(f"without {name}", b, bulletin(**{name: None}), "missing_member", "")
    yield refused("with jti", b, bulletin(jti="b-1"), "unknown_member", "")
    yield refused("an event's typ on a bulletin", b, bulletin(), "header_typ", None, signed_as=TYP_EVENT)
    yield refused("another host's bulletin", b, bulletin(aud="urn:tidegate:other"), "wrong_host", "aud")
    yield refused("over", b, bulletin(iat=NOW - 600, exp=NOW), "expired", "exp")
    yield refused("of eight days", b, bulletin(exp=NOW + 7 * 86400 + 1), "lifetime_too_long", "exp")
    yield refused("exp before iat", b, bulletin(exp=NOW - 1), "times_out_of_order", "exp")
    yield refused("from the future", b, bulletin(iat=NOW + 61, exp=NOW + 300), "issued_in_future", "iat")
    yield refused("seq negative", b, bulletin(seq=-1), "out_of_range", "seq")
    yield refused("seq true", b, bulletin(seq=True), "not_an_integer", "seq")
    yield refused("seq a text", b, bulletin(seq="8"), "not_an_integer", "seq")
    yield refused("revoked a text", b, bulletin(revoked="grant-1"), "not_a_list", "revoked")
    yield refused("revoked an object", b, bulletin(revoked={}), "not_a_list", "revoked")
    yield refused("one revoked twice", b, bulletin(revoked=["a", "a"]), "duplicate_entry", "revoked")
    yield refused("a wildcard revoked", b, bulletin(revoked=["*"]), "jti_invalid", "revoked[0]")
    yield refused("501 revoked", b, bulletin(revoked=[f"g{n}" for n in range(501)]), "list_length", "revoked")
    yield refused("by a key of another issuer", b, bulletin(), "key_not_for_issuer", "iss", "other")


def text() -> str:
    vectors = [*events(), *bulletins()]
    return json.dumps({"host_id": HOST, "now": NOW, "keys": jwks(), "vectors": vectors}, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
