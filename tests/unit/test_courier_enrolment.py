"""`tidegate enroll` against a real TLS server: what is sent to whom, what is trusted, and what is left on the disk."""

import base64
import hashlib
import json
import os
import pwd
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent import trust
from agent.cli import access, main
from agent.cli.courier_view import courier_finding, courier_lines, courier_status
from agent.config import load_config
from agent.courier import installing, transports
from agent.courier.identity import validity
from agent.courier.places import host_uri
from agent.courier.renewal import Renewal
from agent.courier.settings import Nats, address, load_settings
from agent.courier.status import Status
from agent.trust import base64url
from agent.trust.hostkey import HostKey
from tests.courier_certificates import Authority
from tests.courier_peer import Peer
from tests.unit.courier_kit import SOMEBODY, Ground, ground, running, wait_for

__all__ = ["ground"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="enrolling is root's")
SSH_CA = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
SSH_PIN = "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(SSH_CA.split()[1])).digest()).decode().rstrip("=")
Run = Callable[..., tuple[int, str, str]]


class ControlPlane:
    """What answers, and the key it signs grants with."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        _, public = trust.generate_key("cp-1", ["https://cp.example"])
        self.public = public
        self.thumbprint = next(iter(trust.keyring({"keys": [public]}))).thumbprint
        self.asked: list[dict[str, Any]] = []
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        self.refuse = ""
        peer.enrol_with = self._answer

    @property
    def fingerprint(self) -> str:
        """Of its CA."""
        return hashlib.sha256(self.peer.authority.pair.der).hexdigest()

    def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(body)
        if self.refuse:
            return 403, {"code": self.refuse, "detail": "because"}
        renewal = self.peer.renew_with(body["csr"])
        return 200, self.change(
            {**renewal, "signing_keys": {"keys": [self.public]}, "ssh_user_ca": SSH_CA + " ca@cp", "url": self.peer.url}
        )


@pytest.fixture
def plane(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    account = pwd.struct_passwd(("tidegate-courier", "x", SOMEBODY, SOMEBODY, "", "/", "/"))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: account if name == "tidegate-courier" else _unknown(name))
    for name in ("trust", "state"):
        (ground.root / name).mkdir()
    with (ground.root / "etc/tidegate.yaml").open("a") as file:
        file.write(
            f"  trust_dir: {ground.root}/trust\n  host_key: {ground.root}/state/host.jwk\n  ssh_user_ca: {ground.root}/etc/ca.pub\n"
        )
    with Peer() as peer:
        yield ControlPlane(peer)


def _unknown(name: str) -> pwd.struct_passwd:
    raise KeyError(name)


@pytest.fixture
def enroll(ground: Ground, plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> Run:
    """``enroll("--signing-key", ...)`` → (exit status, stdout, stderr)."""

    def call(*options: str, token: str = "t0ken", url: str = "", fingerprint: str = "") -> tuple[int, str, str]:
        (ground.root / "token").write_text(token + "\n")
        words = [
            "--config",
            str(ground.root / "etc/tidegate.yaml"),
            "enroll",
            url or plane.peer.url,
            "--token-file",
            str(ground.root / "token"),
        ]
        with pytest.raises(SystemExit) as done:
            main([*words, "--ca-fingerprint", fingerprint or plane.fingerprint, *options])
        said = capsys.readouterr()
        return int(str(done.value.code)), said.out, said.err

    return call


def left(ground: Ground) -> list[str]:
    return sorted(
        path.name for folder in (ground.places.folder, ground.root / "trust") for path in folder.iterdir() if path.is_file()
    )


def test_a_token_becomes_a_certificate_that_the_courier_uses(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    status, out, err = enroll("--signing-key", plane.thumbprint, "--ssh-ca", SSH_PIN, "--json")
    assert (status, err) == (0, "")
    said = json.loads(out)
    host_id = HostKey.load(ground.root / "state/host.jwk").host_id
    assert said["host_id"] == host_id
    assert said["signing_keys"][0]["trusted"] and said["ssh_user_ca"]["trusted"]
    (key,) = trust.load_keyring(ground.root / "trust")
    assert (key.thumbprint, key.issuers) == (plane.thumbprint, ("https://cp.example",))
    assert (ground.root / "etc/ca.pub").read_text() == SSH_CA + "\n"
    assert load_settings(ground.places.settings).host_id == host_id
    for path, mode in ((ground.places.key, 0o600), (ground.places.certificate, 0o644), (ground.places.ca, 0o644)):
        about = path.stat()
        assert (about.st_uid, about.st_mode & 0o777) == (SOMEBODY, mode)
    plane.peer.push(b"a")
    with running(ground):
        wait_for(lambda: ground.inbox() == [b"a"])


NATS = {"servers": ["tls://nats.example.com:4222"], "bucket": "fleet"}


def test_a_host_goes_on_by_the_nats_that_is_offered_and_keeps_the_url_to_renew_at(
    ground: Ground, plane: ControlPlane, enroll: Run
) -> None:
    plane.change = lambda answer: {**answer, "nats": NATS}
    status, out, _ = enroll("--json")
    assert (status, json.loads(out)["transport"]) == (0, "nats")
    found = load_settings(ground.places.settings)
    assert found.nats == Nats(("tls://nats.example.com:4222",), "fleet")
    assert (found.transport, found.url) == ("nats", address(plane.peer.url, "url"))


def test_an_admin_who_wants_https_gets_it_and_is_told_of_the_other(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    plane.change = lambda answer: {**answer, "nats": NATS}
    status, out, _ = enroll("--transport", "https")
    assert status == 0 and "offered too (tls://nats.example.com:4222)" in out
    assert (load_settings(ground.places.settings).transport, load_settings(ground.places.settings).nats) == ("https", None)


def test_without_nats_py_https_is_used_and_nats_refused_before_the_token_is_spent(
    ground: Ground, plane: ControlPlane, enroll: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane.change = lambda answer: {**answer, "nats": NATS}
    monkeypatch.setattr(installing, "find_spec", lambda _name: None)
    status, _, err = enroll("--transport", "nats")
    assert (status, plane.asked) == (3, []) and "transport_unavailable" in err
    assert enroll()[0] == 0
    assert load_settings(ground.places.settings).transport == "https"


def test_nats_that_is_not_offered_installs_nothing(ground: Ground, enroll: Run) -> None:
    status, _, err = enroll("--transport", "nats")
    assert status == 3 and "nats_not_offered" in err
    assert left(ground) == [] and not ground.places.settings.exists()


@pytest.mark.parametrize(
    "offer",
    [
        "tls://nats.example.com",
        {"servers": []},
        {"servers": ["nats://nats.example.com:4222"]},
        {"servers": ["tls://a", "tls://b\ncredentials: /etc/shadow"]},
        {"servers": ["tls://a"] * 17},
        {"servers": ["tls://a"], "bucket": "a b"},
        {"servers": ["tls://a"], "credentials": "/etc/shadow"},
    ],
)
def test_an_offer_of_nats_that_is_none_installs_nothing(ground: Ground, plane: ControlPlane, enroll: Run, offer: object) -> None:
    plane.change = lambda answer: {**answer, "nats": offer}
    status, _, err = enroll()
    assert status == 1 and "courier_protocol" in err
    assert left(ground) == [] and not ground.places.settings.exists()


def test_a_host_on_nats_renews_its_certificate_over_https(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    plane.change = lambda answer: {**answer, "nats": NATS}
    assert enroll("--transport", "nats")[0] == 0
    settings = load_settings(ground.places.settings)
    transport = transports.connect(settings, ground.places, lambda _how: None)
    old = ground.places.certificate.read_bytes()
    status = Status(ground.root / "status.json", ground.places.folder, "nats", "", lambda: None)
    renewal = Renewal(transports.Renewing(settings, ground.places, transport), ground.places, status, lambda: _late(ground))
    assert renewal.between() > 0
    assert plane.peer.renewed == 1 and ground.places.certificate.read_bytes() != old


def _late(ground: Ground) -> float:
    """When it is time to renew."""
    first, last = validity(ground.places.certificate)
    return first + (last - first) * 0.9


def test_the_request_is_proved_by_the_hosts_own_key(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    assert enroll()[0] == 0
    (body,) = plane.asked
    host_key = HostKey.load(ground.root / "state/host.jwk")
    ring = trust.keyring({"keys": [body["host_key"]]})
    claims = json.loads(trust.verify(body["proof"].encode(), ring, typ="enrolment+jwt").payload)
    assert claims["iss"] == body["host_id"] == host_key.host_id
    assert claims["aud"] == plane.peer.url
    assert claims["csr_sha256"] == hashlib.sha256(body["csr"].encode()).hexdigest()
    assert claims["token_sha256"] == hashlib.sha256(b"t0ken").hexdigest()
    assert body["token"] == "t0ken"
    assert host_uri(body["host_id"]).endswith(base64url.encode(hashlib.sha256(body["host_id"].encode()).digest()))


def test_without_pins_nothing_is_trusted_and_it_says_how_to(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    status, out, _ = enroll()
    assert status == 0
    assert f"NOT trusted: signing key {plane.thumbprint}" in out
    assert str(plane.public["x"]) in out and SSH_CA in out
    assert not list((ground.root / "trust").iterdir())
    assert not (ground.root / "etc/ca.pub").exists()


@pytest.mark.parametrize("option", ["--signing-key", "--ssh-ca"])
def test_a_pin_that_does_not_match_installs_nothing_at_all(ground: Ground, enroll: Run, option: str) -> None:
    pin = "A" * 43 if option == "--signing-key" else "SHA256:" + "A" * 43
    status, _, err = enroll(option, pin)
    assert status == 3
    assert "nothing was installed" in err
    assert left(ground) == []


def test_a_server_of_another_ca_never_sees_the_token(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    status, _, err = enroll(fingerprint=hashlib.sha256(Authority().pair.der).hexdigest())
    assert status == 1
    assert "ca_not_presented" in err and "nothing was sent" in err
    assert not plane.asked and not plane.peer.requests
    assert left(ground) == []


def test_a_server_that_only_shows_the_right_ca_never_sees_the_token(ground: Ground, plane: ControlPlane, enroll: Run) -> None:
    """It sends the CA's certificate along, and is not of it."""
    imposter = Authority("test CA")
    with Peer(authority=plane.peer.authority, pair=imposter.server()) as peer:
        asked = ControlPlane(peer)
        status, _, err = enroll(url=peer.url)
        assert status == 1
        assert "courier_server_untrusted" in err
        assert not asked.asked and not peer.requests


