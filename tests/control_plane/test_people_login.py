"""The whole way in by OpenID Connect: a real provider, a real control plane, the commands, a browser that fills in forms."""

import functools
import json
import re
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.control_plane.commands import flows, login
from examples.control_plane.people.https import Https
from examples.control_plane.people.keyset import discover
from tests.control_plane.host import TestHost
from tests.control_plane.people_kit import REQUEST, Desk, Done, OpenHost, finished, log_in, opening
from tests.control_plane.provider import ALICE, CLIENT, Browser, RunningProvider, authority, running
from tests.control_plane.running import ControlPlane, prepared
from tests.hosts.ports import free_port

PEOPLE = """
people:
  local: true
  oidc:
    issuer: https://127.0.0.1:{port}
    client_id: {client}
    ca_file: {ca}
    roles: {{contractors: [contractor], leads: [contractor, approver]}}
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningProvider, ControlPlane]]:
    folder = tmp_path_factory.mktemp("bed")
    given, port = authority(folder), free_port()
    plane = prepared(folder, PEOPLE.format(port=port, client=CLIENT, ca=given.ca))
    url = f"{plane.people_url}/v1/login/oidc/logout"
    with running(folder, given, url, port, plane.ca_file) as provider:
        plane.start()
        try:
            yield provider, plane
        finally:
            plane.kill()


@pytest.fixture(scope="module")
def provider(bed: tuple[RunningProvider, ControlPlane]) -> RunningProvider:
    return bed[0]


@pytest.fixture(scope="module")
def plane(bed: tuple[RunningProvider, ControlPlane]) -> ControlPlane:
    return bed[1]


@pytest.fixture(scope="module")
def host(plane: ControlPlane) -> Iterator[OpenHost]:
    with opening(TestHost(plane, "web1").enrol(labels={"env": "staging"})) as found:
        yield found


def proof_of(provider: RunningProvider, account: str, browser: Browser | None = None) -> flows.Proof:
    """An ID token of a login by code, confirmed at once."""
    https = Https(provider.authority.ca)
    client = flows.Client(discover(provider.issuer, https), CLIENT, ("openid", "profile", "email", "groups"), https)
    shown: list[flows.Code] = []

    def confirm(_: float) -> None:
        (browser or Browser(provider.authority)).log_in(shown[0].complete, account)

    return flows.by_device(client, shown.append, confirm)


def logged_in(plane: ControlPlane, provider: RunningProvider, account: str, browser: Browser | None = None) -> str:
    """A new session's name in ``plane.bearers``."""
    answer = log_in(plane, {"id_token": proof_of(provider, account, browser).id_token})
    assert answer.status == 200, answer.body
    name = f"{account}-{len(plane.bearers)}"
    plane.bearers[name] = answer.body["session"]
    return name


def by_command(desk: Desk, provider: RunningProvider, *words: str) -> Done:
    """tidegate-request's own login: the address that it shows is gone to."""
    ca = ("--provider-ca", str(provider.authority.ca))
    with desk.start(REQUEST, *ca, "--no-browser", "--login", "--json", *words) as process:
        assert process.stderr is not None
        shown = ""
        while not (found := re.search(r"(https://127\.0\.0\.1:\d+/(?:auth|device)\?\S+)\n", shown)):
            line = process.stderr.readline()
            assert line, shown
            shown += line
        page = Browser(provider.authority).log_in(found[1], "alice")
        assert page
        return finished(process)


def test_a_contractor_logs_in_by_browser_and_is_made_from_their_claims(
    plane: ControlPlane, provider: RunningProvider, tmp_path: Path
) -> None:
    desk = Desk(plane, tmp_path / "alice", "")
    done = by_command(desk, provider)
    assert done.status == 0, done.err
    assert done.json["subject"] == "alice@example.com"
    assert (done.json["name"], done.json["roles"], done.json["issuer"]) == ("Alice Ng", ["contractor"], provider.issuer)
    assert re.fullmatch(r"jit-alice(-\d+)?", done.json["login"]), "the local alice has the plain one"
    assert desk.request("--login", "--json").json["subject"] == "alice@example.com", "the session is kept"


