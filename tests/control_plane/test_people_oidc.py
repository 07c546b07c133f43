"""People log in by a real OpenID provider, and by no token that is not theirs, now, for this program."""

import base64
import hashlib
import hmac
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from examples.control_plane.commands import flows
from examples.control_plane.people import oidc
from examples.control_plane.people.errors import LoginRefusedError, ProviderError
from examples.control_plane.people.https import Https
from examples.control_plane.people.keyset import KeySource, discover
from tests.control_plane.provider import CLIENT, Authority, Browser, RunningProvider, authority, running, signing_key


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def provider(given: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProvider]:
    with running(tmp_path_factory.mktemp("provider"), given, "https://127.0.0.1:9/logout") as found:
        yield found


def program(provider: RunningProvider) -> flows.Client:
    https = Https(ca_file=provider.authority.ca)
    return flows.Client(discover(provider.issuer, https), CLIENT, ("openid", "profile", "email", "groups"), https)


def configured(provider: RunningProvider) -> oidc.Provider:
    return oidc.Provider(provider.issuer, CLIENT, ca_file=provider.authority.ca)


def source(provider: RunningProvider) -> KeySource:
    return KeySource(provider.issuer, Https(ca_file=provider.authority.ca))


def checked(provider: RunningProvider, token: str, nonce: str | None = None, keys: KeySource | None = None) -> oidc.Claims:
    keys = keys or source(provider)
    return oidc.verify(token, configured(provider), keys, nonce=nonce, now=time.time(), monotonic=time.monotonic())


def log_in(provider: RunningProvider, account: str = "alice") -> flows.Proof:
    """By the browser, as a person does."""
    browser = Browser(provider.authority)
    visits: list[threading.Thread] = []

    def show(url: str) -> None:
        visits.append(threading.Thread(target=browser.log_in, args=(url, account)))
        visits[0].start()

    proof = flows.by_browser(program(provider), show, wait_s=20)
    visits[0].join(10)
    return proof


def claims(provider: RunningProvider, **changed: object) -> dict[str, object]:
    now = int(time.time())
    right = {"iss": provider.issuer, "aud": CLIENT, "sub": "alice", "iat": now, "exp": now + 300}
    return {key: value for key, value in (right | changed).items() if value is not None}


def kid(provider: RunningProvider) -> str:
    return next(iter(source(provider)._fetch(0).by_kid))


def test_somebody_logs_in_by_their_browser(provider: RunningProvider) -> None:
    proof = log_in(provider)
    found = checked(provider, proof.id_token, proof.nonce)
    assert (found.subject, found.name, found.email) == ("alice", "Alice Ng", "alice@example.com")
    assert found.groups == {"contractors", "nothing-here"}
    assert found.sid
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, proof.id_token, "the nonce of another login")
    assert refused.value.code == "id_token_nonce"


def test_an_address_that_the_provider_has_not_verified_counts_as_none(provider: RunningProvider) -> None:
    for name, verified in (("eve", False), ("mallory", "true")):
        provider.account(name, {"name": name, "email": "alice@example.com", "email_verified": verified, "groups": []})
        proof = log_in(provider, name)
        assert checked(provider, proof.id_token, proof.nonce).email == ""


def test_whoever_refuses_in_the_browser_is_not_logged_in(provider: RunningProvider) -> None:
    with pytest.raises(LoginRefusedError) as refused:
        flows.by_browser(program(provider), Browser(provider.authority).cancel, wait_s=10)
    assert refused.value.code == "login_refused"
    assert "access_denied" in refused.value.reason


def test_an_answer_with_another_state_is_not_ours_and_disturbs_nothing(provider: RunningProvider) -> None:
    def show(url: str) -> None:
        with pytest.raises(OSError, match="400"):
            Browser(provider.authority).open(_redirect(url, "code=stolen").replace("state=", "state=x"))
        threading.Thread(target=Browser(provider.authority).log_in, args=(url, "alice")).start()

    proof = flows.by_browser(program(provider), show, wait_s=20)
    assert checked(provider, proof.id_token, proof.nonce).subject == "alice"


def _redirect(url: str, query: str) -> str:
    asked = dict(urllib.parse.parse_qsl(url.partition("?")[2]))
    return f"{asked['redirect_uri']}?{query}&state={asked['state']}"


CASES: dict[str, tuple[Mapping[str, object], str]] = {
    "another audience": ({"aud": "another-program"}, "id_token_audience"),
    "others may show it too": ({"aud": [CLIENT, "another-program"]}, "id_token_audience"),
    "made for another party": ({"azp": "another-program"}, "id_token_audience"),
    "no audience": ({"aud": None}, "id_token_claims"),
    "another issuer": ({"iss": "https://login.example.org"}, "id_token_issuer"),
    "expired": ({"iat": 1_700_000_000, "exp": 1_700_000_300}, "id_token_expired"),
    "no end": ({"exp": None}, "id_token_claims"),
    "an end that is a text": ({"exp": "9999999999"}, "id_token_claims"),
    "from the future": ({"iat": 9_999_999_999, "exp": 9_999_999_999}, "id_token_early"),
    "not yet": ({"nbf": 9_999_999_999}, "id_token_early"),
    "long ago": ({"iat": 1_700_000_000}, "id_token_old"),
    "nobody": ({"sub": ""}, "id_token_claims"),
    "a number": ({"sub": 7}, "id_token_claims"),
    "an unasked nonce": ({"nonce": "n"}, "id_token_nonce"),
    "a logout token": ({"events": {oidc.LOGOUT_EVENT: {}}}, "id_token_type"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_token_that_says_anything_else_is_refused(provider: RunningProvider, case: str) -> None:
    changed, code = CASES[case]
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, provider.sign(claims(provider, **changed), kid=kid(provider)))
    assert refused.value.code == code


def test_the_same_token_with_nothing_changed_is_taken(provider: RunningProvider) -> None:
    """Else the cases above could be refused for another reason than theirs."""
    assert checked(provider, provider.sign(claims(provider), kid=kid(provider))).subject == "alice"


def test_a_token_for_which_a_nonce_was_made_must_have_it(provider: RunningProvider) -> None:
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, provider.sign(claims(provider), kid=kid(provider)), "expected")
    assert refused.value.code == "id_token_nonce"


