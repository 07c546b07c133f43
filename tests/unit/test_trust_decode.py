"""What a grant holds when every rule was kept, and who may sign it. The refusals are in the vectors."""

import pytest

from agent.errors import InvalidGrantError, UntrustedError
from agent.model import AccountWant, Grant, Signer, SshWant, VerifiedToken, fields
from agent.trust import TYP_EVENT, TYP_GRANT, canonical, check_issuer, sign_compact, sign_general
from agent.trust.decode import decode
from tests.unit.trust_kit import DECODERS, RING, accept
from tests.vectors import make


def general(*kids: str, **changes: object) -> bytes:
    return sign_general(make.claims(**changes), TYP_GRANT, [make.private(kid) for kid in kids]).encode()


def test_every_claim_arrives() -> None:
    entries = [
        {"type": "account", "identifier": "jit-alice", "full_name": "Alice Ng", "groups": ["adm"], "home": "archive"},
        {"type": "ssh", "identifier": "jit-alice", "principals": ["alice@example.com"], "source_address": ["10.1.0.0/16", "::1"]},
    ]
    token = make.signed(make.claims(authorization_details=entries, supersedes="grant-0")).encode()
    key = RING.get("cp-1")
    assert key is not None
    grant = accept(token)
    assert grant == Grant(
        iss=make.ISS,
        aud=make.HOST,
        sub="alice@example.com",
        iat=make.NOW,
        nbf=make.NOW,
        exp=make.NOW + 3600,
        jti="grant-1",
        wants=(
            AccountWant("jit-alice", "Alice Ng", ("adm",), "/bin/bash", "archive"),
            SshWant("jit-alice", principals=("alice@example.com",), source_address=("10.1.0.0/16", "::1")),
        ),
        signers=(Signer("cp-1", key.thumbprint, (make.ISS,), None),),
        digest=grant.digest,
        reason="restart web",
        ticket="INC-42",
        recording_required=True,
        supersedes="grant-0",
    )


def test_every_signer_is_named_in_the_order_of_the_token() -> None:
    grant = accept(general("bob", "cp-2", "cp-1"))
    assert [signer.kid for signer in grant.signers] == ["bob", "cp-2", "cp-1"]
    assert grant.signers[0].approver == "bob@example.com"


def test_a_key_for_several_issuers_speaks_for_each() -> None:
    assert accept(general("cp-2", iss="https://both.example")).iss == "https://both.example"
    with pytest.raises(UntrustedError, match="key_not_for_issuer"):
        accept(general("cp-1", "cp-2", iss="https://both.example"))


@pytest.mark.parametrize("sub", ["alice@example.com", "ALICE@EXAMPLE.COM", " alice@example.com", "\uff41lice@example.com"])
def test_nobody_approves_for_themselves_in_any_spelling(sub: str) -> None:
    with pytest.raises(InvalidGrantError, match="self_approval"):
        accept(general("cp-1", "alice", sub=sub))


def test_no_signer_speaks_for_nobody() -> None:
    with pytest.raises(UntrustedError, match="key_not_for_issuer"):
        check_issuer(make.ISS, ())


def test_expiry_is_exact_and_has_no_leeway() -> None:
    token = make.signed(make.claims()).encode()
    assert accept(token, now_s=make.NOW + 3599.999).exp == make.NOW + 3600
    with pytest.raises(InvalidGrantError, match="expired"):
        accept(token, now_s=make.NOW + 3600)
    with pytest.raises(InvalidGrantError, match="expired"):
        accept(token, now_s=make.NOW + 3600, iat_leeway_s=10_000)


def test_an_old_token_is_refused_where_an_age_is_asked() -> None:
    token = make.signed(make.claims(iat=make.NOW - 100)).encode()
    assert accept(token, max_age_s=100).iat == make.NOW - 100
    with pytest.raises(InvalidGrantError, match="issued_too_long_ago"):
        accept(token, max_age_s=99)


def test_a_token_of_another_kind_is_no_grant() -> None:
    verified = VerifiedToken(TYP_EVENT, canonical(make.claims()), (), "")
    with pytest.raises(InvalidGrantError, match="token_kind"):
        decode(verified, host_id=make.HOST, now_s=make.NOW, decoders=DECODERS)


def test_a_decoder_gets_the_whole_entry_and_its_place() -> None:
    seen: list[object] = []

    def decoder(body: object, field: str) -> AccountWant:
        seen.extend([body, field])
        return AccountWant("jit-alice")

    token = sign_compact(make.claims(authorization_details=[{"type": "thing", "n": 1}]), TYP_GRANT, make.private("cp-1"))
    accept(token.encode(), decoders={"thing": decoder})
    assert seen == [{"type": "thing", "n": 1}, "authorization_details[0]"]


@pytest.mark.parametrize(("given", "kept"), [("10.1.0.0/16", "10.1.0.0/16"), ("FE80::0001", "fe80::1"), ("0.0.0.0/0", "0.0.0.0/0")])
def test_source_addresses_become_canonical(given: str, kept: str) -> None:
    assert fields.source_address(given, "x") == kept
