"""Session logs as they come in: verified under the host's key, followed live, replayed."""

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from agent.sessions.recording import Kind, Writer
from tests.control_plane.host import Stream, TestHost
from tests.control_plane.running import ControlPlane
from tests.unit.recording_kit import MS, meta

IDENT = "r-20261122T051500-0a1b2c3d"


class Session:
    """A recording that grows, sealed by the host."""

    def __init__(self, host: TestHost, ident: str, jti: str) -> None:
        self.host, self.ident, self.jti, self.sent = host, ident, jti, 0
        self.writer = Writer(meta(id=ident, jti=jti, sub="alice", host=host.host_id), 0)
        self.at = 0

    def show(self, text: str, *, final: bool = False) -> None:
        self.at += 10
        self.writer.frame(Kind.OUT, text.encode(), self.at * MS)
        if final:
            self.writer.end("exit", (self.at + 1) * MS, 0)
        data = self.writer.take()
        claims = {
            "iss": self.host.host_id,
            "recording": self.ident,
            "jti": self.jti,
            "iat": 1,
            "final": final,
            **self.writer.claims(),
        }
        data += self.writer.seal(self.host.key.sign("recording-seal+jwt", claims))
        self.put(data, complete=final)

    def put(self, data: bytes, *, complete: bool) -> None:
        path = f"/v1/host/recordings/{self.ident}?offset={self.sent}{'&complete=true' if complete else ''}"
        answer = self.host.call("PUT", path, data)
        assert answer.status == 200, answer.body
        self.sent = answer.body["size"]


@contextlib.contextmanager
def followed(plane: ControlPlane, path: str, who: str) -> Iterator[Stream]:
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    connection = http.client.HTTPSConnection("localhost", plane.people_port, timeout=20, context=context)
    connection.request("GET", path, headers={"Authorization": f"Bearer {plane.bearers[who]}"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    stream = Stream(connection, response)
    try:
        yield stream
    finally:
        stream.close()


@pytest.fixture(scope="module")
def granted(control_plane: ControlPlane, web1: TestHost) -> str:
    """The jti of an open grant."""
    return f"{control_plane.approve('bob', control_plane.ask('alice', ['web1']))['id']}.1"


def test_a_session_is_followed_as_it_goes_and_ends(control_plane: ControlPlane, web1: TestHost, granted: str) -> None:
    session = Session(web1, IDENT, granted)
    session.show("first line\r\n")
    path = f"/v1/recordings/{web1.token}/{IDENT}"
    with followed(control_plane, f"{path}/live", "audra") as stream:
        assert json.loads(stream.next()[1])["width"] == 80
        assert json.loads(stream.next()[1])[1:] == ["o", "first line\r\n"]
        later = threading.Timer(0.2, lambda: session.show("second line\r\n"))
        later.start()
        assert json.loads(stream.next()[1])[2] == "second line\r\n"
        later.join()  # who follows may have it before its host has the answer
        began = time.monotonic()
        session.show("bye\r\n", final=True)
        assert json.loads(stream.next()[1])[2] == "bye\r\n"
        assert time.monotonic() - began < 3
        assert stream.next()[1] == ""  # the end
        with pytest.raises(EOFError):
            stream.next()
    found = control_plane.ok("GET", path, who="audra")
    assert found["verified"] == {"ok": True, "unfinished": False, "sealed_bytes": found["verified"]["sealed_bytes"], "problems": []}
    assert (found["jti"], found["complete"]) == (granted, True)


def test_a_recording_is_replayed_as_asciicast_and_listed_by_its_request(
    control_plane: ControlPlane, web1: TestHost, granted: str
) -> None:
    ident = "r-20261122T051501-0a1b2c3d"
    Session(web1, ident, granted).show("whole\r\n", final=True)
    cast = control_plane.call("GET", f"/v1/recordings/{web1.token}/{ident}/export", who="bob")
    assert cast.headers["Content-Type"].startswith("application/x-asciicast")
    lines = [json.loads(line) for line in str(cast.body).splitlines()]
    assert (lines[0]["version"], lines[1][1:]) == (2, ["o", "whole\r\n"])
    text = control_plane.call("GET", f"/v1/recordings/{web1.token}/{ident}/export?format=text", who="bob")
    assert text.body == "whole\n"
    request = granted.rpartition(".")[0]
    listed = control_plane.ok("GET", f"/v1/recordings?request={request}", who="audra")["recordings"]
    assert ident in {one["id"] for one in listed}
    events = control_plane.ok("GET", "/v1/events?limit=500", who="audra")["events"]
    assert "cp.recording.watched" in {one["ocsf"]["metadata"]["event_code"] for one in events}


def test_a_recording_that_was_changed_is_told(control_plane: ControlPlane, web1: TestHost, granted: str) -> None:
    ident = "r-20261122T051502-0a1b2c3d"
    Session(web1, ident, granted).show("it was like this\r\n", final=True)
    path = control_plane.data / "recordings" / web1.token / f"{ident}.tgr"
    path.write_bytes(path.read_bytes().replace(b"like this", b"like that"))
    verified = control_plane.ok("GET", f"/v1/recordings/{web1.token}/{ident}", who="audra")["verified"]
    assert not verified["ok"]
    assert verified["problems"]


def test_another_hosts_seal_vouches_for_nothing(control_plane: ControlPlane, web1: TestHost, web2: TestHost, granted: str) -> None:
    ident = "r-20261122T051503-0a1b2c3d"
    thief = Session(web1, ident, granted)
    thief.host = _Signing(web1, web2)
    thief.show("forged\r\n", final=True)
    verified = control_plane.ok("GET", f"/v1/recordings/{web1.token}/{ident}", who="audra")["verified"]
    assert not verified["ok"]


class _Signing(TestHost):
    """web1's way in, with another's signatures."""

    def __init__(self, carrier: TestHost, signer: TestHost) -> None:
        super().__init__(carrier.plane, carrier.name)
        self.tls_key, self.certificate, self.host_id, self.key = carrier.tls_key, carrier.certificate, carrier.host_id, signer.key


def test_sessions_are_not_for_everybody(control_plane: ControlPlane, web1: TestHost) -> None:
    for path in ("/v1/recordings", f"/v1/recordings/{web1.token}/{IDENT}", f"/v1/recordings/{web1.token}/{IDENT}/live"):
        assert control_plane.call("GET", path, who="carol").code == "role_missing"
        assert control_plane.call("GET", path).code == "session_missing"
    assert control_plane.call("GET", f"/v1/recordings/{web1.token}/r-20261122T051509-0a1b2c3d/live", who="audra").status == 404


def test_no_more_follow_than_may(control_plane: ControlPlane, web1: TestHost, granted: str) -> None:
    ident = "r-20261122T051504-0a1b2c3d"
    Session(web1, ident, granted).show("going on\r\n")
    path = f"/v1/recordings/{web1.token}/{ident}/live"
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(followed(control_plane, path, "audra"))
        assert control_plane.call("GET", path, who="audra").code == "busy"
