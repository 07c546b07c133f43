"""What a host may, over mutual TLS: its own things, and nothing else."""

import contextlib
import hashlib
import http.client
import json
import os
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent import trust
from agent.courier.places import HOST_URI
from agent.trust import jwk
from examples.control_plane.signing import ca
from examples.control_plane.signing import keys as signing_keys
from tests.control_plane.host import ISSUER, TestHost, csr
from tests.control_plane.running import Answer, ControlPlane

NDJSON = {"Content-Type": "application/x-ndjson"}


def test_an_enrolment_token_is_good_once(control_plane: ControlPlane) -> None:
    host = TestHost(control_plane, "once")
    token = host.invitation()
    assert host.call("POST", "/v1/enroll", host.enrolment(token)).status == 200
    other = TestHost(control_plane, "once")
    for again in (host, other):
        answer = again.call("POST", "/v1/enroll", again.enrolment(token))
        assert (answer.status, answer.code) == (401, "token_used")


def test_a_token_is_not_kept_and_cannot_be_guessed(control_plane: ControlPlane) -> None:
    host = TestHost(control_plane, "secret")
    token = host.invitation()
    assert token.encode() not in (control_plane.data / "state.db").read_bytes() + (control_plane.data / "state.db-wal").read_bytes()
    for wrong in (token[:-4] + "AAAA", f"t-{'a' * 16}.{token.partition('.')[2]}", "x", token + "x"):
        answer = host.call("POST", "/v1/enroll", host.enrolment(wrong))
        assert (answer.status, answer.code) == (401, "token_unknown")


def test_only_who_holds_the_hosts_key_enrols_it(control_plane: ControlPlane) -> None:
    host, thief = TestHost(control_plane, "mine"), TestHost(control_plane, "mine")
    token = host.invitation()
    good = host.enrolment(token)
    key = jwk.to_public_jwk(jwk.public_key(thief.key.private_jwk), thief.key.thumbprint, [host.host_id])
    thieves = thief.enrolment(token, host_id=host.host_id, host_key=key, claims={"iss": host.host_id})
    wrongs = {
        "another's proof": good | {"proof": thieves["proof"]},
        "another's key under this id": thieves,
        "another's id": thieves | {"host_id": "urn:tidegate:x"},
        "another request": good | {"csr": thief.enrolment(token)["csr"]},
        "another server": host.enrolment(token, claims={"aud": "https://elsewhere.example.com"}),
        "another token": host.enrolment(token, claims={"token_sha256": "0" * 64}),
        "an old proof": host.enrolment(token, claims={"iat": int(time.time()) - 3600}),
        "no proof": good | {"proof": "x"},
        "no key": good | {"host_key": {"kty": "OKP"}},
    }
    for what, body in wrongs.items():
        answer = host.call("POST", "/v1/enroll", body)
        assert (answer.status, answer.code) == (422, "proof_invalid"), what
    assert host.call("POST", "/v1/enroll", good).status == 200  # none of that used the token up


def test_a_request_for_a_weak_or_foreign_key_is_refused(control_plane: ControlPlane) -> None:
    host = TestHost(control_plane, "weak")
    token = host.invitation()
    weak = rsa.generate_private_key(65537, 2048)
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(weak, hashes.SHA256())
    small = built.public_bytes(serialization.Encoding.PEM).decode()
    body = host.enrolment(token)
    broken = str(body["csr"]).replace("A", "B", 1)
    for text in (small, broken, "no csr"):
        changed = host.enrolment(token, csr=text, claims={"csr_sha256": hashlib.sha256(text.encode()).hexdigest()})
        answer = host.call("POST", "/v1/enroll", changed)
        assert (answer.status, answer.code) == (422, "csr_invalid")
    assert host.call("POST", "/v1/enroll", body).status == 200


def test_a_known_host_is_replaced_only_where_an_admin_said_so(control_plane: ControlPlane) -> None:
    old = TestHost(control_plane, "twice").enrol()
    answer = control_plane.call("POST", "/v1/enrolment-tokens", {"name": "twice"}, who="root")
    assert answer.code == "name_taken"
    first = TestHost(control_plane, "other")
    first.key, first.host_id, first.token = old.key, old.host_id, old.token
    answer = first.call("POST", "/v1/enroll", first.enrolment(first.invitation()))
    assert (answer.status, answer.code) == (409, "host_known")
    new = TestHost(control_plane, "twice").enrol(replaces=True)
    assert old.call("GET", "/v1/host/tokens").code == "client_certificate"
    assert new.tokens()["tokens"] == []


