"""From asking to the receipt, over the wire, with a real server and a host's real keys."""

import time

from agent import trust
from agent.model import SshWant, SudoWant
from tests.control_plane.host import Listening, TestHost
from tests.control_plane.running import ControlPlane


def test_what_was_approved_is_signed_and_pushed_and_its_end_comes_back(control_plane: ControlPlane, web1: TestHost) -> None:
    stream = web1.stream()
    request = control_plane.ask("alice", ["web1"], ticket="INC-42")
    assert (request["state"], request["approvals_needed"], request["grants"]) == ("waiting", 1, [])
    began = time.monotonic()
    opened = control_plane.approve("bob", request)
    ident, token = stream.next()
    pushed_ms = (time.monotonic() - began) * 1000
    assert opened["state"] == "open"
    grant = web1.read(token)
    assert (grant.sub, grant.ticket, grant.exp - grant.iat) == (control_plane.subjects["alice"], "INC-42", 600)
    ssh = next(want for want in grant.wants if isinstance(want, SshWant))
    assert ssh.principals == (control_plane.subjects["alice"],)
    assert [want.commands for want in grant.wants if isinstance(want, SudoWant)] == [(("/usr/bin/systemctl", "restart", "nginx"),)]
    assert pushed_ms < 2000

    assert web1.send(web1.answer(grant.jti))["acked"]
    shown = control_plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")
    assert shown["grants"][0]["state"] == "accepted"
    assert web1.send(web1.receipt(grant.jti))["refused"] == []
    shown = control_plane.ok("GET", f"/v1/requests/{request['id']}", who="alice")
    assert (shown["state"], shown["grants"][0]["cause"]) == ("ended", "expired")
    assert shown["grants"][0]["receipt"].count(".") == 2
    stream.close()
    assert ident > 0


def test_a_revocation_is_pushed_at_once(control_plane: ControlPlane, web2: TestHost) -> None:
    request = control_plane.ask("alice", ["web2"], break_glass=True)
    listening = Listening(web2)
    began = time.monotonic()
    control_plane.ok("POST", f"/v1/requests/{request['id']}/revoke", {"reason": "over"}, who="alice")
    came: list[float] = []
    while not came and time.monotonic() - began < 5:
        came = [at for at, word in list(listening.got) if trust.claimed_typ(word.encode()) == trust.TYP_EVENT]
        time.sleep(0.005)
    listening.close()
    assert came, "no revocation came"
    assert came[0] - began < 2  # about 25 ms on a machine with nothing else to do; many tests may run here