def test_pinning_the_servers_own_certificate_instead_of_the_ca_is_refused(plane: ControlPlane, enroll: Run) -> None:
    leaf = plane.peer.certificate.der
    status, _, err = enroll(fingerprint=hashlib.sha256(leaf).hexdigest())
    assert status == 1
    assert "is no CA's" in err
    assert not plane.asked


@pytest.mark.parametrize(
    "code", ["token_unknown", "token_used", "token_expired", "csr_invalid", "proof_invalid", "host_known", "else"]
)
def test_what_the_control_plane_refuses_is_told_by_its_code(ground: Ground, plane: ControlPlane, enroll: Run, code: str) -> None:
    plane.refuse = code
    status, out, _ = enroll("--json")
    assert status == 3
    assert json.loads(out)["code"] == ("enrolment_refused" if code == "else" else code)
    assert left(ground) == []


@pytest.mark.parametrize("wrong", ["another CA", "another host", "another key", "no json", "a strange url", "no CA"])
def test_an_answer_that_is_not_what_was_asked_for_installs_nothing(
    ground: Ground, plane: ControlPlane, enroll: Run, wrong: str
) -> None:
    authority = plane.peer.authority

    def change(answer: dict[str, Any]) -> dict[str, Any]:
        uri = host_uri(plane.asked[0]["host_id"])
        changes: dict[str, Callable[[], dict[str, Any]]] = {
            "another CA": lambda: {"ca": Authority().pair.pem.decode()},
            "another host": lambda: {"certificate": authority.sign_request(plane.asked[0]["csr"], host_uri("other"))},
            "another key": lambda: {"certificate": authority.client(uri).pem.decode()},
            "no json": lambda: {"expires": 5},
            "a strange url": lambda: {"url": "http://elsewhere"},
            "no CA": lambda: {"ca": authority.server().pem.decode()},
        }
        return answer | changes[wrong]()

    plane.change = change
    status, _, err = enroll()
    assert status == 1
    assert "Traceback" not in err and err
    assert left(ground) == []


