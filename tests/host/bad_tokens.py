"""Tokens that are wrong before anybody looks at what they ask for: how they are signed, spelled, timed and addressed."""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Any

from agent.trust import TYP_EVENT, TYP_GRANT, base64url, canonical, jwk
from tests.host.bad_grants import Case, asks
from tests.host.scene import OTHER_ISSUER, Scene, account


def raw(scene: Scene, payload: bytes, **header: object) -> bytes:
    """A compact token around these bytes, signed by ``cp-1`` whatever the header says; a member None is taken out."""
    good: dict[str, object] = {"alg": "EdDSA", "typ": TYP_GRANT, "kid": "cp-1", **header}
    head = base64url.encode(canonical({name: value for name, value in good.items() if value is not None}))
    body = f"{head}.{base64url.encode(payload)}"
    return f"{body}.{base64url.encode(jwk.private_key(scene.keys['cp-1']).sign(body.encode()))}".encode()


def headed(name: str, code: str, **header: object) -> Case:
    """Good claims under another header."""
    return Case(name, code, lambda scene: raw(scene, canonical(scene.claims()), **header))


def spelled(name: str, code: str, member: str, text: str) -> Case:
    """Good claims, in which one member is spelled in JSON as no writer would."""

    def make(scene: Scene) -> bytes:
        claims: dict[str, Any] = scene.claims()
        old = canonical({member: claims[member]})[1:-1]
        whole = canonical(claims)
        assert whole.count(old) == 1
        return raw(scene, whole.replace(old, text.replace("OLD", old.decode()).encode()))

    return Case(name, code, make)


def _unsigned(scene: Scene) -> bytes:
    head, payload, _ = raw(scene, canonical(scene.claims()), alg="none").split(b".")
    return head + b"." + payload + b"."


def _mac(scene: Scene) -> bytes:
    """The classic confusion: the public key taken as an HMAC secret."""
    body, _, _ = raw(scene, canonical(scene.claims()), alg="HS256").rpartition(b".")
    secret = jwk.raw_public(jwk.public_key(scene.keys["cp-1"]))
    return body + b"." + base64url.encode(hmac.new(secret, body, hashlib.sha256).digest()).encode()


def _exchanged(scene: Scene) -> bytes:
    head, _, signature = scene.grant().split(b".")
    return b".".join((head, base64url.encode(canonical(scene.claims(lifetime=3000))).encode(), signature))


def headers() -> Iterator[Case]:
    yield Case("alg none", "header_alg", _unsigned)
    yield Case("alg HS256 under the public key", "header_alg", _mac)
    for alg in ("RS256", "ES256", "eddsa", "Ed448", "none"):
        yield headed(f"alg {alg}, signed", "header_alg", alg=alg)
    yield headed("a grant's claims as an event", "unknown_member", typ=TYP_EVENT)
    for typ in ("JWT", "at+jwt", "ACCESS-GRANT+JWT"):
        yield headed(f"typ {typ}", "header_typ", typ=typ)
    yield headed("crit", "header_member", crit=["exp"])
    yield headed("b64", "header_member", b64=False, crit=["b64"])
    yield headed("a key of its own", "header_member", jwk={"kty": "OKP"})
    yield headed("jku", "header_member", jku="https://evil.example/keys")
    yield headed("no typ", "header_member", typ=None)
    yield headed("kid with a path", "header_kid", kid="../cp-1")
    yield headed("another key's kid", "signature_invalid", kid="other")
    yield Case("a key this host does not know", "unknown_key", lambda scene: scene.sign(scene.claims(), "stranger"))
    yield Case("a key of another issuer", "key_not_for_issuer", lambda scene: scene.sign(scene.claims(), "other"))
    yield asks("an issuer this key may not speak for", "key_not_for_issuer", account(), iss=OTHER_ISSUER)
    yield Case("the payload exchanged", "signature_invalid", _exchanged)
    two = lambda scene: scene.sign(scene.claims(), "cp-1", "stranger")  # noqa: E731
    yield Case("one of two signers unknown", "unknown_key", two)
    yield Case("one key twice", "signer_twice", lambda scene: scene.sign(scene.claims(), "cp-1", "cp-1"))


