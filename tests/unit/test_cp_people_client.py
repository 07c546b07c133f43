"""What the commands believe of a server: no more than they need, for no longer and no bigger than they bear."""

import base64
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType, load_ssh_public_key

from agent.errors import ConfigError, RefusedError, TidegateError
from examples.control_plane.commands import flows, sshkey
from examples.control_plane.commands.admin_hosts import harmless_line
from examples.control_plane.commands.admin_watching import _list
from examples.control_plane.commands.client import Api, checked, shown
from examples.control_plane.commands.profile import Profile, Server
from examples.control_plane.commands.waiting import Waiting
from examples.control_plane.people.errors import LoginRefusedError, ProviderError
from examples.control_plane.people.https import Answer, Https, events
from examples.control_plane.people.keyset import Metadata, usable
from tests.control_plane.provider import Authority, authority

Talk = Callable[[ssl.SSLSocket], None]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("authority"))


class Misbehaving:
    """A TLS server that says whatever a test wants, for each connection."""

    def __init__(self, given: Authority, talk: Talk) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(given.certificate, given.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self._talk = talk
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            raw, _ = self._listener.accept()
            with raw, self._context.wrap_socket(raw, server_side=True) as connection:
                connection.recv(65536)
                self._talk(connection)
        except OSError:
            return  # the client hung up, which is what most tests are about

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def server(given: Authority) -> Iterator[Callable[[Talk], str]]:
    made: list[Misbehaving] = []

    def start(talk: Talk) -> str:
        made.append(Misbehaving(given, talk))
        return made[-1].url

    yield start
    for one in made:
        one.close()


def code_of(act: Callable[[], object]) -> str:
    with pytest.raises(TidegateError) as error:
        act()
    return error.value.code


def drip(piece: bytes) -> Talk:
    def talk(connection: ssl.SSLSocket) -> None:
        while True:
            connection.sendall(piece)
            time.sleep(0.02)

    return talk


def once(data: bytes) -> Talk:
    return lambda connection: connection.sendall(data)


@pytest.mark.parametrize("piece", [b"H", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n."])
def test_a_server_that_drips_is_left_at_the_deadline(server: Callable[[Talk], str], given: Authority, piece: bytes) -> None:
    begin = time.monotonic()
    assert code_of(lambda: Https(given.ca, deadline_s=0.4).get(server(drip(piece)))) in {"server_too_slow", "server_unreachable"}
    assert time.monotonic() - begin < 2


def test_a_server_that_takes_the_connection_and_says_nothing_is_left_too(given: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert code_of(lambda: Https(given.ca, deadline_s=0.4).get(url)) == "server_too_slow"
        assert time.monotonic() - begin < 2


@pytest.mark.parametrize("length", [b"Content-Length: 9\r\n", b""])
def test_an_answer_that_is_cut_short_is_no_answer(server: Callable[[Talk], str], given: Authority, length: bytes) -> None:
    def talk(connection: ssl.SSLSocket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n{}")
        socket.socket(fileno=connection.detach()).close()  # as whoever sits in between does: no close_notify

    assert code_of(lambda: Https(given.ca).get(server(talk))) == "server_unreachable"


def test_an_answer_without_end_is_cut(server: Callable[[Talk], str], given: Authority) -> None:
    endless = server(once(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 9000))
    assert code_of(lambda: Https(given.ca, answer_max=4096).get(endless)) == "answer_too_large"


def test_a_redirect_is_not_followed(server: Callable[[Talk], str], given: Authority) -> None:
    answer = Https(given.ca).get(server(once(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")))
    assert answer.status == 302


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "file:///etc/passwd", "https://", "https://u:p@host/", "https://[::1", "https://h:99999/"]
)
def test_only_https_addresses_are_asked(url: str) -> None:
    assert code_of(lambda: Https().get(url)) == "url_not_https"


def test_a_header_can_not_be_smuggled_in_by_an_address(given: Authority) -> None:
    assert code_of(lambda: Https(given.ca).get("https://127.0.0.1:9/x\r\nX-Evil: 1")) in {"server_unreachable", "url_not_https"}


def test_an_event_stream_is_read_in_any_pieces_and_a_line_has_an_end() -> None:
    whole = b": hello\n\nevent: frame\ndata: one\ndata: two\r\n\nid: 7\ndata:three\n\n"
    wanted = [("frame", "one\ntwo"), ("message", "three")]
    for size in (1, 3, len(whole)):
        assert list(events(whole[at : at + size] for at in range(0, len(whole), size))) == wanted
    assert code_of(lambda: list(events(b"x" * 65536 for _ in range(9)))) == "answer_too_large"


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (403, b'{"code": "not_offered", "detail": "no\\u001b[2J rule", "field": "hosts[0]"}', RefusedError, "not_offered"),
        (404, b"<html>", ProviderError, "answer_not_json"),
        (400, b"", RefusedError, "answer_status"),
        (503, b'{"code": "busy"}', ProviderError, "busy"),
        (302, b"{}", ProviderError, "answer_status"),
        (200, b"[1]", ProviderError, "answer_not_json"),
        (200, b"[" * 200_000, ProviderError, "answer_not_json"),
    ],
)
def test_whatever_a_server_answers_becomes_one_error_of_ours(
    status: int, body: bytes, error: type[TidegateError], code: str
) -> None:
    with pytest.raises(error) as raised:
        checked(Answer(status, {}, body))
    assert raised.value.code == code
    assert "\x1b" not in str(raised.value)


def test_nothing_that_a_server_says_moves_the_cursor() -> None:
    assert "\x1b" not in shown({"a\x1b": ["\x1b[2J", {"b": "\u202e"}]})
    assert "\u202e" not in shown("\u202e")


def test_keys_that_could_forge_are_not_taken() -> None:
    bad: Sequence[Mapping[str, object]] = (
        {"kty": "oct", "k": "c2VjcmV0", "kid": "a"},
        {"kty": "RSA", "n": "AQ", "e": "AQAB", "use": "enc", "kid": "b"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AA", "kid": "c"},
        {"kty": "RSA", "n": base64.urlsafe_b64encode(b"\xff" * 128).decode().rstrip("="), "e": "AQAB", "kid": "short"},
    )
    keys = usable({"keys": list(bad)}, 0)
    assert set(keys.by_kid) == {"short"}
    assert keys.one("short", "RS256") is None, "1,024 bits"
    assert code_of(lambda: usable({"keys": [{}] * 65}, 0)) == "provider_keys"


# The device flow, where the provider itself never says slow_down


class Scripted(Https):
    """A provider's answers, in turn."""

    __slots__ = ("left",)
    left: list[Mapping[str, object] | ProviderError]

    def __init__(self, *answers: Mapping[str, object] | ProviderError) -> None:
        super().__init__()
        object.__setattr__(self, "left", list(answers))

    def post_form(self, url: str, form: Mapping[str, str]) -> Answer:
        found = self.left.pop(0)
        if isinstance(found, ProviderError):
            raise found
        return Answer(400 if "error" in found else 200, {}, json.dumps(found).encode())


START = {
    "device_code": "d",
    "user_code": "ABCD",
    "verification_uri": "https://login.example.com/device",
    "expires_in": 600,
    "interval": 2,
}


def by_device(*answers: Mapping[str, object] | ProviderError) -> tuple[flows.Proof, list[float]]:
    issuer = "https://login.example.com"
    metadata = Metadata(issuer, f"{issuer}/auth", f"{issuer}/token", f"{issuer}/keys", f"{issuer}/device")
    waits: list[float] = []
    client = flows.Client(metadata, "tidegate", ["openid"], Scripted(*answers))
    return flows.by_device(client, lambda _: None, waits.append, lambda: sum(waits)), waits


def test_polling_slows_down_when_it_is_told_to() -> None:
    pending, slow = {"error": "authorization_pending"}, {"error": "slow_down"}
    proof, waits = by_device(START, pending, slow, pending, slow, {"id_token": "a.b.c"})
    assert (proof, waits) == (flows.Proof("a.b.c", None), [2, 2, 7, 7, 12])


def test_polling_backs_off_while_the_provider_does_not_answer() -> None:
    lost = ProviderError("server_unreachable", "")
    assert by_device(START, lost, lost, {"id_token": "a.b.c"})[1] == [2, 4, 8]


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ((START, {"error": "access_denied"}), "login_refused"),
        ((START, {"error": "expired_token"}), "login_abandoned"),
        (({**START, "expires_in": 5}, {"error": "authorization_pending"}, {"error": "authorization_pending"}), "login_abandoned"),
        ((START, {"id_token": 7}), "provider_answer"),
        (({**START, "verification_uri": "http://login.example.com"},), "provider_answer"),
        (({**START, "verification_uri_complete": "javascript:alert(1)"},), "provider_answer"),
    ],
)
def test_the_device_flow_ends_with_the_reason(answers: Sequence[Mapping[str, object]], code: str) -> None:
    assert code_of(lambda: by_device(*answers)) == code


def test_nobody_is_waited_for_without_end() -> None:
    metadata = Metadata("https://l", "https://l/auth", "https://l/token", "https://l/keys")
    client = flows.Client(metadata, "tidegate", ["openid"], Https())
    with pytest.raises(LoginRefusedError) as error:
        flows.by_browser(client, lambda _: None, wait_s=0.2)
    assert error.value.code == "login_abandoned"


# Keys and ssh


def certificate(key: sshkey.Key, kind: SSHCertificateType = SSHCertificateType.USER) -> str:
    public = load_ssh_public_key(key.public.encode())
    now = int(time.time())
    builder = SSHCertificateBuilder().public_key(public).serial(1).type(kind).key_id(b"x").valid_principals([b"alice"])  # type: ignore[arg-type]  # an Ed25519 key
    return builder.valid_after(now).valid_before(now + 60).sign(Ed25519PrivateKey.generate()).public_bytes().decode()


def test_only_a_users_certificate_for_the_very_key_is_used() -> None:
    key, other = sshkey.make(), sshkey.make()
    good = certificate(key)
    assert sshkey.checked_certificate(good, key) == good + "\n"
    blob = base64.b64decode(good.split()[1])
    cut = base64.b64encode(blob[:60]).decode()
    huge = base64.b64encode(struct.pack(">I", 2**31) + blob).decode()
    bad = [
        certificate(other),
        certificate(key, SSHCertificateType.HOST),
        key.public,
        "",
        good + "\nssh-rsa AAAA",
        good.replace(" ", "\n"),
    ]
    bad += [f"ssh-ed25519-cert-v01@openssh.com {cut}", f"ssh-ed25519-cert-v01@openssh.com {huge}", "x " + good.split()[1]]
    for line in bad:
        assert code_of(lambda line=line: sshkey.checked_certificate(line, key)) == "certificate_invalid"  # type: ignore[misc]  # bound now


def test_ssh_is_given_no_option_by_the_server() -> None:
    for login, address in (
        ("jit-a", "-oProxyCommand=id"),
        ("-oX", "web1"),
        ("jit-a", "web1 -v"),
        ("root;id", "web1"),
        ("jit-a", "a:b:-v;"),
    ):
        assert code_of(lambda login=login, address=address: sshkey.ssh_argv(None, login, address, (), ())) == "answer_shape"  # type: ignore[misc]  # bound now
    argv = sshkey.ssh_argv(None, "jit-a", "web1.example.com:2222", ["LogLevel=ERROR"], ["id", "-u"])
    assert argv[1:] == ["-o", "LogLevel=ERROR", "-p", "2222", "-l", "jit-a", "--", "web1.example.com", "id", "-u"]
    assert sshkey.ssh_argv(None, "jit-a", "2001:db8::1", (), ())[-1] == "2001:db8::1"


def test_a_key_is_written_over_nothing_and_through_no_link(tmp_path: Path) -> None:
    key = sshkey.make()
    (tmp_path / "tidegate").symlink_to(tmp_path / "elsewhere")
    assert code_of(lambda: sshkey.write(tmp_path, key, certificate(key))) == "file_exists"
    assert not (tmp_path / "elsewhere").exists()


def test_a_line_to_paste_is_one_command_and_no_other() -> None:
    assert harmless_line("tidegate enroll https://x --token t") == "tidegate enroll https://x --token t"
    assert harmless_line("tidegate enroll https://x --token 't;id'") == "tidegate enroll https://x --token 't;id'"
    for line in (
        "curl evil | sh",
        "tidegate enroll x\nid",
        "tidegate enroll '",
        "sudo tidegate enroll x",
        "tidegate enroll \x1b[2J",
    ):
        assert code_of(lambda line=line: harmless_line(line)) == "answer_shape"  # type: ignore[misc]  # bound now
    assert harmless_line("tidegate enroll x;id") == "tidegate enroll 'x;id'", "what a shell would run is quoted"


@pytest.mark.parametrize(
    "line",
    ["{}", "[1]", '["a", "o", "x"]', '[1, "o", 7]', "[" * 100_000, '[true, "o", "x"]', '[1e400, "o", "x"]', '[-1, "o", "x"]'],
)
def test_a_frame_that_is_none_draws_nothing(line: str) -> None:
    assert _list(line) is None


# Waiting


def waiting(*answers: Mapping[str, object] | TidegateError) -> tuple[Waiting, list[str]]:
    left = list(answers)

    class Scripts(Api):
        def get(self, path: str, wait_s: float = 0, **query: object) -> dict[str, object]:
            found = left.pop(0)
            if isinstance(found, TidegateError):
                raise found
            return dict(found)

    told: list[str] = []
    at = [0.0]

    def clock() -> float:
        at[0] += 1
        return at[0]

    return Waiting(Scripts(Server("https://x", None), "b", lambda: "b"), told.append, clock, lambda _: None), told


WAITS: dict[str, object] = {
    "id": "r-1",
    "version": 1,
    "state": "waiting",
    "approvals": [],
    "approvals_needed": 2,
    "approver_roles": ["approver"],
    "lapses_at": "x",
    "grants": [],
}


def test_progress_is_told_once_and_a_lost_network_is_waited_out() -> None:
    one = {**WAITS, "approvals": [{"verdict": "approved"}]}
    wait, told = waiting(WAITS, ProviderError("server_unreachable", "gone"), one, {**WAITS, "state": "open"})
    assert wait.opened(WAITS)["state"] == "open"
    assert [line.partition(";")[0] for line in told] == [
        "r-1 waits for 2 approvals (approver)",
        "gone",
        "r-1 waits for 1 approval (approver)",
    ]


def test_a_host_that_says_nothing_is_waited_for_a_minute() -> None:
    sent = {**WAITS, "state": "open", "grants": [{"state": "sent", "host_name": "web1"}]}
    wait, _ = waiting(*[sent] * 100)
    assert code_of(lambda: wait.accepted(sent)) == "host_silent"


# What is kept


def test_a_session_of_another_server_or_that_is_over_is_not_used(tmp_path: Path) -> None:
    profile, server = Profile(tmp_path / "tidegate"), Server("https://one.example.com", None)
    profile.keep_session(server, "bearer", int(time.time()) + 300)
    assert profile.session(server) == "bearer"
    assert profile.session(Server("https://two.example.com", None)) == ""
    profile.keep_session(server, "bearer", int(time.time()) + 10)
    assert profile.session(server) == ""


def test_a_link_in_place_of_the_session_is_not_followed(tmp_path: Path) -> None:
    profile, server = Profile(tmp_path / "tidegate"), Server("https://one.example.com", None)
    profile.keep_session(server, "bearer", int(time.time()) + 300)
    kept = next((tmp_path / "tidegate").glob("session-*"))
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        profile.session(server)


def test_without_a_server_it_says_how_to_name_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--url"):
        Profile(tmp_path).server(None, None, None)


def test_the_commands_help_reads_and_every_option_says_what_it_does() -> None:
    from examples.control_plane.commands import admin, request

    commands: list[click.Command] = [request.cli, admin.cli]
    while commands:
        command = commands.pop()
        assert command.help, command.name
        commands += command.commands.values() if isinstance(command, click.Group) else []
        unsaid = [param.name for param in command.params if isinstance(param, click.Option) and not param.help]
        assert set(unsaid) <= {"state", "limit", "form"}, command.name
