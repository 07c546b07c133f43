"""The courier's small parts: waiting, pace, server-sent events, courier.yaml, proxies, certificates on disk, answers."""

import base64
import contextlib
import os
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from agent.courier import answers, transports
from agent.courier.backoff import BASE_S, CAP_S, STABLE_S, Backoff
from agent.courier.identity import settle, store, validity
from agent.courier.pace import Pace
from agent.courier.places import Places, host_token, host_uri
from agent.courier.proxies import chosen
from agent.courier.settings import Address, Limits, Nats, Proxy, load_settings
from agent.courier.sse import Parser
from agent.courier.state import CursorFile
from agent.courier.transport import TOKEN_MAX, Cursor
from agent.courier.wire import Answer
from agent.errors import ConfigError, CourierError, HostError
from tests.courier_certificates import Authority, write
from tests.unit.courier_kit import URI, Ground, ground

__all__ = ["ground"]


def test_retries_double_up_to_the_cap_and_are_jittered_over_the_whole_span() -> None:
    longest = Backoff(draw=lambda: 1.0)
    assert [longest.failed() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, CAP_S, CAP_S]
    drawn = Backoff()
    spans = [drawn.failed() for _ in range(200)][10:]
    assert min(spans) < CAP_S / 4 < CAP_S * 3 / 4 < max(spans) <= CAP_S


def test_only_a_connection_that_stood_starts_the_backoff_anew() -> None:
    backoff = Backoff(draw=lambda: 1.0)
    for _ in range(6):
        backoff.failed(STABLE_S - 1)
    assert backoff.failed(STABLE_S - 1) > BASE_S * 8
    assert backoff.failed(STABLE_S) == BASE_S
    assert Backoff(draw=lambda: 0.0).failed() > 0  # never a loop without a pause


def test_what_is_over_the_pace_waits_and_a_minutes_worth_may_come_at_once() -> None:
    now = 0.0
    pace = Pace(60, clock=lambda: now)
    assert pace.owed_s(60) == 0
    assert pace.owed_s(30) == pytest.approx(30)
    now = 31.0
    assert pace.owed_s(1) == pytest.approx(0)
    stop = threading.Event()
    stop.set()
    assert pace.take(600, stop) > 500  # and no wait once told to stop


def test_events_are_the_same_however_the_bytes_are_cut() -> None:
    text = b": hi\r\nid: 7\revent: token\ndata: abc\n\nid:8\nevent:token\r\ndata:d\r\n\r\ndata: none\n\nevent: token\nid\ndata\n\n"
    whole = list(Parser().feed(text))
    assert [(event.ident, event.kind, event.data) for event in whole] == [
        (b"7", "token", b"abc"), (b"8", "token", b"d"), (b"8", "message", b"none"), (b"", "token", b""),
    ]  # fmt: skip
    draw = random.Random(5)
    for _ in range(300):
        parser, found, at = Parser(), [], 0
        while at < len(text):
            step = draw.randint(1, 9)
            found += list(parser.feed(text[at : at + step]))
            at += step
        assert found == whole


def test_a_line_without_an_end_costs_no_more_than_one_token() -> None:
    parser = Parser()
    for _ in range(2000):
        assert not list(parser.feed(b"data: " + b"x" * 30_000))
    assert len(parser._line) <= TOKEN_MAX + 64
    (event,) = parser.feed(b"\n\n")
    assert TOKEN_MAX < len(event.data) <= TOKEN_MAX + 1
    for _ in range(TOKEN_MAX):
        list(parser.feed(b"data\ndata: xy\n"))
    (event,) = parser.feed(b"\n")
    assert len(event.data) <= TOKEN_MAX + 2


def read(ground: Ground, text: str) -> object:
    ground.configure(text)
    return load_settings(ground.places.settings)