def test_and_by_a_code_typed_elsewhere(
    plane: ControlPlane, provider: RunningProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the person is told leads them through the provider's own pages; only the wait between two polls is left out."""
    said: list[str] = []

    def confirm(_: float) -> None:
        found = re.search(r"straight to (https://\S+)", "\n".join(said))
        assert found is not None, said
        Browser(provider.authority).log_in(found[1], "alice")

    monkeypatch.setattr(login, "say", said.append)
    monkeypatch.setattr(flows, "by_device", functools.partial(flows.by_device, sleep=confirm))
    desk = Desk(plane, tmp_path / "alice", "")
    done = desk.request("--provider-ca", str(provider.authority.ca), "--device", "--login", "--json")
    assert (done.status, done.json["subject"]) == (0, "alice@example.com")


def test_an_id_token_is_taken_once_and_with_its_own_nonce_alone(plane: ControlPlane, provider: RunningProvider) -> None:
    token = proof_of(provider, "alice").id_token
    assert log_in(plane, {"id_token": token, "nonce": "x"}).code == "id_token_nonce"
    assert log_in(plane, {"id_token": token}).status == 200
    again = log_in(plane, {"id_token": token})
    assert (again.status, again.code) == (401, "id_token_replayed")


def test_a_group_removed_at_the_provider_ends_the_role_and_all_that_it_gave(
    plane: ControlPlane, provider: RunningProvider, host: OpenHost
) -> None:
    provider.account("gina", {**ALICE, "email": "gina@example.com", "groups": ["contractors", "leads"]})
    before = logged_in(plane, provider, "gina")
    request = plane.ask(before, ["web1"])
    plane.approve("bob", request)
    plane.until(f"/v1/requests/{request['id']}", before, lambda body: body["grants"][0]["state"] == "accepted")
    provider.account("gina", {**ALICE, "email": "gina@example.com", "groups": ["contractors"]})
    logged_in(plane, provider, "gina")
    assert plane.ok("GET", "/v1/me", who=before)["roles"] == ["contractor"], "in the older session too"
    assert plane.ok("GET", f"/v1/requests/{request['id']}", who=before)["state"] == "open", "the role that gave it is there"
    provider.account("gina", {**ALICE, "email": "gina@example.com", "groups": []})
    count = len(host.revoked)
    refused = log_in(plane, {"id_token": proof_of(provider, "gina").id_token})
    assert (refused.status, refused.code) == (403, "no_role")
    assert plane.call("GET", "/v1/me", who=before).status == 401
    assert host.until_revoked(count + 1)["sub_id"]["sub"] == "gina@example.com"
    assert plane.ok("GET", f"/v1/requests/{request['id']}", who="root")["state"] == "revoked"


def test_whoever_has_no_role_at_the_provider_does_not_come_into_being(plane: ControlPlane, provider: RunningProvider) -> None:
    provider.account("visitor", {**ALICE, "email": "visitor@example.com", "groups": ["admin"]})
    refused = log_in(plane, {"id_token": proof_of(provider, "visitor").id_token})
    assert (refused.status, refused.code) == (403, "no_role")
    people = plane.ok("GET", "/v1/people", who="root")["people"]
    assert "visitor@example.com" not in {person["subject"] for person in people}


def test_an_offboarded_person_is_not_let_in_by_the_provider_either(plane: ControlPlane, provider: RunningProvider) -> None:
    provider.account("otto", {**ALICE, "email": "otto@example.com"})
    session = logged_in(plane, provider, "otto")
    ident = plane.ok("GET", "/v1/me", who=session)["id"]
    plane.ok("POST", f"/v1/people/{ident}/offboard", {"reason": "left"}, who="root")
    assert plane.call("GET", "/v1/me", who=session).status == 401
    refused = log_in(plane, {"id_token": proof_of(provider, "otto").id_token})
    assert (refused.status, refused.code) == (403, "person_ended")
    assert plane.call("PUT", f"/v1/people/{ident}/roles", {"roles": ["admin"]}, who="root").code == "person_ended"


def test_a_logout_at_the_provider_ends_the_session_here(plane: ControlPlane, provider: RunningProvider) -> None:
    provider.account("lena", {**ALICE, "email": "lena@example.com"})
    browser = Browser(provider.authority)
    session = logged_in(plane, provider, "lena", browser)
    assert plane.call("GET", "/v1/me", who=session).status == 200
    browser.log_out(provider.issuer)
    end = time.monotonic() + 5
    while plane.call("GET", "/v1/me", who=session).status != 401:
        assert time.monotonic() < end, "the session outlives the logout"
        time.sleep(0.05)


def test_a_logout_token_of_somebody_elses_making_ends_nothing(plane: ControlPlane, provider: RunningProvider) -> None:
    session = logged_in(plane, provider, "alice")
    for token in ("x.y.z", proof_of(provider, "alice").id_token):
        answer = _post_form(plane, urllib.parse.urlencode({"logout_token": token}))
        assert answer.startswith("4"), answer
    assert plane.call("GET", "/v1/me", who=session).status == 200


def _post_form(plane: ControlPlane, form: str) -> str:
    argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", str(plane.ca_file), "-d", form]
    done = subprocess.run(
        [*argv, f"{plane.people_url}/v1/login/oidc/logout"], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout


def test_offboarding_that_a_power_cut_meets_is_done_whole_or_not_at_all(
    plane: ControlPlane, provider: RunningProvider, host: OpenHost
) -> None:
    """Killed right after the answer: what was said to be done is done, and the host hears of it from the next process."""
    provider.account("nora", {**ALICE, "email": "nora@example.com"})
    session = logged_in(plane, provider, "nora")
    request = plane.ask(session, ["web1"])
    plane.approve("bob", request)
    plane.until(f"/v1/requests/{request['id']}", session, lambda body: body["grants"][0]["state"] == "accepted")
    ident = plane.ok("GET", "/v1/me", who=session)["id"]
    host.close()
    plane.ok("POST", f"/v1/people/{ident}/offboard", {"reason": "left"}, who="root")
    plane.kill()
    plane.start()
    assert plane.call("GET", "/v1/me", who=session).status == 401
    with opening(host.host) as again:
        end = time.monotonic() + 5
        while not any(event["sub_id"].get("sub") == "nora@example.com" for event in again.revoked):
            assert time.monotonic() < end, json.dumps(list(again.revoked))
            time.sleep(0.05)