@pytest.mark.parametrize("typ", ["at+jwt", "logout+jwt", "access-grant+jwt"])
def test_another_kind_of_token_is_no_id_token(provider: RunningProvider, typ: str) -> None:
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, provider.sign(claims(provider), kid=kid(provider), typ=typ))
    assert refused.value.code == "id_token_type"


def test_a_token_without_a_signature_is_refused(provider: RunningProvider) -> None:
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, jwt.encode(claims(provider), "", algorithm="none", headers={"kid": kid(provider)}))
    assert refused.value.code == "id_token_algorithm"


def test_the_public_key_is_no_shared_secret(provider: RunningProvider) -> None:
    """HS256 under the bytes of the public key: the classic confusion. PyJWT refuses to make it, so it is made by hand."""
    public = provider.key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    parts = [{"alg": "HS256", "typ": "JWT", "kid": kid(provider)}, claims(provider)]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    mac = base64.urlsafe_b64encode(hmac.new(public, signed, hashlib.sha256).digest()).rstrip(b"=")
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, (signed + b"." + mac).decode())
    assert refused.value.code == "id_token_algorithm"


def test_a_changed_or_foreign_signature_is_refused(provider: RunningProvider) -> None:
    token = provider.sign(claims(provider), kid=kid(provider))
    other = jwt.encode(claims(provider), signing_key("x")[0], algorithm="ES256", headers={"kid": kid(provider)})
    changed = token[:-8] + ("A" * 8 if not token.endswith("A" * 8) else "B" * 8)
    for bad in (changed, other):
        with pytest.raises(LoginRefusedError) as refused:
            checked(provider, bad)
        assert refused.value.code == "id_token_signature"


@pytest.mark.parametrize("token", ["", "a.b", "a.b.c", "....", "e30.e30.", "x" * 20_000, "é.e30.e30"])
def test_what_is_no_token_is_refused_before_anything_is_asked(provider: RunningProvider, token: str) -> None:
    nobody = KeySource("https://127.0.0.1:9", Https())
    with pytest.raises(LoginRefusedError) as refused:
        checked(provider, token, keys=nobody)
    assert refused.value.code in {"id_token_malformed", "id_token_algorithm"}


def test_new_keys_are_taken_and_old_ones_are_not_for_long(provider: RunningProvider) -> None:
    keys = source(provider)
    before = provider.sign(claims(provider), kid=kid(provider))
    at = time.monotonic()
    right = {"nonce": None, "now": time.time()}
    assert oidc.verify(before, configured(provider), keys, monotonic=at, **right).subject == "alice"  # type: ignore[arg-type]  # two keywords
    provider.new_keys("second")
    proof = log_in(provider)
    with pytest.raises(LoginRefusedError) as refused:  # asked a moment ago: an unknown kid asks no more
        oidc.verify(proof.id_token, configured(provider), keys, nonce=proof.nonce, now=time.time(), monotonic=at + 1)
    assert refused.value.code == "id_token_key_unknown"
    found = oidc.verify(proof.id_token, configured(provider), keys, nonce=proof.nonce, now=time.time(), monotonic=at + 30)
    assert found.subject == "alice"
    with pytest.raises(LoginRefusedError) as refused:
        oidc.verify(before, configured(provider), keys, monotonic=at + 31, **right)  # type: ignore[arg-type]  # two keywords
    assert refused.value.code == "id_token_key_unknown"


def test_a_provider_whose_certificate_is_not_trusted_is_not_asked(provider: RunningProvider) -> None:
    with pytest.raises(ProviderError) as failed:
        discover(provider.issuer, Https())
    assert failed.value.code == "server_untrusted"


def test_a_provider_that_speaks_for_another_is_not_believed(provider: RunningProvider) -> None:
    with pytest.raises(ProviderError) as failed:
        discover(provider.issuer + "/", Https(ca_file=provider.authority.ca))
    assert failed.value.code == "provider_metadata"


def test_by_the_device_flow_with_a_code_confirmed_elsewhere(provider: RunningProvider) -> None:
    shown: list[flows.Code] = []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            page = Browser(provider.authority).log_in(shown[0].complete, "alice")
            assert "success" in page.lower(), page

    proof = flows.by_device(program(provider), shown.append, sleep)
    assert proof.nonce is None
    assert shown[0].user_code in shown[0].complete
    assert checked(provider, proof.id_token).subject == "alice"
    assert waits[0] == 5.0  # RFC 8628's own interval, since the provider names none


def test_a_device_code_that_is_refused_lets_nobody_in(provider: RunningProvider) -> None:
    def show(code: flows.Code) -> None:
        Browser(provider.authority).refuse(code.complete)

    with pytest.raises(LoginRefusedError) as refused:
        flows.by_device(program(provider), show, lambda _: None)
    assert refused.value.code == "login_refused"
    assert "access_denied" in refused.value.reason


def test_a_device_code_that_nobody_confirms_ends(provider: RunningProvider) -> None:
    at = [0.0]

    def sleep(seconds: float) -> None:
        at[0] += max(seconds, 200.0)

    with pytest.raises(LoginRefusedError) as refused:
        flows.by_device(program(provider), lambda _: None, sleep, lambda: at[0])
    assert refused.value.code == "login_abandoned"