def test_keys_that_are_none_are_left_out_and_one_that_is_known_is_not_written_twice(
    ground: Ground, plane: ControlPlane, enroll: Run
) -> None:
    junk = [None, {"kty": "RSA"}, {**plane.public, "d": "x"}, {**plane.public, "kid": "\x1b[31m"}, plane.public]
    plane.change = lambda answer: answer | {"signing_keys": {"keys": junk}, "ssh_user_ca": "ssh-ed25519 \x1b[31m"}
    assert enroll("--signing-key", plane.thumbprint)[0] == 0
    assert len(list((ground.root / "trust").iterdir())) == 1
    status, out, _ = enroll("--signing-key", plane.thumbprint)
    assert status == 0 and "it was trusted already" in out and "\x1b" not in out
    assert len(list((ground.root / "trust").iterdir())) == 1


def test_a_courier_yaml_of_before_is_kept_beside(ground: Ground, enroll: Run) -> None:
    ground.configure("url: https://old.example\n")
    assert enroll()[0] == 0
    assert (ground.root / "etc/courier.yaml.old").read_text() == "url: https://old.example\n"
    mine = ground.places.settings.read_text() + "limits: {inbox_files: 50}\n"
    ground.configure(mine)
    assert enroll()[0] == 0
    assert ground.places.settings.read_text() == mine  # it says the same already


