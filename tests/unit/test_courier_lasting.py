"""A fault or a lie of an hour costs the host nothing for good: no records, no CA, no certificate, no keys."""

import datetime
import json
import os
import pwd
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from agent.courier import answers
from agent.courier.recordings import Marks, Shipper
from agent.courier.renewal import Renewal
from agent.courier.transport import Renewed
from agent.courier.waiting import Bell, News
from agent.courier.wire import Answer
from agent.errors import CourierError
from agent.sessions.recorder.store import Store
from agent.trust import keyring
from agent.trust.hostkey import generate_key
from tests.courier_certificates import Authority, write
from tests.unit.courier_kit import RECORDING, URI, Ground, ground
from tests.unit.test_courier_enrolment import ControlPlane, Run, enroll, left, plane
from tests.unit.test_courier_outgoing import Memory

__all__ = ["enroll", "ground", "plane"]

DAY_S = 86400.0
NOW = datetime.datetime.now(datetime.UTC)


class Issuer(Memory):
    """Renews by ``authority``; ``ca`` goes along."""

    def __init__(self, authority: Authority, ca: bytes = b"", ends_s: float = DAY_S) -> None:
        super().__init__()
        self.authority, self.ca, self.ends_s = authority, ca or authority.pair.pem, ends_s
        self.renewals = 0
        self.change: Callable[[str], str] = lambda pem: pem

    def renew(self, csr: str) -> Renewed:
        if self.fails:
            raise CourierError(self.fails.pop(0), "a fault")
        self.renewals += 1
        return Renewed(self.change(self.authority.sign_request(csr, ends_s=self.ends_s)), self.ca.decode(), 0)


def old_pair(ground: Ground, authority: Authority) -> None:
    """Past two thirds of its life."""
    write(ground.places.folder, authority, authority.client(URI, began_s=3 * DAY_S, ends_s=DAY_S))


# Refused, or only not understood


@pytest.mark.parametrize("status", [400, 404, 405, 407, 410, 431, 495])
@pytest.mark.parametrize("body", [b"<html>nginx</html>", b"404: Not Found", b"", b"{}"])
def test_what_a_proxy_says_refuses_no_record(status: int, body: bytes) -> None:
    with pytest.raises(CourierError) as caught:
        answers.checked(Answer(status, {}, body))
    assert caught.value.code == "courier_protocol"  # courier_refused would drop a receipt for good


def test_what_the_control_plane_or_a_bound_on_size_says_does() -> None:
    for answer in (Answer(400, {}, b'{"code": "record_invalid"}'), Answer(413, {}, b"<html>")):
        with pytest.raises(CourierError) as caught:
            answers.checked(answer)
        assert caught.value.code == "courier_refused"


# Renewal


def test_clocks_that_differ_make_no_loop_of_renewals(ground: Ground) -> None:
    authority = Authority()
    old_pair(ground, authority)
    now, issuer = (
        time.time(),
        Issuer(authority, ends_s=20.0),
    )  # as of a control plane whose clock is behind: past two thirds as soon as it is there
    for _ in range(5):  # each renewal starts the courier anew
        left_s = Renewal(issuer, ground.places, ground.status(), clock=lambda: now + 10.0).between()
    assert issuer.renewals == 1
    assert left_s > 600.0


def test_a_pause_ends_though_the_clock_was_set_back(ground: Ground) -> None:
    authority = Authority()
    old_pair(ground, authority)
    issuer = Issuer(authority)
    issuer.fails = ["courier_unreachable"]
    ahead, steady = 4 * 365 * DAY_S, 0.0
    renewal = Renewal(issuer, ground.places, ground.status(), clock=lambda: time.time() + ahead, steady=lambda: steady)
    assert renewal.between() <= 1800.0
    ahead, steady = 0.0, 1801.0
    renewal.between()
    assert issuer.renewals == 1


def test_a_renewal_swaps_no_ca_that_the_old_one_has_not_signed(ground: Ground) -> None:
    authority, thief = Authority(), Authority("thief")
    for ca in (thief.pair.pem, authority.pair.pem + thief.pair.pem, Authority().pair.pem):  # the last: of the same name
        old_pair(ground, authority)
        Renewal(Issuer(authority, ca), ground.places, ground.status()).between()
        assert ground.places.ca.read_bytes() == authority.pair.pem


