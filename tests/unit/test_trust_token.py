"""No byte of a token can be changed, and no bytes at all make the pre-parser raise anything but a refusal, or take long."""

import json
import re
import time
from dataclasses import replace

import jwt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.errors import InvalidGrantError, RefusedError, UntrustedError
from agent.trust import (
    TYP_EVENT,
    TYP_GRANT,
    KeyRing,
    base64url,
    canonical,
    claimed_typ,
    parse_object,
    sign_compact,
    sign_general,
    token_max,
    verify,
)
from agent.trust.strictjson import DEPTH_MAX, INTEGER_DIGITS_MAX
from agent.trust.token import PAYLOAD_MAX
from tests.unit.trust_kit import RING, VECTORS, accept, token_of
from tests.vectors import make

COMPACT = make.signed(make.claims()).encode()
GENERAL = sign_general(make.claims(), TYP_GRANT, [make.private("cp-1"), make.private("bob")]).encode()
SLOW_S = 2.0  # for a text of at most 64 KiB, on a machine loaded by others; a quadratic scan takes far longer


@pytest.mark.parametrize("token", [COMPACT, GENERAL], ids=["compact", "general"])
def test_a_token_altered_at_any_byte_is_refused(token: bytes) -> None:
    accept(token)
    for place, byte in enumerate(token):
        for value in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, 0, 0x0A, ord("A"), ord("."), ord('"'), (byte + 1) % 256} - {byte}:
            with pytest.raises(UntrustedError):
                accept(token[:place] + bytes([value]) + token[place + 1 :])


@pytest.mark.parametrize("token", [COMPACT, GENERAL], ids=["compact", "general"])
def test_a_token_cut_or_grown_anywhere_is_refused(token: bytes) -> None:
    for place in range(len(token)):
        for altered in (token[:place], token[:place] + b"A" + token[place:], token[:place] + token[place + 1 :]):
            with pytest.raises(UntrustedError):
                accept(altered)


def only_refusals(token: bytes) -> None:
    started = time.process_time()
    try:
        accept(token)
    except (UntrustedError, InvalidGrantError) as refused:
        assert refused.reason.isprintable()
    assert time.process_time() - started < SLOW_S


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    only_refusals(data)


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet='{}[]",:.eyJ\\u0 \n-1', max_size=300))
def test_any_text_near_json_is_refused_and_nothing_else(text: str) -> None:
    only_refusals(text.encode())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(VECTORS["vectors"]), st.data())
def test_mutations_of_every_vector(vector: dict[str, object], data: st.DataObject) -> None:
    token = token_of(vector)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(start + 8, len(token))))
    only_refusals(token[:start] + data.draw(st.binary(max_size=8)) + token[end:])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([*make.claims(), "supersedes", "x"]), VALUES)
def test_any_signed_claim_is_taken_or_refused(name: str, value: object) -> None:
    text = json.dumps({**make.claims(), name: value})
    only_refusals(sign_compact(text.encode(), TYP_GRANT, make.private("cp-1")).encode())


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_any_signed_detail_is_taken_or_refused(value: object) -> None:
    for entry in (value, {"type": "account", "identifier": "jit-a", "groups": value}, {"type": value}):
        only_refusals(
            sign_compact(json.dumps(make.claims(authorization_details=[entry])).encode(), TYP_GRANT, make.private("cp-1")).encode()
        )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_signed_bytes_are_refused(payload: bytes) -> None:
    only_refusals(sign_compact(payload, TYP_GRANT, make.private("cp-1")).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b'"' * 32768,
        b'"\\' * 16384,
        b'\\"' * 16384,
        b"[]" * 16384,
        b"{" * 32768,
        b"]" * 32768,
        b" " * 32768,
        b'{"":' * 8192,
        b"1" * 32768,
        b'{"a":"' + b"\\" * 32000,
        b'{"a":' + b"9" * 32000 + b"}",
        b'{"a":[' + b"{}," * 10000 + b"{}]}",
        b'{"a":"' + b"\\ud83d" * 5000 + b'"}',
        b"{" + b",".join(b'"%d":0' % number for number in range(3000)) + b"}",
    ],
)
def test_hostile_payloads_of_the_full_size_cost_little(payload: bytes) -> None:
    only_refusals(sign_compact(payload[:PAYLOAD_MAX], TYP_GRANT, make.private("cp-1")).encode())