@pytest.mark.parametrize(
    "words",
    [["--token", "x"], ["--signing-key", "short"], ["--ssh-ca", "MD5:x"]],
)
def test_wrong_usage_is_told_before_anything_is_sent(plane: ControlPlane, enroll: Run, words: list[str]) -> None:
    assert enroll(*words)[0] == 2
    assert enroll(fingerprint="xyz")[0] == 2
    assert not plane.peer.requests


def test_an_ssh_ca_is_added_to_those_that_are_there(ground: Ground, plane: ControlPlane) -> None:
    config = load_config(ground.root / "etc/tidegate.yaml")
    offered = installing.offered_ca(SSH_CA, SSH_PIN)
    assert offered is not None
    config.paths.ssh_user_ca.write_text("ssh-ed25519 AAAA old")
    assert installing.install_ca(config, offered) == config.paths.ssh_user_ca
    assert installing.install_ca(config, offered) is None
    assert config.paths.ssh_user_ca.read_text() == f"ssh-ed25519 AAAA old\n{SSH_CA}\n"


# What is shown of the courier


def test_a_courier_that_waits_to_be_enrolled_is_mended_by_enrolling(ground: Ground) -> None:
    config = load_config(ground.root / "etc/tidegate.yaml")
    ground.places.status.write_text('{"connected": false}')
    found = courier_finding(config)
    assert found.code == "courier_trouble"
    assert "tidegate enroll URL --token-file FILE --ca-fingerprint F" in found.mend


def test_nothing_of_the_couriers_file_is_trusted(ground: Ground) -> None:
    config = load_config(ground.root / "etc/tidegate.yaml")
    assert courier_status(config) is None
    assert courier_finding(config).level == "ok"
    ground.configure("url: https://a\n")
    assert courier_status(config) == {"running": False}
    assert courier_finding(config).level == "warn"
    assert "journalctl -u tidegate-courier" in courier_finding(config).mend
    status = ground.places.status
    odd = {"connected": "yes", "losses": [1], "backlog": {"\x1b": 1, "a": "x"}}
    long = {"url": "\x1b]0;x\x07\u202e" * 1000, "connected": True, "problems": ["\x1b[2J"] * 1000, "losses": {"events": 10**30}}
    long["last_error"] = {"code": 5, "reason": "\n\n\x1b"}
    shapes = (b"", b"junk", b"[]", b"[" * 60_000, b"x" * 100_000, json.dumps(odd).encode(), json.dumps(long).encode())
    for hostile in shapes:
        status.write_bytes(hostile)
        value = courier_status(config)
        lines = list(courier_lines(value))
        assert len(lines) < 20
        assert all(line.isprintable() and len(line) < 4000 for line in lines), lines
        assert courier_finding(config).level == "warn"
    status.unlink()
    status.symlink_to("/etc/shadow")
    assert courier_status(config) is not None
    status.unlink()
    os.mkfifo(status)
    assert courier_status(config) is not None


def test_status_shows_the_courier(ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"host_id": "h", "version": "0", "policy": "p", "problems": [], "refusals": [], "grants": []}
    monkeypatch.setattr(access, "ask", lambda *_: answer)
    with Peer() as peer, running(ground, peer):
        wait_for(lambda: ground.said().get("connected"))
        with pytest.raises(SystemExit):
            main(["--config", str(ground.root / "etc/tidegate.yaml"), "status"])
        assert f"Courier: connected to {peer.url} since" in capsys.readouterr().out