def forged(host: TestHost, authority: ca.Authority, token: str, uri: str = HOST_URI) -> TestHost:
    """The host with a certificate that this authority makes for that token."""
    found = TestHost(host.plane, host.name)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(authority.certificate.subject)
    now = datetime.now(UTC)
    made = (
        builder.public_key(found.tls_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri + token)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    found.certificate = ca.pem(made)
    return found


def test_no_other_certificate_is_good(control_plane: ControlPlane, web1: TestHost, tmp_path: Path) -> None:
    nobody = TestHost(control_plane, "nobody")
    for method, path in (
        ("GET", "/v1/host/stream"),
        ("GET", "/v1/host/tokens"),
        ("POST", "/v1/host/records"),
        ("POST", "/v1/host/renew"),
    ):
        assert nobody.call(method, path, b"{}").code == "client_certificate"
    signing_keys.create(tmp_path / "keys")
    foreign = forged(web1, signing_keys.load(tmp_path / "keys", ISSUER).ca, web1.token)
    with pytest.raises((ssl.SSLError, http.client.RemoteDisconnected, ConnectionError)):
        foreign.call("GET", "/v1/host/tokens")
    own = signing_keys.load(control_plane.data / "keys", ISSUER).ca
    never_issued = forged(web1, own, web1.token)  # signed by the real CA, and not in its book
    assert never_issued.call("GET", "/v1/host/tokens").code == "client_certificate"
    assert forged(web1, own, "x" * 43, "urn:other:").call("GET", "/v1/host/tokens").code == "client_certificate"
    server = TestHost(control_plane, "server")
    chain, key = ca.server_certificate(own, ["localhost"])
    loaded = serialization.load_pem_private_key(key.encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    server.tls_key, server.certificate = loaded, chain  # made for a server, not for a client
    with pytest.raises((ssl.SSLError, http.client.RemoteDisconnected, ConnectionError)):
        server.call("GET", "/v1/host/tokens")


def test_a_host_that_is_expelled_is_cut_off_at_once(control_plane: ControlPlane) -> None:
    host = TestHost(control_plane, "bad").enrol()
    stream = host.stream()
    shown = control_plane.ok("POST", f"/v1/hosts/{host.token}/expel", {"reason": "stolen"}, who="root")
    assert shown["state"] == "expelled"
    began = time.monotonic()
    with pytest.raises(EOFError):
        stream.next()
    assert time.monotonic() - began < 5
    stream.close()
    assert host.call("GET", "/v1/host/tokens").code == "client_certificate"
    answer = control_plane.call(
        "POST", "/v1/requests", {"template": "web-restart", "hosts": ["bad"], "duration_s": 60, "reason": "x"}, who="alice"
    )
    assert answer.code == "host_unknown"


def test_a_renewed_certificate_works_and_older_ones_go(control_plane: ControlPlane) -> None:
    host = TestHost(control_plane, "renewing").enrol()
    first = (host.tls_key, host.certificate)
    for _ in range(3):
        key = ec.generate_private_key(ec.SECP256R1())
        answer = host.call("POST", "/v1/host/renew", {"csr": csr(key)})
        assert answer.status == 200, answer.body
        host.tls_key, host.certificate = key, answer.body["certificate"]
        host.tokens()  # raises unless it is let in
    host.tls_key, host.certificate = first
    assert host.call("GET", "/v1/host/tokens").code == "client_certificate"


def test_the_stream_goes_on_behind_the_last_id_and_starts_anew_without_one(control_plane: ControlPlane, web1: TestHost) -> None:
    request = control_plane.ask("alice", ["web1"])
    control_plane.approve("bob", request)
    stream = web1.stream()
    found = [stream.next()]
    while trust.claimed_typ(found[-1][1].encode()) != trust.TYP_GRANT:
        found.append(stream.next())
    ident, token = found[-1]
    stream.close()
    polled = web1.tokens()
    assert (ident, token) in [(one["id"], one["token"]) for one in polled["tokens"]]
    assert polled["stream"] == stream.epoch
    control_plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "done"}, who="alice")
    later = web1.stream(ident)
    assert later.next()[0] > ident
    later.close()
    web1.send(web1.receipt(f"{request['id']}.1", "revoked"))


