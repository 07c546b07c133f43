"""An enrolled host that lies and floods: it harms what is its own, and nothing else."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import trust
from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane, running_control_plane
from tests.control_plane.test_outside import Receiver

CAPS = "caps: {record_bytes: 4000, recording_bytes: 30000, events_kept: 40}"


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, collector: Receiver) -> Iterator[ControlPlane]:
    siem = f'siem: {{http: {{url: "http://127.0.0.1:{collector.port}/siem"}}}}'
    with running_control_plane(Path(tmp_path_factory.mktemp("hostile")), f"{CAPS}\n{siem}") as found:
        yield found


@pytest.fixture(scope="module")
def host(plane: ControlPlane) -> TestHost:
    return TestHost(plane, "web1").enrol(labels={"env": "staging"})


def event(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "kind": "event", "body": {"metadata": {"event_code": "x"}, "severity_id": 1, **more}}


def arrived(collector: Receiver, mark: str, timeout: float = 10.0) -> list[Any]:
    """All events that the collector has, once one with the mark is there. Read as strictly as any other than Python reads."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        bodies = [body for path, _, body in collector.got if path == "/siem"]
        if any(mark.encode() in body for body in bodies):
            return [one for body in bodies for one in json.loads(body, parse_constant=_no)]
        time.sleep(0.05)
    raise AssertionError(f"nothing with {mark} has come")


def _no(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


@pytest.mark.parametrize(
    "body",
    [b'{"metadata": {}, "n": 1e999}', b'{"metadata": {}, "n": -1e400}', b'{"deep": ' + b"[" * 900 + b"]" * 900 + b"}"],
    ids=["infinite", "minus infinite", "deep"],
)
def test_an_event_that_others_cant_read_is_refused_and_the_rest_goes_on(
    plane: ControlPlane, host: TestHost, collector: Receiver, body: bytes
) -> None:
    mark = f"after-{len(body)}-{body[-6:-1].hex()}"
    line = b'{"key": "bad-%d", "kind": "event", "body": %s}\n' % (len(body), body)
    answer = host.call("POST", "/v1/host/records", line + json.dumps(event(mark, note=mark)).encode() + b"\n")
    assert answer.status == 200, answer.body
    assert [one["code"] for one in answer.body["refused"]] == ["record_invalid"]
    assert answer.body["acked"] == [mark]
    arrived(collector, mark)
    assert plane.ok("GET", "/v1/health")["status"] == "ok"


def test_big_events_go_out_in_batches_that_a_collector_takes(host: TestHost, collector: Receiver) -> None:
    collector.answers = lambda path, body: (413, b"") if len(body) > 2 << 20 else (200, b"")
    try:
        for number in range(12):
            host.send(*(event(f"big-{number}-{one}", text="x" * 220_000) for one in range(4)))
        host.send(event("big-end", note="big-end"))
        arrived(collector, "big-end")
    finally:
        collector.answers = lambda path, body: (200, b"")


def test_events_use_up_nothing_of_the_room_for_receipts(plane: ControlPlane, host: TestHost) -> None:
    for number in range(3):
        host.send(*(event(f"{number}-{one}-" + "k" * 150) for one in range(20)))
    request = plane.approve("bob", plane.ask("alice", [host.name]))
    jti = request["grants"][0]["jti"]
    assert host.send(host.receipt(jti))["acked"]


def test_recordings_without_a_byte_use_up_the_quota_too(host: TestHost) -> None:
    def begin(number: int) -> int:
        return host.call("PUT", f"/v1/host/recordings/r-20261122T0515{number:02}-0a1b2c3d?offset=0", b"").status

    assert [begin(number) for number in range(10)][-1] == 429


def test_a_token_to_replace_one_host_replaces_no_other(plane: ControlPlane) -> None:
    """Where ids are names of the admin's own, whoever holds the token could claim any."""
    victim, thief = TestHost(plane, "db1"), TestHost(plane, "spare")
    victim.host_id = thief.host_id = "db1.example.com"
    victim.enrol()
    token = thief.invitation(replaces=True)
    answer = thief.call("POST", "/v1/enroll", thief.enrolment(token))
    assert (answer.status, answer.body.get("code")) == (409, "host_known")
    assert victim.call("GET", "/v1/host/tokens").status == 200
    rebuilt = TestHost(plane, "db1")  # what the token is for: the same name and id, with a new key
    rebuilt.host_id = victim.host_id
    rebuilt.enrol(replaces=True)
    assert victim.call("GET", "/v1/host/tokens").status == 401


def test_a_floods_own_events_go_before_what_people_did(plane: ControlPlane, host: TestHost) -> None:
    refused = {"key": "no", "kind": "answer", "body": {"jws": trust.HostKey.unsaved().sign("grant-answer+jwt", {"jti": "x"})}}
    host.send(*(event(f"flood-{number}") for number in range(100)), *({**refused, "key": f"no-{n}"} for n in range(100)))
    plane.kill()
    plane.start()  # it forgets what is over its bounds when it starts, and then now and then
    found = plane.until("/v1/events?limit=500", "audra", lambda body: len(body["events"]) < 150)["events"]
    kinds = [one["ocsf"]["metadata"].get("event_code") for one in found]
    assert "cp.host.enrolled" in kinds
    assert sum(one["source"] == "web1" for one in found) <= 40