def test_courier_yaml_is_read_with_its_defaults(ground: Ground) -> None:
    ground.configure("url: https://cp.example:8443/base/\nproxy: http://u:p%40@proxy:3128\nlimits: {inbox_files: 10}\nhost_id: x\n")
    found = load_settings(ground.places.settings)
    assert found.url == Address("cp.example", 8443, "/base")
    assert found.url.url == "https://cp.example:8443/base"
    assert found.proxy == Proxy("proxy", 3128, "Basic dTpwQA==")
    assert found.limits == Limits(inbox_files=10)
    ground.configure("transport: nats\nnats: {servers: ['tls://n1:4222'], credentials: /etc/tidegate/host.creds}\n")
    assert load_settings(ground.places.settings).nats == Nats(("tls://n1:4222",), "tidegate", Path("/etc/tidegate/host.creds"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("url: http://cp.example\n", "url_invalid"),
        ("url: https://user@cp.example\n", "url_invalid"),
        ("url: https://cp.example/../x\n", "url_invalid"),
        ("url: https://cp.example/?q\n", "url_invalid"),
        ("url: 'https://cp.example:99999'\n", "url_invalid"),
        ("url: 'https://cp\\nexample'\n", "url_invalid"),
        ("transport: https\n", "missing_key"),
        ("transport: carrier-pigeon\nurl: https://a\n", "unknown_value"),
        ("transport: nats\nurl: https://a\n", "missing_key"),
        ("transport: nats\nnats: {servers: ['http://a']}\n", "nats_invalid"),
        ("url: https://a\nproxy: https://p:1\n", "proxy_invalid"),
        ("url: https://a\nproxy: 'http://p:1/x'\n", "proxy_invalid"),
        ("url: https://a\nlimits: {inbox_bytes: 5}\n", "limit_invalid"),
        ("url: https://a\nurll: x\n", "unknown_key"),
        ("url: https://a\nhost_id: 'a b'\n", "host_id_invalid"),
    ],
)
def test_a_wrong_courier_yaml_is_refused_by_file_line_and_key(ground: Ground, text: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(ground, text)
    assert caught.value.code == code
    assert caught.value.path == ground.places.settings


def test_a_courier_yaml_that_others_may_write_is_refused(ground: Ground) -> None:
    ground.configure("url: https://a\n")
    ground.places.settings.chmod(0o666)
    with pytest.raises(ConfigError, match="file_unsafe"):
        load_settings(ground.places.settings)


def test_a_transport_that_is_not_installed_says_so(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    ground.configure("url: https://a\n")
    monkeypatch.setattr(transports, "MODULES", {"https": "agent.courier.nowhere"})
    with pytest.raises(ConfigError, match="transport_unavailable"):
        transports.connect(load_settings(ground.places.settings), ground.places, lambda _: None)


@pytest.mark.parametrize(
    ("environ", "straight"),
    [
        ({}, True),
        ({"https_proxy": "http://proxy:3128"}, False),
        ({"HTTPS_PROXY": "proxy:3128"}, False),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "other, .example"}, True),
        ({"https_proxy": "http://proxy:3128", "NO_PROXY": "cp.example:443"}, True),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "ample"}, False),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "*"}, True),
    ],
)
def test_the_environments_proxy_is_honoured_with_its_exceptions(environ: dict[str, str], straight: bool) -> None:
    found = chosen(Address("cp.example", 443), None, environ)
    assert found == (None if straight else Proxy("proxy", 3128))
    own = Proxy("own", 1)
    assert chosen(Address("cp.example", 443), own, environ) == own


def test_no_proxy_knows_networks() -> None:
    environ = {"https_proxy": "http://proxy:3128", "no_proxy": "10.0.0.0/8"}
    assert chosen(Address("10.1.2.3", 443), None, environ) is None
    assert chosen(Address("11.1.2.3", 443), None, environ) is not None
    with pytest.raises(ConfigError, match="proxy_invalid"):
        chosen(Address("a", 443), None, {"https_proxy": "socks5://a"})


def test_a_host_is_named_by_43_characters() -> None:
    assert len(host_token("urn:tidegate:x")) == 43
    assert host_uri("a") == "urn:tidegate:host:ypeBEsobvcr6wjGzmiPcTaeG7_gUfE5yuYB3ha_uSLs"


def test_a_damaged_cursor_is_the_beginning(ground: Ground) -> None:
    file = CursorFile(ground.places.folder / "cursor.json")
    assert file.read() == Cursor()
    file.write(Cursor("s", 7))
    assert file.read() == Cursor("s", 7)
    for junk in (b"{", b"[]", b'{"stream": 5, "last": 7}', b'{"stream": "s", "last": -1}', b"[" * 60_000, b"x" * 70_000):
        (ground.places.folder / "cursor.json").write_bytes(junk)
        assert file.read().last == 0


# Certificates on disk


def test_validity_is_read_as_cryptography_reads_it(tmp_path: Path) -> None:
    authority = Authority()
    for life in ({}, {"began_s": 86400.0 * 9000, "ends_s": 86400.0 * 14000}):
        pair = authority.client(URI, **life)
        (tmp_path / "pem").write_bytes(pair.pem + authority.pair.pem)
        found = validity(tmp_path / "pem")
        assert found == tuple(
            int(moment.timestamp()) for moment in (pair.certificate.not_valid_before_utc, pair.certificate.not_valid_after_utc)
        )


