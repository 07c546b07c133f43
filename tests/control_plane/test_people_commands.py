"""tidegate-request and tidegate-cp as people run them: real processes against a real server, over TLS."""

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from examples.control_plane.commands import admin, request
from examples.control_plane.people import PEOPLE_SCHEMA, People
from examples.control_plane.people.errors import LoginRefusedError
from examples.control_plane.store import Store
from tests.control_plane.host import TestHost
from tests.control_plane.people_kit import ADMIN, REQUEST, Desk, OpenHost, finished, inside, opening
from tests.control_plane.running import ControlPlane

ASK = ("web1", "--role", "web-restart", "--for", "10m", "--reason", "restart web")
# What stands where ssh would: it shows how it was called, and the real ssh-keygen's reading of the certificate.
STAND_IN = """#!/bin/sh
printf '%s\\n' "$@"
[ "$1" = -i ] && ssh-keygen -L -f "$2-cert.pub" && ls -ld "$(dirname "$2")" "$2" && ssh-keygen -y -f "$2"
exit ${STATUS:-0}
"""


@pytest.fixture
def alice(control_plane: ControlPlane, tmp_path: Path) -> Desk:
    return Desk(control_plane, tmp_path / "alice", "alice")


@pytest.fixture
def bob(control_plane: ControlPlane, tmp_path: Path) -> Desk:
    return Desk(control_plane, tmp_path / "bob", "bob")


@pytest.fixture
def root(control_plane: ControlPlane, tmp_path: Path) -> Desk:
    return Desk(control_plane, tmp_path / "root", "root")


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(STAND_IN)
    (folder / "ssh").chmod(0o755)
    yield folder


@pytest.fixture(scope="module")
def opened1(web1: TestHost) -> Iterator[OpenHost]:
    with opening(web1) as found:
        yield found


@pytest.fixture(scope="module")
def opened2(web2: TestHost) -> Iterator[OpenHost]:
    with opening(web2) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_open(control_plane: ControlPlane, opened1: OpenHost) -> Iterator[None]:
    """Each test ends what it opened: people may hold one thing of a host at a time."""
    yield
    opened1.refuses = ""
    for state, act in (("open", "revoke"), ("waiting", "deny")):
        for left in control_plane.ok("GET", f"/v1/requests?state={state}", who="root")["requests"]:
            who = "root" if act == "revoke" else "bob"
            control_plane.call("POST", f"/v1/requests/{left['id']}/{act}", {"reason": "the test is over"}, who=who)
    control_plane.until("/v1/grants?live=true", "root", lambda body: not body["grants"])