def test_a_new_ca_that_the_old_one_signed_is_taken(ground: Ground) -> None:
    authority, new = Authority(), Authority("new")
    old_pair(ground, authority)
    mine = new.pair.certificate
    builder = x509.CertificateBuilder().subject_name(mine.subject).issuer_name(authority.pair.certificate.subject)
    builder = builder.public_key(mine.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=9))
    crossed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = crossed.sign(authority.pair.key, hashes.SHA256()).public_bytes(Encoding.PEM)
    Renewal(Issuer(authority, authority.pair.pem + b"and words\n" + pem), ground.places, ground.status()).between()
    assert ground.places.ca.read_bytes() == authority.pair.pem + pem


def test_a_malformed_certificate_ends_no_thread(ground: Ground) -> None:
    authority = Authority()
    old_pair(ground, authority)
    issuer = Issuer(authority)
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)])
    names = uri.public_bytes()

    def twice(pem: str) -> str:
        leaf = x509.load_pem_x509_certificate(pem.encode())
        builder = x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(leaf.issuer).public_key(leaf.public_key())
        builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + datetime.timedelta(days=9))
        other = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.99"), names)
        made = builder.add_extension(uri, critical=False).add_extension(other, critical=False)
        der = made.sign(authority.pair.key, hashes.SHA256()).public_bytes(Encoding.DER)
        spoilt = der.replace(bytes((0x06, 3, 0x55, 29, 99)), bytes((0x06, 3, 0x55, 29, 17)))
        assert spoilt != der
        return ssl.DER_cert_to_PEM_cert(spoilt)

    issuer.change = twice
    Renewal(issuer, ground.places, status := ground.status()).between()
    status.write(force=True)
    assert "courier_certificate" in str(ground.said()["problems"])


def test_words_of_any_language_beside_a_certificate_end_no_thread(ground: Ground) -> None:
    authority = Authority()
    old_pair(ground, authority)
    pem = ground.places.certificate.read_bytes()
    ground.places.certificate.write_bytes("friendlyName: M\u00fcller\n".encode() + pem)
    issuer = Issuer(authority)
    Renewal(issuer, ground.places, ground.status()).between()
    assert issuer.renewals == 1


# Enrolment


def test_no_token_is_spent_where_there_is_no_account(plane: ControlPlane, enroll: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody)
    status, _, err = enroll()
    assert status == 1 and "courier_account_missing" in err
    assert plane.peer.requests == []


def test_a_pinned_key_by_anothers_kid_takes_no_trust_from_that_one(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    _, other = generate_key(str(plane.public["kid"]), ["https://another.example"])
    (ground.root / "trust/other.jwks").write_text(json.dumps({"keys": [other]}))
    (key,) = keyring({"keys": [plane.public]})
    status, _, err = enroll("--signing-key", key.thumbprint)
    assert status == 3 and "key_kid_twice" in err
    assert left(ground) == ["other.jwks"]


# Bounds


def test_what_else_lies_among_the_marks_costs_the_recorder_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, shipped = tmp_path / "sessions", tmp_path / "shipped"
    sessions.mkdir()
    shipped.mkdir()
    for number in range(3):
        (sessions / f"r-{number}.tgr").write_bytes(b"x" * 100)
    (shipped / "r-1").touch()
    (shipped / "r-2").symlink_to("/nowhere")
    store = Store(sessions, frozenset(), quota=250, keep_days=30, shipped=shipped)
    listed: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda where: listed.append(where) or scandir(where))  # type: ignore[func-returns-value]
    store.tidy()
    monkeypatch.undo()
    assert listed == [sessions]
    assert sorted(path.name for path in sessions.iterdir()) == ["r-0.tgr", "r-2.tgr"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "r-2").touch()
    shipped.rename(tmp_path / "before")
    shipped.symlink_to(elsewhere)  # a link in its place says nothing
    Store(sessions, frozenset(), quota=150, keep_days=30, shipped=shipped).tidy()
    assert [path.name for path in sessions.iterdir()] == ["r-2.tgr"]


def test_sessions_that_write_all_the_time_hold_up_no_others_next_try(ground: Ground) -> None:
    other = "r-20261122T000000-00000001"
    for ident in (RECORDING, other):
        (ground.places.sessions / f"{ident}.tgr").write_bytes(b"x")
    bell = Bell()
    shipper = Shipper(Memory(), ground.places.sessions, Marks(ground.places.shipped), ground.status(), threading.Event(), bell)
    shipper.look()
    shipper._open[other].not_before = time.monotonic() - 1.0
    with News(bell, [ground.places.sessions]) as news:
        (ground.places.sessions / f"{RECORDING}.tgr").write_bytes(b"xy")
        assert shipper._news(news, 0.0) == {RECORDING, other}
