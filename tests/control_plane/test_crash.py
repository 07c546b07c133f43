"""SIGKILL at any step: what was said to be done is done, and what was decided arrives."""

import contextlib
import http.client
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent import trust
from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane, prepared


@pytest.fixture
def plane(tmp_path: Path) -> Any:
    found = prepared(tmp_path)
    found.start()
    yield found
    found.kill()


def crash(plane: ControlPlane) -> None:
    plane.kill()
    plane.start()


def test_nothing_that_was_acknowledged_is_lost_between_any_two_steps(plane: ControlPlane) -> None:
    host = TestHost(plane, "web1").enrol(labels={"env": "staging"})
    crash(plane)
    request = plane.ask("alice", ["web1"])
    crash(plane)
    assert plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")["digest"] == request["digest"]
    opened = plane.approve("bob", request)
    crash(plane)  # signed, and the host was not there: it waits in the outbox
    stream = host.stream()
    epoch, (ident, token) = stream.epoch, stream.next()
    while trust.claimed_typ(token.encode()) != trust.TYP_GRANT:
        ident, token = stream.next()
    stream.close()
    grant = host.read(token)
    assert grant.jti == opened["grants"][0]["jti"]
    crash(plane)
    assert host.tokens()["stream"] == epoch  # the numbering goes on
    assert token in [one["token"] for one in host.tokens()["tokens"]]  # sent again to who asks for all of it
    assert token not in [one["token"] for one in host.tokens(ident)["tokens"]]
    assert host.send(host.answer(grant.jti))["acked"]
    host.call("PUT", "/v1/host/recordings/r-20261122T100000-0123abcd?offset=0", b"durable")
    crash(plane)
    assert host.call("GET", "/v1/host/recordings/r-20261122T100000-0123abcd").body["size"] == 7
    assert plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")["grants"][0]["state"] == "accepted"
    plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "done"}, who="alice")
    crash(plane)
    words = [one["token"] for one in host.tokens(ident)["tokens"]]
    assert trust.TYP_EVENT in {trust.claimed_typ(word.encode()) for word in words}
    assert token not in [one["token"] for one in host.tokens()["tokens"]]
    assert host.send(host.receipt(grant.jti, "revoked"))["acked"]
    crash(plane)
    assert plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")["grants"][0]["cause"] == "revoked"


def test_killed_at_random_moments_while_it_opens_each_request_has_its_grant_or_waits(plane: ControlPlane) -> None:
    """Approvals run into kills. Whatever the approver heard, request, grant, outbox and trail tell one story afterwards."""
    hosts = [TestHost(plane, f"web{number}").enrol(labels={"env": "staging"}) for number in range(6)]
    requests = [plane.ask("alice", [host.name]) for host in hosts]
    heard: dict[str, bool] = {}
    for number, request in enumerate(requests):
        delay = threading.Timer(0.002 * number, plane.kill)
        delay.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            heard[request["id"]] = plane.approve("bob", request)["state"] == "open"
        delay.join()
        plane.start()
    told = plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]
    opened = {
        one["ocsf"]["metadata"]["correlation_uid"] for one in told if one["ocsf"]["metadata"]["event_code"] == "cp.request.opened"
    }
    for host, request in zip(hosts, requests, strict=True):
        shown = plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")
        words = [one["token"] for one in host.tokens()["tokens"]]
        grants = [host.read(word).jti for word in words if trust.claimed_typ(word.encode()) == trust.TYP_GRANT]
        whole = (shown["state"], len(shown["approvals"]), grants, request["id"] in opened)
        assert whole in (("open", 1, [f"{request['id']}.1"], True), ("waiting", 0, [], False))
        assert not heard.get(request["id"]) or shown["state"] == "open"


def test_a_database_that_was_put_back_makes_hosts_count_anew(plane: ControlPlane) -> None:
    host = TestHost(plane, "web1").enrol(labels={"env": "staging"})
    before = host.tokens()["stream"]
    plane.stop()
    plane.start("--restored")
    assert host.tokens()["stream"] != before


def test_two_servers_never_share_a_folder(plane: ControlPlane) -> None:
    with pytest.raises(RuntimeError, match="served by another process"):
        ControlPlane(plane.data, plane.config, plane.people_port, plane.hosts_port, {}, {}).start()
    assert plane.ok("GET", "/v1/health")["status"] == "ok"


def test_it_ends_at_once_with_streams_open(plane: ControlPlane) -> None:
    host = TestHost(plane, "web1").enrol(labels={"env": "staging"})
    streams = [host.stream() for _ in range(3)]
    began = time.monotonic()
    plane.stop()
    assert time.monotonic() - began < 8
    for stream in streams:
        stream.close()