def shapes() -> Iterator[Case]:
    for name, code, data in (
        ("one byte", "token_shape", b"x"),
        ("binary", "token_not_ascii", bytes(range(256))),
        ("a zip bomb's head", "token_not_ascii", b"\x1f\x8b\x08" + bytes(1000)),
        ("empty JSON", "token_shape", b"{}"),
        ("deep JSON", "json_too_deep", b'{"payload":' * 2000 + b"}" * 2000),
        ("dots", "token_shape", b"." * 50_000),
        ("just under what is read", "token_too_long", b"a" * 65_536),
    ):
        yield Case(name, code, lambda _scene, data=data: data)  # type: ignore[misc]  # bound now, not at the call
    yield Case("two tokens in a file", "token_shape", lambda scene: scene.grant() + b"." + scene.grant())
    yield Case("a token and a blank", "base64url_invalid", lambda scene: scene.grant() + b" ")
    yield Case("a token in quotes", "base64url_invalid", lambda scene: b'"' + scene.grant() + b'"')
    yield Case("payload over its bound", "payload_too_long", lambda scene: scene.grant(reason="x" * 500, pad="x" * 32_768))


def claims() -> Iterator[Case]:
    yield spelled("exp as a float", "json_float", "exp", '"exp":1800000000.5')
    yield spelled("exp with an exponent", "json_float", "exp", '"exp":18e8')
    yield spelled("exp of 10^4000", "json_integer_too_long", "exp", '"exp":1' + "0" * 4000)
    yield spelled("exp NaN", "json_not_finite", "exp", '"exp":NaN')
    yield spelled("exp as a string", "not_an_integer", "exp", '"exp":"1800000000"')
    yield spelled("exp true", "not_an_integer", "exp", '"exp":true')
    yield spelled("exp null", "not_an_integer", "exp", '"exp":null')
    yield spelled("exp negative", "out_of_range", "exp", '"exp":-1')
    yield spelled("exp of 2^63", "out_of_range", "exp", f'"exp":{2**63}')
    yield spelled("exp twice", "json_duplicate_key", "exp", 'OLD,"exp":4102444800')
    yield spelled("exp twice, escaped", "json_duplicate_key", "exp", 'OLD,"e\\u0078p":4102444800')
    yield spelled("aud a list", "not_a_string", "aud", '"aud":["x"]')
    yield spelled("a lone surrogate", "json_lone_surrogate", "sub", '"sub":"\\ud800"')
    yield spelled("deep nesting", "json_too_deep", "reason", '"reason":' + "[" * 2000 + "]" * 2000)
    yield Case("aud a list that holds this host", "not_a_string", lambda scene: scene.grant(aud=[scene.host_id, "x"]))
    yield asks("aud another host", "wrong_host", account(), aud="urn:tidegate:other")
    yield asks("expired", "expired", account(), iat=1, nbf=1_700_000_000, exp=1_700_000_600)
    yield asks("exp before nbf", "times_out_of_order", account(), lifetime=-10)
    yield asks("over 90 days", "lifetime_too_long", account(), lifetime=91 * 86400)
    yield asks("issued in the future", "issued_in_future", account(), iat=4_102_444_800)
    for jti in ("../../etc/passwd", "../x", "/etc/x", "a/b", "a b", "", "j" * 129, "g\n", "g\0", "%2e%2e%2f"):
        yield asks(f"jti {jti[:16]!a}", "jti_invalid", account(), jti=jti)
    for name in ("iss", "aud", "sub", "iat", "nbf", "exp", "jti", "authorization_details"):
        yield asks(f"{name} missing", "missing_member", account(), **{name: None})
    yield asks("an unknown claim", "unknown_member", account(), admin=True)
    yield asks("an unknown entry", "unknown_type", {"type": "root", "identifier": "jit-alice"})
    yield asks("no entries", "list_length", account(), authorization_details=[])
    yield asks("33 entries", "list_length", *(account(f"jit-{number}") for number in range(33)))
    yield asks("two accounts of one name", "second_entry", account(), account(shell="/bin/sh"))
    for name in ("sub", "reason", "ticket"):
        yield asks(f"{name} with a newline", "text_unprintable", account(), **{name: "a\nb"})
        yield asks(f"{name} with an escape sequence", "text_unprintable", account(), **{name: "\x1b[2Jb"})
        yield asks(f"{name} with a bidi control", "text_unprintable", account(), **{name: "a\u202eb"})
        yield asks(f"{name} too long", "text_length", account(), **{name: "x" * 501})


TOKENS = [*headers(), *shapes(), *claims()]