def test_a_poll_waits_and_answers_when_there_is_a_word(control_plane: ControlPlane, web1: TestHost) -> None:
    last = max([0, *(one["id"] for one in web1.tokens()["tokens"])])
    request = control_plane.ask("carol", ["web1"])
    timer = threading.Timer(0.5, lambda: control_plane.approve("bob", request))
    began = time.monotonic()
    timer.start()
    words = web1.tokens(last, wait=20)["tokens"]
    assert 0.3 < time.monotonic() - began < 10
    assert trust.claimed_typ(words[0]["token"].encode()) == trust.TYP_GRANT
    timer.join()
    control_plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "done"}, who="carol")
    web1.send(web1.receipt(f"{request['id']}.1", "revoked"))


def test_records_are_taken_once_and_only_under_the_hosts_own_key(
    control_plane: ControlPlane, web1: TestHost, web2: TestHost
) -> None:
    request = control_plane.ask("alice", ["web1"])
    control_plane.approve("bob", request)
    jti = f"{request['id']}.1"
    path = f"/v1/requests/{request['id']}"
    forged_receipt = web2.receipt(jti) | {"key": "forged"}
    assert web1.send(forged_receipt)["refused"] == [{"key": "forged", "code": "signature_refused"}]
    assert web2.send(web2.receipt(jti))["acked"]  # its own word about another host's grant: kept, and it changes nothing
    assert control_plane.ok("GET", path, who="alice")["grants"][0]["state"] == "sent"
    event = {"key": "e:1", "kind": "event", "body": {"metadata": {"event_code": "grant.opened", "uid": "1"}, "severity_id": 1}}
    first = web1.send(web1.answer(jti), event, event)
    assert first == {"acked": [web1.answer(jti)["key"], "e:1", "e:1"], "refused": []}
    assert web1.send(event, web1.answer(jti, "refused", "jti_replayed"))["refused"] == []
    assert control_plane.ok("GET", path, who="alice")["grants"][0]["state"] == "accepted"
    events = control_plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]
    assert len([one for one in events if one["source"] == "web1"]) == 1
    control_plane.ok("POST", f"{path}/revoke", {"reason": "done"}, who="alice")
    web1.send(web1.receipt(jti, "revoked"))
    assert control_plane.ok("GET", path, who="alice")["grants"][0]["cause"] == "revoked"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"not json\n", "body_invalid"),
        (b'{"kind": "event", "body": {}}\n', "body_invalid"),
        (b'{"key": "' + b"k" * 300 + b'", "kind": "event", "body": {}}\n', "body_invalid"),
        (b'{"key":"a","kind":"event","body":{}}\n' * 1001, "body_too_large"),
        (b'{"key":"a","kind":"event","body":"' + b"x" * (1 << 20) + b'"}\n', "body_too_large"),
        (b"[" * 100_000, "body_invalid"),
    ],
)
def test_a_batch_that_is_wrong_or_too_large_is_refused(web1: TestHost, body: bytes, code: str) -> None:
    assert web1.call("POST", "/v1/host/records", body, NDJSON).code == code


def test_a_record_of_no_kind_is_refused_for_good_and_the_rest_is_taken(web1: TestHost) -> None:
    good = {"key": "e:good", "kind": "event", "body": {"metadata": {}}}
    bad: list[dict[str, object]] = [{"key": "e:a", "kind": "wish", "body": {}}, {"key": "e:b", "kind": "event", "body": "text"}]
    found = web1.send(*bad, good)
    assert found["acked"] == ["e:good"]
    assert {one["key"]: one["code"] for one in found["refused"]} == {"e:a": "record_invalid", "e:b": "record_invalid"}


