"""Somebody who may no longer act: what they had begun while they still might comes to nothing."""

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from tests.control_plane.host import TestHost
from tests.control_plane.running import Answer, ControlPlane, answered
from tests.control_plane.test_sessions import Session, followed


@contextlib.contextmanager
def half_sent(plane: ControlPlane, method: str, path: str, body: object, who: str) -> Iterator[http.client.HTTPSConnection]:
    """A request whose head and half of whose body are there; ``rest`` sends the other half."""
    data = json.dumps(body).encode()
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    connection = http.client.HTTPSConnection("localhost", plane.people_port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        for name, value in (("Authorization", f"Bearer {plane.bearers[who]}"), ("Content-Type", "application/json")):
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data[:5])
        time.sleep(0.3)  # the server has looked whose session it is, and waits for the body
        connection.rest = data[5:]  # type: ignore[attr-defined]  # for finish
        yield connection


def finish(connection: http.client.HTTPSConnection) -> Answer:
    connection.send(connection.rest)  # type: ignore[attr-defined]  # as half_sent left it
    return answered(connection.getresponse())


def new_person(plane: ControlPlane, name: str, *roles: str) -> int:
    """Somebody who is logged in; their number."""
    made = plane.ok("POST", "/v1/people", {"name": name, "roles": list(roles)}, who="root")
    login = plane.ok("POST", "/v1/login/local", {"name": name, "password": made["password"]})
    plane.bearers[name] = login["session"]
    return int(made["person"]["id"])


def offboard(plane: ControlPlane, ident: int) -> None:
    plane.ok("POST", f"/v1/people/{ident}/offboard", {"reason": "has left"}, who="root")


def test_break_glass_begun_before_the_offboarding_opens_nothing_after_it(control_plane: ControlPlane, web2: TestHost) -> None:
    ident = new_person(control_plane, "leaver", "on-call")
    ask = {"template": "web-restart", "hosts": [web2.name], "duration_s": 600, "reason": "mine", "break_glass": True}
    with half_sent(control_plane, "POST", "/v1/requests", ask, "leaver") as connection:
        offboard(control_plane, ident)
        assert finish(connection).code == "session_invalid"
    assert control_plane.ok("GET", "/v1/requests?state=open", who="root")["requests"] == []


def test_an_admin_who_was_offboarded_meanwhile_makes_no_other_admin(control_plane: ControlPlane) -> None:
    ident = new_person(control_plane, "former", "admin")
    with half_sent(control_plane, "POST", "/v1/people", {"name": "back-door", "roles": ["admin"]}, "former") as connection:
        offboard(control_plane, ident)
        assert finish(connection).code == "session_invalid"
    assert "back-door" not in {one["subject"] for one in control_plane.ok("GET", "/v1/people", who="root")["people"]}


def test_a_role_that_is_lost_meanwhile_decides_nothing(control_plane: ControlPlane, web1: TestHost) -> None:
    ident = new_person(control_plane, "former-approver", "approver", "contractor")
    request = control_plane.ask("carol", [web1.name])
    with half_sent(control_plane, "POST", f"/v1/requests/{request['id']}/deny", {"reason": "no"}, "former-approver") as connection:
        control_plane.ok("PUT", f"/v1/people/{ident}/roles", {"roles": ["contractor"]}, who="root")
        assert finish(connection).code == "role_missing"
    assert control_plane.ok("GET", f"/v1/requests/{request['id']}", who="root")["state"] == "waiting"
    control_plane.ok("POST", f"/v1/requests/{request['id']}/withdraw", who="carol")


def test_one_connection_serves_whoever_shows_a_session_next(control_plane: ControlPlane) -> None:
    """What is looked at again belongs to one request, not to the connection that it came over."""
    ident = new_person(control_plane, "first", "admin")
    context = ssl.create_default_context(cafile=str(control_plane.ca_file))
    connection = http.client.HTTPSConnection("localhost", control_plane.people_port, timeout=20, context=context)
    with contextlib.closing(connection):
        token = {"name": "web-next"}
        for who in ("first", "root"):
            headers = {"Authorization": f"Bearer {control_plane.bearers[who]}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/enrolment-tokens", json.dumps(token), headers)
            assert answered(connection.getresponse()).status == 201
            if who == "first":
                offboard(control_plane, ident)
        connection.request(
            "POST", "/v1/login/local", json.dumps({"name": "x", "password": "y"}), {"Content-Type": "application/json"}
        )
        assert answered(connection.getresponse()).code == "login_refused"


@pytest.mark.parametrize("silent", [False, True])
def test_who_is_offboarded_sees_no_more_of_a_live_session(control_plane: ControlPlane, web1: TestHost, silent: bool) -> None:
    """Also while it never falls silent."""
    name = f"watcher-{silent}".lower()
    ident = new_person(control_plane, name, "auditor")
    session = Session(web1, f"r-20261122T0516{int(silent):02}-0a1b2c3d", "")
    session.show("begin\r\n")
    over = threading.Event()

    def talk() -> None:
        while not over.wait(0.3):
            session.show("secret\r\n")

    with followed(control_plane, f"/v1/recordings/{web1.token}/{session.ident}/live", name) as stream:
        stream.next()
        talker = threading.Thread(target=talk)
        if not silent:
            talker.start()
        try:
            offboard(control_plane, ident)
            end = time.monotonic() + 15
            with pytest.raises(EOFError):
                while time.monotonic() < end:
                    stream.next()
        finally:
            over.set()
            if not silent:
                talker.join()


def test_break_glass_ends_with_the_role_that_let_it_be_broken(control_plane: ControlPlane, web2: TestHost) -> None:
    """Though another role would let them ask for the same, of somebody who approves it."""
    ident = new_person(control_plane, "torn", "on-call", "contractor")
    ask = {"template": "web-restart", "hosts": [web2.name], "duration_s": 600, "reason": "down", "break_glass": True}
    request = control_plane.ok("POST", "/v1/requests", ask, who="torn")
    assert request["state"] == "open"
    control_plane.ok("PUT", f"/v1/people/{ident}/roles", {"roles": ["contractor"]}, who="root")
    assert control_plane.ok("GET", f"/v1/requests/{request['id']}", who="root")["state"] == "revoked"