@pytest.mark.parametrize("unit", ['"', '\\"', "[", "{", ".", "A", "\n", " ", '{"payload":', "="])
def test_hostile_tokens_of_any_size_cost_little(unit: str) -> None:
    for size in (token_max(), 4 << 20):
        only_refusals((unit * (size // len(unit))).encode())
        only_refusals(("{" + unit * (size // len(unit) - 2) + "}").encode())


def test_the_largest_payload_is_taken_and_one_byte_more_is_not() -> None:
    text = canonical(make.claims())
    largest = text + b" " * (PAYLOAD_MAX - len(text))
    accept(sign_compact(largest, TYP_GRANT, make.private("cp-1")).encode())
    accept(sign_general(largest, TYP_GRANT, [make.private("cp-1"), make.private("bob"), make.private("cp-2")]).encode())
    with pytest.raises(UntrustedError, match="payload_too_long"):
        accept(sign_compact(largest + b" ", TYP_GRANT, make.private("cp-1")).encode())


def test_the_kind_of_a_token_is_read_for_choosing_only() -> None:
    event = sign_compact(make.claims(), TYP_EVENT, make.private("cp-1")).encode()
    assert (claimed_typ(COMPACT), claimed_typ(event)) == (TYP_GRANT, TYP_EVENT)
    with pytest.raises(RefusedError, match="header_typ"):
        claimed_typ(sign_compact(make.claims(), "JWT", make.private("cp-1")).encode())
    with pytest.raises(RefusedError, match="header_typ"):
        verify(event, RING, typ=TYP_GRANT)


def test_signatures_for_two_kinds_of_token_are_no_token_of_either() -> None:
    grant = json.loads(sign_general(make.claims(), TYP_GRANT, [make.private("cp-1")]))
    event = json.loads(sign_general(make.claims(), TYP_EVENT, [make.private("cp-2")]))
    mixed = {**grant, "signatures": grant["signatures"] + event["signatures"]}
    with pytest.raises(UntrustedError, match="header_typ"):
        claimed_typ(json.dumps(mixed).encode())


def test_one_key_under_two_kids_is_one_signer_even_in_a_ring_made_by_hand() -> None:
    key = RING.get("cp-1")
    assert key is not None
    ring = KeyRing({"cp-1": key, "cp-9": replace(key, kid="cp-9")})
    token = sign_general(make.claims(), TYP_GRANT, [make.private("cp-1"), {**make.private("cp-1"), "kid": "cp-9"}])
    with pytest.raises(UntrustedError, match="signer_twice"):
        verify(token.encode(), ring, typ=TYP_GRANT)


NESTED: object = 0
NESTED_OBJECTS: object = None
for _ in range(DEPTH_MAX):
    NESTED, NESTED_OBJECTS = [NESTED], {"b": NESTED_OBJECTS}


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"a": 1.0}, "json_float"),
        ({"a": [float("nan")]}, "json_float"),
        ({"a": "\ud800"}, "json_lone_surrogate"),
        ({"\udfff": 1}, "json_lone_surrogate"),
        ({1: "a"}, "json_not_plain"),
        ({"a": b"x"}, "json_not_plain"),
        ({"a": {1, 2}}, "json_not_plain"),
        ({"a": NESTED}, "json_not_plain"),
        ({"a": {"b": NESTED}}, "json_not_plain"),
        ({"a": NESTED_OBJECTS}, "json_not_plain"),
    ],
)
def test_what_could_not_be_read_back_is_not_signed(value: dict[str, object], code: str) -> None:
    with pytest.raises(InvalidGrantError, match=code):
        sign_compact(value, TYP_GRANT, make.private("cp-1"))


@example(None)
@given(VALUES)
def test_what_is_signed_is_read_back_the_same(value: object) -> None:
    text = canonical({"a": value})
    if all(len(digits) <= INTEGER_DIGITS_MAX for digits in re.findall(rb"[0-9]+", text)):
        assert parse_object(text) == {"a": value}


@pytest.mark.parametrize("kid", [None, 1, "", "a/b"])
def test_nothing_is_signed_under_a_kid_that_no_ring_holds(kid: object) -> None:
    with pytest.raises(ValueError, match="kid"):
        sign_compact({}, TYP_GRANT, {**make.private("cp-1"), "kid": kid})


def test_another_implementation_reads_and_writes_the_same_tokens() -> None:
    public = make.secret("cp-1").public_key()
    assert jwt.PyJWS().decode(COMPACT, public, algorithms=["EdDSA"]) == canonical(make.claims())
    written = jwt.encode(make.claims(), make.secret("cp-1"), algorithm="EdDSA", headers={"typ": TYP_GRANT, "kid": "cp-1"})
    assert accept(written.encode()).sub == "alice@example.com"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100))
def test_base64url_has_one_spelling(data: bytes) -> None:
    text = base64url.encode(data)
    assert base64url.decode(text) == data
    for other in (text + "=", text + "\n", text + " ", "=" + text, text + "!"):
        assert base64url.decode(other) is None
