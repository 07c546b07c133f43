"""Writes tokens.json: `python -m tests.vectors.make`. Deterministic, so that a test can prove the file is this script's.

The keys are made from their names, and are known to everybody: never put them in a trust.d folder.

A vector: ``token`` (text; with ``repeat`` N it stands there N times, between ``before`` and ``after``), ``verdict`` good or
refused, and for a refusal ``error``, ``code`` and, where it matters, ``field``. All at the one time ``now``, for the one host.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.trust import TYP_GRANT, base64url, canonical, jwk, sign_compact, sign_general

FILE = Path(__file__).with_name("tokens.json")
NOW = 1_800_000_000
HOST = "urn:tidegate:test-host"
ISS = "https://cp.example"
KEYS: dict[str, tuple[list[str], str | None]] = {
    "cp-1": ([ISS], None),
    "cp-2": ([ISS, "https://both.example"], None),
    "other": (["https://other.example"], None),
    "bob": (["https://approvals.example"], "bob@example.com"),
    "alice": (["https://approvals.example"], "Alice@Example.com"),
}
Claims = dict[str, Any]
Vector = dict[str, Any]


def secret(kid: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"tidegate test key " + kid.encode()).digest())


def private(kid: str) -> dict[str, object]:
    return jwk.to_private_jwk(secret(kid), kid)


def jwks() -> dict[str, object]:
    return {"keys": [jwk.to_public_jwk(secret(kid).public_key(), kid, *entry) for kid, entry in KEYS.items()]}


def claims(**changes: object) -> Claims:
    """Good claims; a change to None takes the claim out."""
    account = {"type": "account", "identifier": "jit-alice", "full_name": "Alice Ng", "groups": ["adm"]}
    good: Claims = {
        "iss": ISS,
        "aud": HOST,
        "sub": "alice@example.com",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 3600,
        "jti": "grant-1",
        "authorization_details": [account],
        "reason": "restart web",
        "ticket": "INC-42",
        "recording": {"required": True},
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def header(**changes: object) -> dict[str, object]:
    good = {"alg": "EdDSA", "typ": TYP_GRANT, "kid": "cp-1"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def compact(payload: bytes, head: bytes, *, kid: str = "cp-1", edit: Callable[[bytes], bytes] = bytes) -> str:
    """A compact JWS around any bytes, however wrong, really signed; ``edit`` changes the signature."""
    signing_input = f"{base64url.encode(head)}.{base64url.encode(payload)}"
    return f"{signing_input}.{base64url.encode(edit(secret(kid).sign(signing_input.encode())))}"


def signed(changed: Claims, kid: str = "cp-1") -> str:
    return sign_compact(changed, TYP_GRANT, private(kid))


def headed(**changes: object) -> str:
    return compact(canonical(claims()), canonical(header(**changes)))


def spelled(old: str, new: str) -> str:
    """Good claims with one piece of their text replaced: what no JSON writer would write."""
    text = canonical(claims()).decode()
    assert text.count(old) == 1
    return compact(text.replace(old, new).encode("utf-8", "surrogatepass"), canonical(header()))


def account(**changes: object) -> str:
    return signed(claims(authorization_details=[{"type": "account", "identifier": "jit-alice", **changes}]))


def details(*entries: object) -> str:
    return signed(claims(authorization_details=list(entries)))


def good(name: str, token: str) -> Vector:
    return {"name": name, "verdict": "good", "token": token}


def untrusted(name: str, code: str, token: str, **more: object) -> Vector:
    return {"name": name, "verdict": "refused", "error": "UntrustedError", "code": code, "token": token, **more}


def invalid(name: str, code: str, token: str, field: str | None = None) -> Vector:
    where = {} if field is None else {"field": field}
    return {"name": name, "verdict": "refused", "error": "InvalidGrantError", "code": code, "token": token, **where}


def goods() -> Iterator[Vector]:
    token = signed(claims())
    yield good("compact", token)
    yield good("one newline at the end", token + "\n")
    yield good("alg Ed25519 (RFC 9864)", headed(alg="Ed25519"))
    yield good("members of the header in another order", compact(canonical(claims()), json.dumps(header()).encode()))
    yield good("only what is required", signed(claims(reason=None, ticket=None, recording=None)))
    yield good("supersedes another", signed(claims(supersedes="grant-0")))
    groups = [{"type": "group", "identifier": "deploy", "groups": [name]} for name in ("docker", "adm")]
    yield good("two group entries for one login", details(*groups))
    yield good("90 days", signed(claims(exp=NOW + 90 * 86400)))
    yield good("begins later", signed(claims(nbf=NOW + 600)))
    yield good("last second", signed(claims(iat=NOW - 60, nbf=NOW - 60, exp=NOW + 1)))
    yield good("issued by a clock 60 s ahead", signed(claims(iat=NOW + 60)))
    yield good("non-ASCII text", signed(claims(reason="Wörk on the 世界 — “now”")))
    yield good("an escaped surrogate pair", spelled("restart web", "\\ud83d\\ude00"))
    yield good("General JSON, one signature", sign_general(claims(), TYP_GRANT, [private("cp-1")]))
    yield good("General JSON, two keys of the issuer", sign_general(claims(), TYP_GRANT, [private("cp-1"), private("cp-2")]))
    yield good("General JSON, issuer and approver", sign_general(claims(), TYP_GRANT, [private("bob"), private("cp-1")]))
    yield good(
        "General JSON with white space", json.dumps(json.loads(sign_general(claims(), TYP_GRANT, [private("cp-1")])), indent=1)
    )


def headers() -> Iterator[Vector]:
    payload, plain = canonical(claims()), canonical(header())
    unsigned = f"{base64url.encode(canonical(header(alg='none')))}.{base64url.encode(payload)}."
    yield untrusted("alg none", "header_alg", unsigned)
    mac_input = f"{base64url.encode(canonical(header(alg='HS256')))}.{base64url.encode(payload)}"
    mac = hmac.new(jwk.raw_public(secret("cp-1").public_key()), mac_input.encode(), "sha256").digest()
    yield untrusted("alg HS256 under the public key", "header_alg", f"{mac_input}.{base64url.encode(mac)}")
    for alg in ("RS256", "ES256", "eddsa", "Ed448", ["EdDSA"], 1):
        yield untrusted(f"alg {alg}", "header_alg", headed(alg=alg))
    for typ in ("JWT", "secevent+jwt", "Access-Grant+JWT", "application/access-grant+jwt", "", 1, [TYP_GRANT]):
        yield untrusted(f"typ {typ!r}", "header_typ", headed(typ=typ))
    own = jwk.to_public_jwk(secret("stranger").public_key(), "cp-1", [ISS])
    extra: dict[str, object] = {
        "crit": ["exp"],
        "b64": False,
        "jwk": own,
        "jku": "https://evil.example/keys",
        "x5c": ["MIIB"],
        "x5u": "https://evil.example/cert",
        "zip": "DEF",
        "cty": "JWT",
    }
    for name, value in extra.items():
        yield untrusted(f"{name} in the header", "header_member", headed(**{name: value}))
    for name in ("alg", "typ", "kid"):
        yield untrusted(f"no {name}", "header_member", headed(**{name: None}))
    for kid in ("../cp-1", "cp-1\n", "", "k" * 129, 1):
        yield untrusted(f"kid {str(kid)[:12]!r}", "header_kid", headed(kid=kid))
    yield untrusted("kid of no key here", "unknown_key", signed(claims(), "stranger"))
    twice = plain.replace(b'"kid":"cp-1"', b'"kid":"stranger","kid":"cp-1"')
    yield untrusted("duplicate key in the header", "json_duplicate_key", compact(payload, twice))
    escaped = plain.replace(b'"kid":"cp-1"', b'"kid":"cp-1","\\u006bid":"cp-1"')
    yield untrusted("duplicate key in the header, escaped", "json_duplicate_key", compact(payload, escaped))
    yield untrusted("header is a list", "json_not_an_object", compact(payload, b"[]"))
    yield untrusted("header is no JSON", "json_syntax", compact(payload, b"{alg:EdDSA}"))
    yield untrusted("header too long", "header_too_long", compact(payload, plain + b" " * 512))


def shapes() -> Iterator[Vector]:
    token = signed(claims())
    head, payload, signature = token.split(".")
    for name, shape in {
        "empty": "",
        "a newline": "\n",
        "one part": head,
        "two parts": f"{head}.{payload}",
        "four parts": f"{token}.{signature}",
        "five parts, as a JWE has": f"{token}.{payload}.{signature}",
    }.items():
        yield untrusted(name, "token_shape", shape)
    yield untrusted("an empty first part", "json_syntax", f".{payload}.{signature}")
    yield untrusted("an empty payload, cut out", "signature_invalid", f"{head}..{signature}")
    for name, shape in {
        "padding": f"{token}==",
        "a blank before": " " + token,
        "padding inside": f"{head}=.{payload}.{signature}",
        "two newlines": token + "\n\n",
        "carriage return": token + "\r\n",
        "a blank inside": f"{head}.{payload} .{signature}",
        "base64 with plus": f"{head}.{payload}.{signature[:-2]}+g",
        "stray bits: another spelling of the same bytes": token[:-1] + chr(ord(token[-1]) + 1),
    }.items():
        yield untrusted(name, "base64url_invalid", shape)
    yield untrusted("non-ASCII", "token_not_ascii", token + "é")
    yield untrusted("byte order mark", "token_not_ascii", "\ufeff" + token)
    yield untrusted("signature of 63 bytes", "signature_length", compact(b"{}", canonical(header()), edit=lambda raw: raw[:-1]))
    yield untrusted("no signature", "signature_length", f"{head}.{payload}.")
    yield untrusted("another key's signature under this kid", "signature_invalid", compact(b"{}", canonical(header()), kid="cp-2"))
    order = 2**252 + 27742317777372353535851937790883648493
    grown = compact(
        canonical(claims()),
        canonical(header()),
        edit=lambda raw: raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little"),
    )
    yield untrusted("S plus the group's order (RFC 8032 §8.4)", "signature_invalid", grown)
    altered = base64url.encode(canonical(claims(exp=NOW + 7200)))
    yield untrusted("payload exchanged", "signature_invalid", f"{head}.{altered}.{signature}")
    body = len(head) + 1 + len(payload)
    cuts = {
        "token_shape": (1, len(head), len(head) + 10, body),
        "signature_length": (body + 1, body + 1 + 64),
        "base64url_invalid": (len(token) - 1, len(token) - 20),
    }
    for code, places in cuts.items():
        for place in places:
            yield untrusted(f"cut after byte {place}", code, token[:place])
    long = {"before": f"{head}.", "after": f".{signature}"}
    yield untrusted("payload over 32 KiB", "payload_too_long", "ICAg", repeat=10923, **long)
    yield untrusted("token over its bound", "token_too_long", "ICAg", repeat=16384, **long)
    yield untrusted("a long text of dots", "token_shape", ".", repeat=50000, before="", after="")
    yield untrusted("a long text of brackets", "json_too_deep", '{"payload":[', repeat=4000, before="", after="}")


def generals() -> Iterator[Vector]:
    token = json.loads(sign_general(claims(), TYP_GRANT, [private("cp-1"), private("cp-2")]))
    first, second = token["signatures"]

    def with_signatures(*entries: object, **more: object) -> str:
        return json.dumps({"payload": token["payload"], "signatures": list(entries), **more})

    forged = {"protected": second["protected"], "signature": first["signature"]}
    yield untrusted("k of n, one signature bad", "signature_invalid", with_signatures(first, forged))
    yield untrusted(
        "k of n, one key unknown", "unknown_key", sign_general(claims(), TYP_GRANT, [private("cp-1"), private("stranger")])
    )
    yield untrusted("the same signature twice", "signer_twice", with_signatures(first, first))
    renamed = compact(canonical(claims()), canonical(header(alg="Ed25519"))).split(".")
    again = {"protected": renamed[0], "signature": renamed[2]}
    yield untrusted("the same key twice, with two headers", "signer_twice", with_signatures(first, again))
    yield untrusted("no signature at all", "signature_count", with_signatures())
    yield untrusted("nine signatures", "signature_count", with_signatures(*[first] * 9))
    yield untrusted("signatures is no list", "signature_count", json.dumps({"payload": token["payload"], "signatures": first}))
    yield untrusted("an unprotected header", "token_shape", with_signatures({**first, "header": {"kid": "cp-1"}}))
    yield untrusted("a third member", "token_shape", with_signatures(first, extra=1))
    yield untrusted("flattened JSON", "token_shape", json.dumps({"payload": token["payload"], **first}))
    yield untrusted("payload is an object", "token_shape", json.dumps({"payload": {}, "signatures": [first]}))
    yield untrusted("signature is a number", "token_shape", with_signatures({**first, "signature": 1}))
    yield untrusted("protected is an object", "token_shape", with_signatures({**first, "protected": header()}))
    yield untrusted("signature is no object", "token_shape", with_signatures("x"))
    yield untrusted("two payloads", "json_duplicate_key", with_signatures(first).replace("{", '{"payload":"e30",', 1))
    yield untrusted("text after the object", "token_shape", with_signatures(first) + " x")
    yield untrusted("two objects", "json_syntax", with_signatures(first) * 2)
    yield untrusted("cut in the middle", "token_shape", with_signatures(first)[:200])
    yield untrusted("non-ASCII by an escape", "base64url_invalid", with_signatures({**first, "signature": "é" * 86}))
    event = compact(canonical(claims()), canonical(header(typ="secevent+jwt"))).split(".")
    mixed = with_signatures({"protected": event[0], "signature": event[2]}, second)
    yield untrusted("a signature meant for another type of token", "header_typ", mixed)


def payloads() -> Iterator[Vector]:
    yield invalid("duplicate key in the payload", "json_duplicate_key", spelled('"jti":', '"jti":"grant-0","jti":'))
    yield invalid("duplicate key deep in the payload", "json_duplicate_key", spelled('"type":', '"type":"sudo","type":'))
    yield invalid("duplicate key, escaped", "json_duplicate_key", spelled('"jti":', '"\\u006ati":"grant-0","jti":'))
    exp = f'"exp":{NOW + 3600}'
    yield invalid("exp as a float", "json_float", spelled(exp, f"{exp}.0"))
    yield invalid("exp with an exponent", "json_float", spelled(exp, '"exp":18e8'))
    yield invalid("exp of 10^4000", "json_integer_too_long", spelled(exp, '"exp":1' + "0" * 4000))
    for word in ("NaN", "Infinity", "-Infinity"):
        yield invalid(f"exp {word}", "json_not_finite", spelled(exp, f'"exp":{word}'))
    yield invalid("leading zero", "json_syntax", spelled(exp, f'"exp":0{NOW + 3600}'))
    yield invalid("deep nesting, lists", "json_too_deep", spelled('"restart web"', "[" * 1500 + "]" * 1500))
    yield invalid("deep nesting, never closed", "json_too_deep", spelled('"restart web"', '{"a":' * 1500))
    yield invalid(
        "deep nesting behind a bracket in a string", "json_too_deep", spelled('"restart web"', '{"\\"]":[' * 17 + "]}" * 17)
    )
    yield invalid("a lone surrogate", "json_lone_surrogate", spelled("restart web", "\\ud83d"))
    yield invalid("a lone surrogate as a key", "json_lone_surrogate", spelled('"reason"', '"\\udc00"'))
    yield invalid("a surrogate in UTF-8", "json_encoding", spelled("restart web", "\ud83d"))
    head = canonical(header())
    text = canonical(claims())
    yield invalid("not UTF-8", "json_encoding", compact(text.replace(b"restart", b"rest\xffrt"), head))
    yield invalid("UTF-16", "json_encoding", compact(text.decode().encode("utf-16"), head))
    yield invalid("byte order mark in the payload", "json_encoding", compact(b"\xef\xbb\xbf" + text, head))
    yield invalid("a control character unescaped", "json_syntax", spelled("restart web", "restart\nweb"))
    yield invalid("a comment", "json_syntax", spelled('"restart web"', '"restart web"/* */'))
    yield invalid("payload is a list", "json_not_an_object", compact(b"[" + text + b"]", head))
    yield invalid("payload is empty", "json_syntax", compact(b"", head))
    yield invalid("two objects in the payload", "json_syntax", compact(text * 2, head))


def times() -> Iterator[Vector]:
    for name in ("iss", "aud", "sub", "iat", "nbf", "exp", "jti", "authorization_details"):
        yield invalid(f"{name} missing", "missing_member", signed(claims(**{name: None})))
    for name in ("iat", "nbf", "exp"):
        yield invalid(f"{name} as a string", "not_an_integer", signed(claims(**{name: str(NOW)})), name)
        yield invalid(f"{name} true", "not_an_integer", signed(claims(**{name: True})), name)
        yield invalid(f"{name} negative", "out_of_range", signed(claims(**{name: -1})), name)
        yield invalid(f"{name} far too large", "out_of_range", signed(claims(**{name: 2**41})), name)
    yield invalid("exp null", "not_an_integer", spelled(f'"exp":{NOW + 3600}', '"exp":null'), "exp")
    yield invalid("expired this very second", "expired", signed(claims(nbf=NOW - 60, exp=NOW)), "exp")
    yield invalid("expired long ago", "expired", signed(claims(iat=1, nbf=1, exp=2)), "exp")
    yield invalid("exp at nbf", "times_out_of_order", signed(claims(nbf=NOW + 3600)), "exp")
    yield invalid("exp before nbf", "times_out_of_order", signed(claims(nbf=NOW + 7200)), "exp")
    yield invalid("longer than 90 days", "lifetime_too_long", signed(claims(exp=NOW + 90 * 86400 + 1)), "exp")
    yield invalid("issued 61 s ahead", "issued_in_future", signed(claims(iat=NOW + 61)), "iat")


def bindings() -> Iterator[Vector]:
    yield invalid("aud as a list", "not_a_string", signed(claims(aud=[HOST])), "aud")
    yield invalid("aud of another host", "wrong_host", signed(claims(aud="urn:tidegate:other")), "aud")
    yield invalid("aud a prefix of this host", "wrong_host", signed(claims(aud=HOST[:-1])), "aud")
    yield invalid("aud empty", "text_length", signed(claims(aud="")), "aud")
    where = {"field": "iss"}
    yield untrusted("key of another issuer", "key_not_for_issuer", signed(claims(), "other"), **where)
    yield untrusted("iss of another key", "key_not_for_issuer", signed(claims(iss="https://other.example")), **where)
    yield untrusted("iss with a slash more", "key_not_for_issuer", signed(claims(iss=ISS + "/")), **where)
    yield untrusted("an approver alone", "key_not_for_issuer", signed(claims(), "bob"), **where)
    joined = sign_general(claims(), TYP_GRANT, [private("cp-1"), private("other")])
    yield untrusted("a second signer of another issuer, no approver", "key_not_for_issuer", joined, **where)
    own = sign_general(claims(), TYP_GRANT, [private("cp-1"), private("alice")])
    yield invalid("approved by the subject", "self_approval", own, "sub")
    for bad in ("../../etc/passwd", "a/b", "a b", "", "j" * 129, "grant-1\n", "grant\u0000"):
        yield invalid(f"jti {bad[:16]!a}", "jti_invalid", signed(claims(jti=bad)), "jti")
    yield invalid("jti a number", "not_a_string", signed(claims(jti=1)), "jti")
    yield invalid("supersedes traversal", "jti_invalid", signed(claims(supersedes="../x")), "supersedes")
    yield invalid("supersedes itself", "supersedes_itself", signed(claims(supersedes="grant-1")), "supersedes")
    yield invalid("unknown claim", "unknown_member", signed(claims(admin=True)))
    yield invalid("a claim in capitals", "unknown_member", signed(claims(EXP=NOW)))
    yield invalid("recording true", "not_an_object", signed(claims(recording=True)), "recording")
    yield invalid("recording empty", "missing_member", signed(claims(recording={})), "recording")
    yield invalid("recording required 1", "not_a_boolean", signed(claims(recording={"required": 1})), "recording.required")
    yield invalid("recording with more", "unknown_member", signed(claims(recording={"required": True, "to": "x"})), "recording")
    for name in ("iss", "sub", "reason", "ticket"):
        yield invalid(f"{name} with a newline", "text_unprintable", signed(claims(**{name: "a\nb"})), name)
        yield invalid(f"{name} with a bidi control", "text_unprintable", signed(claims(**{name: "a\u202eb"})), name)
    yield invalid("reason with an escape sequence", "text_unprintable", signed(claims(reason="\u001b[2J")), "reason")
    yield invalid("reason of 501 characters", "text_length", signed(claims(reason="x" * 501)), "reason")
    yield invalid("reason empty", "text_length", signed(claims(reason="")), "reason")
    yield invalid("ticket a number", "not_a_string", signed(claims(ticket=42)), "ticket")


def scopes() -> Iterator[Vector]:
    field = "authorization_details"
    entry = {"type": "account", "identifier": "jit-alice"}
    ssh = {"type": "ssh", "identifier": "jit-alice", "principals": ["alice@example.com"]}
    yield invalid("no details", "list_length", details(), field)
    yield invalid("33 details", "list_length", details(*[{**entry, "identifier": f"jit-{i}"} for i in range(33)]), field)
    yield invalid("details an object", "not_a_list", signed(claims(authorization_details=entry)), field)
    yield invalid("a detail a string", "not_an_object", details("account"), f"{field}[0]")
    yield invalid("a detail without type", "missing_member", details({"identifier": "jit-alice"}), f"{field}[0]")
    yield invalid("type a list", "not_a_string", details({**entry, "type": ["account"]}), f"{field}[0].type")
    yield invalid("type unknown", "unknown_type", details(entry, {**entry, "type": "root"}), f"{field}[1].type")
    yield invalid("a detail twice", "duplicate_entry", details(entry, entry), field)
    yield invalid("two accounts of one login", "second_entry", details(entry, ssh, {**entry, "groups": ["adm"]}), f"{field}[2]")
    yield invalid("two ssh entries of one login", "second_entry", details(ssh, {**ssh, "principals": ["b"]}), f"{field}[1]")
    yield invalid("unknown member in a detail", "unknown_member", account(uid=0), f"{field}[0]")
    names = ["", "-rf", "1234", "Root", "a:b", "jit-alice\n", "jit.alice", "jit-ålice", "../x", "a" * 32, "a$", "jit alice"]
    for name in names:
        yield invalid(f"login {name[:12]!a}", "login_invalid", account(identifier=name), f"{field}[0].identifier")
    for bad in ("a:b", "a,b"):
        yield invalid(f"full_name {bad}", "full_name_invalid", account(full_name=bad), f"{field}[0].full_name")
    yield invalid("full_name with a newline", "text_unprintable", account(full_name="a\nroot::0:0"), f"{field}[0].full_name")
    yield invalid("full_name with a bidi control", "text_unprintable", account(full_name="\u2066x"), f"{field}[0].full_name")
    for bad in ("adm\n", "ADM", "a b", "a" * 33, "0"):
        yield invalid(f"group {bad[:12]!a}", "group_invalid", account(groups=[bad]), f"{field}[0].groups[0]")
    yield invalid("a group twice", "duplicate_entry", account(groups=["adm", "adm"]), f"{field}[0].groups")
    for bad in ("bash", "/bin/../bin/sh", "/bin//sh", "/bin/sh\n", "/bin/sh -c", "/" + "a" * 255):
        yield invalid(f"shell {bad[:16]!a}", "path_invalid", account(shell=bad), f"{field}[0].shell")
    yield invalid("home elsewhere", "unknown_value", account(home="/root"), f"{field}[0].home")
    for bad in ("10.1.0.1/16", "10.0.0.0/255.0.0.0", "10.0.0.0/0.255.255.255", "10.0.0.0/08", "*", "!10.0.0.1", "fe80::1%eth0"):
        where = f"{field}[0].source_address[0]"
        yield invalid(f"source_address {bad}", "source_address_invalid", details({**ssh, "source_address": [bad]}), where)
    for bad in ("a b", "a,b", 'a"b', "a\nb"):
        yield invalid(f"principal {bad!a}", "principal_invalid", details({**ssh, "principals": [bad]}), f"{field}[0].principals[0]")
    yield invalid(
        "role of capitals", "role_invalid", details({"type": "role", "identifier": "jit-alice", "name": "DBA"}), f"{field}[0].name"
    )


def build() -> dict[str, object]:
    groups = (goods, headers, shapes, generals, payloads, times, bindings, scopes)
    vectors = [vector for group in groups for vector in group()]
    return {"typ": TYP_GRANT, "host_id": HOST, "now": NOW, "keys": jwks(), "vectors": vectors}


def text() -> str:
    return json.dumps(build(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