def test_text_that_is_none_is_refused_and_breaks_nothing(control_plane: ControlPlane, web1: TestHost) -> None:
    odd = b'{"key":"e:odd","kind":"event","body":{"metadata":{"event_code":"\\ud800"},"message":"\\udfff"}}'
    assert web1.call("POST", "/v1/host/records", odd, NDJSON).body["acked"] == ["e:odd"]
    lone = b'{"key":"r:odd","kind":"receipt","body":"\\ud800.a.b"}'
    assert web1.call("POST", "/v1/host/records", lone, NDJSON).body["refused"] == [{"key": "r:odd", "code": "signature_refused"}]
    infinite = b'{"key":"e:inf","kind":"event","body":{"x":Infinity}}'
    assert web1.call("POST", "/v1/host/records", infinite, NDJSON).code == "body_invalid"
    host = TestHost(control_plane, "odd")
    token = host.invitation()
    for name in ("csr", "proof", "host_id", "hostname"):
        assert host.call("POST", "/v1/enroll", host.enrolment(token) | {name: "\ud800"}).code == "body_invalid"
    assert control_plane.call("GET", "/v1/events?limit=500", who="audra").status == 200


def put(host: TestHost, ident: str, offset: int, data: bytes, more: str = "") -> Answer:
    return host.call("PUT", f"/v1/host/recordings/{ident}?offset={offset}{more}", data)


def test_a_recording_grows_by_offset_and_says_what_is_durable(web1: TestHost, web2: TestHost) -> None:
    ident = "r-20261122T100000-0123abcd"
    assert web1.call("GET", f"/v1/host/recordings/{ident}").body == {"size": 0, "complete": False}
    assert put(web1, ident, 0, b"abc").body == {"size": 3}
    wrong = put(web1, ident, 0, b"abc")
    assert (wrong.status, wrong.code, wrong.body["size"]) == (409, "offset_mismatch", 3)
    assert put(web1, ident, 9, b"abc").body["size"] == 3
    assert put(web1, ident, 3, b"def", "&complete=true").body == {"size": 6}
    assert web1.call("GET", f"/v1/host/recordings/{ident}").body == {"size": 6, "complete": True}
    assert put(web1, ident, 6, b"more").status == 409
    assert web2.call("GET", f"/v1/host/recordings/{ident}").body == {"size": 0, "complete": False}  # each has its own
    assert put(web1, ident, 6, os.urandom((1 << 20) + 1)).status == 413
    for name in ("..%2f..%2fkeys", "x", "r-20261122T100000-0123ABCD"):
        assert put(web1, name, 0, b"abc").status == 404


def test_what_was_not_durable_is_written_over(control_plane: ControlPlane, web1: TestHost) -> None:
    ident = "r-20261122T100001-0123abcd"
    put(web1, ident, 0, b"durable")
    path = control_plane.data / "recordings" / web1.token / f"{ident}.tgr"
    with path.open("ab") as file:
        file.write(b" half a piece that a crash left")
    assert put(web1, ident, 7, b" again").body == {"size": 13}
    assert path.read_bytes() == b"durable again"


def test_labels_and_tokens_are_an_admins(control_plane: ControlPlane, web1: TestHost) -> None:
    said = {"labels": {"env": "staging", "rack": "r1"}, "address": "10.0.0.7"}
    assert control_plane.call("PUT", f"/v1/hosts/{web1.token}", said, who="bob").code == "role_missing"
    assert control_plane.ok("PUT", f"/v1/hosts/{web1.token}", said, who="root")["address"] == "10.0.0.7"
    made = control_plane.ok("POST", "/v1/enrolment-tokens", {"name": "later"}, who="root")
    assert "--signing-key" in made["command"]
    assert [
        one["id"] for one in control_plane.ok("GET", "/v1/enrolment-tokens", who="root")["tokens"] if one["name"] == "later"
    ] == [made["id"]]
    assert control_plane.call("DELETE", f"/v1/enrolment-tokens/{made['id']}", who="root").status == 204
    host = TestHost(control_plane, "later")
    assert host.call("POST", "/v1/enroll", host.enrolment(made["token"])).code == "token_unknown"
    with contextlib.closing(host.connection()) as connection:
        connection.request("POST", "/v1/enroll", json.dumps({"token": "x" * 40_000}))
        assert connection.getresponse().status == 413