def test_a_certificate_that_is_none_is_told_whatever_its_bytes(tmp_path: Path) -> None:
    pair = Authority().client(URI)
    draw = random.Random(7)
    for _ in range(400):
        data = bytearray(pair.pem)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "pem").write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)
        try:
            validity(tmp_path / "pem")
        except ConfigError as error:
            assert error.code == "courier_certificate_invalid"


@pytest.mark.parametrize(("ends", "good"), [(b"99991231235959Z", True), (b"99991231235961Z", False), (b"20261399000000Z", False)])
def test_a_certificate_ends_at_a_time_that_there_is(tmp_path: Path, ends: bytes, good: bool) -> None:
    """An hour has 61 seconds for strptime, the calendar ends with the year 9999: what shows the time must not fall over it."""

    def wrapped(tag: int, content: bytes) -> bytes:
        return bytes([tag, len(content)]) + content

    times = wrapped(0x30, wrapped(0x18, b"20260101000000Z") + wrapped(0x18, ends))
    der = wrapped(0x30, wrapped(0x30, wrapped(2, b"\1") + wrapped(0x30, b"") + wrapped(0x30, b"") + times))
    (tmp_path / "pem").write_bytes(b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n")
    if good:
        assert datetime.fromtimestamp(validity(tmp_path / "pem")[1], UTC).year == 9999
        return
    with pytest.raises(ConfigError) as error:
        validity(tmp_path / "pem")
    assert error.value.code == "courier_certificate_invalid"


@pytest.mark.parametrize("last", range(1, 14))
def test_a_new_pair_is_whole_or_not_there_wherever_it_is_killed(ground: Ground, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """The write is cut before its Nth rename, removal or sync; the next start finishes it, or forgets it."""
    authority, places = Authority(), ground.places
    old, new = authority.client(URI), authority.client(URI)
    write(places.folder, authority, old)
    left = last

    def cut(step: Callable[..., None]) -> Callable[..., None]:
        def call(*args: object, **kwargs: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            step(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("rename", "replace", "unlink", "fsync"):
            patch.setattr(os, name, cut(getattr(os, name)))
        with contextlib.suppress(KeyboardInterrupt):
            store(places, new.key_pem, new.pem, authority.pair.pem)
    settle(places)
    key, pem = places.key.read_bytes(), places.certificate.read_bytes()
    assert (key, pem) in {(old.key_pem, old.pem), (new.key_pem, new.pem)}
    assert not list(places.folder.glob("*.new"))


# Answers


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "courier_denied"), (403, "courier_denied"), (429, "courier_busy"), (503, "courier_busy"), (400, "courier_refused"),
     (413, "courier_refused"), (204, "courier_protocol")],
)  # fmt: skip
def test_each_status_has_its_code(status: int, code: str) -> None:
    with pytest.raises(CourierError) as caught:
        answers.checked(Answer(status, {}, b'{"code":"x_y","detail":"\\u001b[31m\\u202e"}'))
    assert caught.value.code == code
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"size": 1e9}'.replace(b"size", b"s"), b"null"])
def test_an_answer_that_is_no_object_is_told(body: bytes) -> None:
    with pytest.raises(CourierError, match="courier_protocol"):
        answers.number(answers.parsed(body), "size")


def test_words_about_records_that_were_not_sent_mean_nothing() -> None:
    found = answers.acked(
        {"acked": ["a", "b", 5, None], "refused": [{"key": "c", "code": "\x1b"}, {"key": "z", "code": "q"}, 7]}, frozenset("ac")
    )
    assert (found.acked, found.refused) == (frozenset("a"), {"c": "unknown"})
    with pytest.raises(CourierError):
        answers.acked({"acked": "a"}, frozenset("a"))


@pytest.mark.parametrize("ident", [None, b"", b"-1", b"1.0", b"\xd9\xa1", b"9" * 19 + b"9", b"9223372036854775808"])
def test_a_token_without_a_proper_number_is_told(ident: bytes | None) -> None:
    with pytest.raises(CourierError):
        answers.ident(ident)


def test_certificates_of_the_tests_are_what_they_say() -> None:
    pair = Authority().client(URI)
    names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [URI]


def test_places_are_those_of_the_configuration() -> None:
    from agent.config import Paths

    places = Places.of(Paths())
    assert str(places.status) == "/run/tidegate/courier/status.json"
    assert str(places.shipped) == "/var/lib/tidegate/courier/shipped"


def test_a_missing_folder_of_its_own_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostError):
        CursorFile(tmp_path / "no/cursor.json").write(Cursor())