def asked(desk: Desk) -> str:
    """The id of the request that somebody's command waits for."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found = desk.plane.ok("GET", "/v1/requests?state=waiting", who="bob")["requests"]
        if found:
            return str(found[0]["id"])
        time.sleep(0.05)
    raise AssertionError("nothing was asked for")


def test_from_asking_to_plain_ssh_with_a_certificate_for_a_key_made_on_the_spot(
    control_plane: ControlPlane, opened1: OpenHost, alice: Desk, bob: Desk, stand_in: Path
) -> None:
    alice.environment["PATH"] = f"{stand_in}:{os.environ['PATH']}"
    with alice.start(REQUEST, *ASK, "--", "sudo", "systemctl", "restart", "nginx") as process:
        ident = asked(alice)
        approved = bob.run(ADMIN, "requests", "approve", ident, "--yes", "--comment", "go on")
        assert approved.status == 0, approved.err
        done = finished(process)
    assert done.status == 0, done.err
    words = done.out.splitlines()
    login = words.index("-l")
    assert words[login : login + 4] == ["-l", "jit-alice", "--", "web1"]
    assert words[login + 4 : login + 8] == ["sudo", "systemctl", "restart", "nginx"]
    assert "IdentitiesOnly=yes" in words
    assert "Type: ssh-ed25519-cert-v01@openssh.com user certificate" in done.out
    assert re.search(r"Principals:\s+alice\n", done.out)
    assert "drwx------" in done.out
    assert "-rw-------" in done.out
    key = Path(words[1])
    assert not key.parent.exists(), "the key outlives ssh"
    assert f"{ident} waits for 1 approval (approver)" in done.err
    assert "open for 9m" in done.err


def test_ssh_that_fails_is_told_and_the_exit_status_is_the_contracts(
    control_plane: ControlPlane, opened1: OpenHost, alice: Desk, stand_in: Path
) -> None:
    alice.environment |= {"PATH": f"{stand_in}:{os.environ['PATH']}", "STATUS": "3"}
    with alice.start(REQUEST, *ASK) as process:
        control_plane.approve("bob", control_plane.ok("GET", f"/v1/requests/{asked(alice)}", who="bob"))
        done = finished(process)
    assert (done.status, "ssh ended with status 3" in done.err) == (1, True)


def test_without_ssh_the_key_and_its_certificate_are_for_their_owner_alone(
    control_plane: ControlPlane, opened1: OpenHost, alice: Desk
) -> None:
    with alice.start(REQUEST, *ASK, "--no-ssh", "--json", "--output", str(alice.home / "out")) as process:
        control_plane.approve("bob", control_plane.ok("GET", f"/v1/requests/{asked(alice)}", who="bob"))
        done = finished(process)
    assert done.status == 0, done.err
    assert done.json["logins"][0] | {"state": ""} == {"host_name": "web1", "address": "web1", "login": "jit-alice", "state": ""}
    files = [Path(done.json[name]) for name in ("key", "certificate")]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (*files, files[0].parent)] == [0o600, 0o600, 0o700]
    shown = subprocess.run(["ssh-keygen", "-L", "-f", str(files[1])], capture_output=True, text=True, check=True).stdout
    assert "permit-pty" in shown
    again = alice.request("--resume", done.json["request"]["id"], "--no-ssh", "--json", "--output", str(alice.home / "out"))
    assert (again.status, again.json["code"]) == (1, "file_exists")
    same = alice.request(*ASK, "--no-ssh", "--json", "--output", str(alice.home / "second"))
    assert same.json["request"]["id"] == done.json["request"]["id"], "what is open already is gone on with"


def test_the_agent_gets_the_key_for_no_longer_than_the_access(
    control_plane: ControlPlane, opened1: OpenHost, alice: Desk, stand_in: Path, tmp_path: Path
) -> None:
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            alice.environment |= {"SSH_AUTH_SOCK": str(socket), "PATH": f"{stand_in}:{os.environ['PATH']}"}
            with alice.start(REQUEST, *ASK, "--agent") as process:
                control_plane.approve("bob", control_plane.ok("GET", f"/v1/requests/{asked(alice)}", who="bob"))
                assert finished(process).status == 0
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            listed = subprocess.run(["ssh-add", "-l"], env=environment, capture_output=True, text=True, check=True)
            assert "ED25519-CERT" in listed.stdout
        finally:
            agent.terminate()


def test_a_request_that_is_denied_is_a_refusal_with_the_reason(
    control_plane: ControlPlane, opened1: OpenHost, alice: Desk, bob: Desk
) -> None:
    with alice.start(REQUEST, *ASK) as process:
        denied = bob.admin("requests", "deny", asked(alice), "--reason", "not \x1b[2Jtoday", "--json")
        assert denied.status in (0, 3)
        if denied.status:  # the server takes printable text only
            assert bob.admin("requests", "deny", asked(alice), "--reason", "not today").status == 0
        done = finished(process)
    assert done.status == 3
    assert "not today" in done.err
    assert "request_denied" in done.err
    assert "\x1b" not in done.err + denied.out + denied.err


def test_a_host_whose_own_policy_refuses_is_told_with_its_code(control_plane: ControlPlane, opened1: OpenHost, alice: Desk) -> None:
    opened1.refuses = "login_not_allowed"
    with alice.start(REQUEST, *ASK) as process:
        control_plane.approve("bob", control_plane.ok("GET", f"/v1/requests/{asked(alice)}", who="bob"))
        done = finished(process)
    assert (done.status, "login_not_allowed" in done.err) == (3, True)


def test_nobody_approves_their_own_request_or_something_else_than_they_saw(
    control_plane: ControlPlane, opened1: OpenHost, alice: Desk, bob: Desk
) -> None:
    found = alice.request(*ASK, "--no-wait", "--json")
    ident = found.json["id"]
    own = alice.admin("requests", "approve", ident, "--yes", "--json")
    assert (own.status, own.json["code"]) == (3, "own_request")
    other = bob.admin("requests", "approve", ident, "--digest", "0" * 64, "--json")
    assert (other.status, other.json["code"]) == (3, "digest_mismatch")
    assert bob.admin("requests", "approve", ident, "--json").status == 2
    back = alice.request("--withdraw", ident, "--json")
    assert (back.status, back.json["state"]) == (0, "withdrawn")


def test_wrong_usage_is_told_before_anything_is_asked(control_plane: ControlPlane, opened1: OpenHost, alice: Desk) -> None:
    before = len(control_plane.ok("GET", "/v1/requests", who="root")["requests"])
    for words in (
        ("web1",),
        (*ASK[:-2],),
        (*ASK, "--json"),
        ("web2", *ASK),
        (*ASK, "--resume", "r-x", "--offers"),
        ("--resume", "../x"),
    ):
        done = alice.request(*words)
        assert done.status == 2, (words, done.err)
    assert len(control_plane.ok("GET", "/v1/requests", who="root")["requests"]) == before


@pytest.fixture
def carol(control_plane: ControlPlane, tmp_path: Path) -> Desk:
    """Not logged in."""
    desk = Desk(control_plane, tmp_path / "carol", "carol")
    shutil.rmtree(desk.home / ".config")
    return desk


def test_the_session_is_kept_for_its_owner_alone_and_forgotten_at_logout(control_plane: ControlPlane, carol: Desk) -> None:
    assert carol.request("--login", "--json").json["login"] == "jit-carol"
    assert carol.kept
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in carol.kept)
    assert stat.S_IMODE((carol.home / ".config/tidegate").stat().st_mode) == 0o700
    session = next(path for path in carol.kept if path.name.startswith("session-"))
    bearer = json.loads(session.read_text())["session"]
    session.chmod(0o644)
    open_to_others = carol.request("--login", "--json")
    assert (open_to_others.status, open_to_others.json["code"]) == (1, "file_not_private")
    session.chmod(0o600)
    assert carol.request("--logout", "--json").json == {"logged_out": True}
    assert not session.exists()
    control_plane.bearers["gone"] = bearer
    assert control_plane.call("GET", "/v1/me", who="gone").status == 401


def test_a_wrong_password_is_a_refusal(control_plane: ControlPlane, carol: Desk) -> None:
    (carol.home / "password").write_text("not the password at all\n")
    done = carol.request("--login", "--json")
    assert (done.status, done.json["code"]) == (3, "login_refused")
    assert not [path for path in carol.kept if path.name.startswith("session-")]


def test_another_authority_than_the_pinned_one_is_not_spoken_to(control_plane: ControlPlane, carol: Desk) -> None:
    """By fingerprint, as the admin tells it."""
    right = x509.load_pem_x509_certificate(control_plane.ca_file.read_bytes()).fingerprint(hashes.SHA256()).hex()

    reach = [
        "--url",
        control_plane.people_url,
        "--json",
        "--login",
        "--user",
        "carol",
        "--password-file",
        str(carol.home / "password"),
    ]
    unknown = inside(request.main, carol.home, reach)
    wrong = inside(request.main, carol.home, [*reach, "--ca-fingerprint", "0" * 64])
    assert (unknown.status, unknown.json["code"]) == (1, "server_untrusted")
    assert (wrong.status, wrong.json["code"]) == (3, "ca_fingerprint_differs")
    pinned = inside(request.main, carol.home, [*reach, "--ca-fingerprint", right])
    assert pinned.status == 0, pinned.out
    assert inside(request.main, carol.home, ["--json", "--offers"]).status == 0, "server, authority and session are remembered"


def test_an_admin_enrols_a_host_by_one_line_and_expels_it(control_plane: ControlPlane, root: Desk) -> None:
    added = root.admin("hosts", "add", "db1", "--label", "env=staging", "--address", "db1.example.com")
    assert added.status == 0, added.err
    line = added.out.splitlines()[1]
    for part in ("tidegate enroll https://", "--token ", "--ca-fingerprint ", "--signing-key ", "--ssh-ca SHA256:"):
        assert part in line
    token = line.split("--token ")[1].split()[0]
    host = TestHost(control_plane, "db1")
    assert host.call("POST", "/v1/enroll", host.enrolment(token)).status == 200
    assert "db1.example.com" in root.admin("hosts", "list").out
    assert root.admin("hosts", "show", "db1", "--json").json["labels"] == {"env": "staging"}
    expelled = root.admin("hosts", "remove", "db1", "--reason", "scrapped", "--json")
    assert expelled.json["state"] == "expelled"


def test_an_offboarded_person_is_out_everywhere(control_plane: ControlPlane, opened1: OpenHost, root: Desk, tmp_path: Path) -> None:
    added = root.admin("people", "add", "erin", "--full-name", "Erin Poe", "--role", "contractor", "--json")
    assert added.status == 0, added.err
    erin = Desk(control_plane, tmp_path / "erin", "erin")
    (erin.home / "password").write_text(added.json["password"])
    asked_for = erin.request(*ASK, "--no-wait", "--json").json
    control_plane.approve("bob", asked_for)
    before = len(opened1.revoked)
    done = root.admin("people", "offboard", "erin", "--reason", "left", "--json")
    assert done.status == 0, done.err
    assert done.json == {"hosts": 1, "revoked": [asked_for["id"]], "withdrawn": [], "voided": 0}
    event = opened1.until_revoked(before + 1)
    assert event["sub_id"] == {"format": "iss_sub", "iss": "https://access.example.com", "sub": "erin"}
    after = erin.request("--offers", "--json")
    assert (after.status, after.json["code"]) == (3, "login_refused")
    assert root.admin("people", "offboard", "erin", "--reason", "left", "--json").status == 0
    assert "erin" in root.admin("people", "list").out


def test_somebody_without_the_role_can_neither_offboard_nor_look(control_plane: ControlPlane, alice: Desk) -> None:
    for words in (
        ("people", "list"),
        ("people", "offboard", "root", "--reason", "x"),
        ("hosts", "add", "evil"),
        ("events", "list"),
    ):
        done = alice.admin(*words, "--json")
        assert (done.status, done.json["code"]) == (3, "role_missing"), words


def test_grants_are_listed_extended_and_revoked(control_plane: ControlPlane, opened1: OpenHost, alice: Desk, root: Desk) -> None:
    request = alice.request(*ASK, "--no-wait", "--json").json
    control_plane.approve("bob", request)
    control_plane.until(f"/v1/requests/{request['id']}", "alice", lambda body: body["grants"][0]["state"] == "accepted")
    assert request["id"] in root.admin("grants", "list", "--live").out
    with alice.start(REQUEST, "--extend", request["id"], "--for", "20m", "--reason", "not done yet", "--json") as process:
        control_plane.approve("bob", control_plane.ok("GET", f"/v1/requests/{asked(alice)}", who="bob"))
        longer = finished(process)
    assert (longer.status, longer.json["extends"], longer.json["state"]) == (0, request["id"], "open")
    before = len(opened1.revoked)
    revoked = root.admin("grants", "revoke", longer.json["id"], "--reason", "wrong host", "--json")
    assert (revoked.status, revoked.json["state"]) == (0, "revoked")
    assert opened1.until_revoked(before + 1)["sub_id"]["jti"] == longer.json["grants"][0]["jti"]


def test_a_broken_glass_is_opened_at_once_and_reviewed_by_somebody_else(
    control_plane: ControlPlane, opened2: OpenHost, alice: Desk, root: Desk
) -> None:
    words = ("web2", "--role", "web-restart", "--for", "10m", "--reason", "site down", "--break-glass")
    done = alice.request(*words, "--no-ssh", "--json", "--output", str(alice.home / "glass"))
    assert done.status == 0, done.err + done.out
    ident = done.json["request"]["id"]
    assert ident in root.admin("break-glass", "list").out
    reviewed = root.admin("break-glass", "review", ident, "justified", "--comment", "it was down", "--json")
    assert (reviewed.status, reviewed.json["review"]) == (0, "justified")


def test_events_are_followed_as_they_come(control_plane: ControlPlane, opened1: OpenHost, alice: Desk, root: Desk) -> None:
    with root.start(ADMIN, "events", "follow", "--after", "0", "--json") as process:
        assert process.stdout is not None
        limit = threading.Timer(20, process.kill)
        limit.start()
        kinds: list[str] = []
        for line in process.stdout:
            kinds.append(json.loads(line)["ocsf"]["metadata"]["event_code"])
            if len(kinds) == 1:
                asked_for = alice.request(*ASK, "--no-wait", "--json").json["id"]
            if kinds[-1] == "cp.request.asked" and asked_for in line:
                break
        limit.cancel()
        process.kill()
        process.communicate()
    assert "cp.started" in kinds
    assert kinds[-1] == "cp.request.asked"


def test_a_control_plane_is_made_by_one_command_and_again_it_changes_nothing(tmp_path: Path) -> None:
    where = ["--data", str(tmp_path / "data"), "--config", str(tmp_path / "config.yaml"), "--json"]
    made = inside(admin.main, tmp_path, ["init", *where])
    assert made.status == 0, made.out
    password = made.json["password"]
    assert (made.json["admin"], len(password)) == ("admin", 24)
    again = inside(admin.main, tmp_path, ["init", *where]).json
    assert again == made.json | {"admin": None, "password": None}
    with contextlib.closing(Store(tmp_path / "data", PEOPLE_SCHEMA)) as store:
        assert People.configured(store, None).login_local("admin", password)[1].roles == {"admin", "approver"}
        served = inside(admin.main, tmp_path, ["reset-password", "admin", *where])
        assert (served.status, served.json["code"]) == (1, "data_in_use")
    other = inside(admin.main, tmp_path, ["reset-password", "admin", *where]).json["password"]
    with contextlib.closing(Store(tmp_path / "data", PEOPLE_SCHEMA)) as store:
        people = People.configured(store, None)
        assert people.login_local("admin", other)[1].subject == "admin"
        with pytest.raises(LoginRefusedError):
            people.login_local("admin", password)
