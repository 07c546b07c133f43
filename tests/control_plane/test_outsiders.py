"""Strangers on the people's listener: they keep nobody else waiting."""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control_plane.running import Answer, ControlPlane, answered, running_control_plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """One whose OpenID provider takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as silent:
        people = f"""
people:
  local: true
  oidc: {{issuer: "https://127.0.0.1:{silent.getsockname()[1]}", client_id: tidegate, roles: {{it: [admin]}}}}
"""
        with running_control_plane(tmp_path, people) as found:
            yield found


def post(plane: ControlPlane, path: str, kind: str, *pieces: bytes, source: str = "127.0.0.1", timeout: float = 20) -> Answer:
    """A POST in pieces, each a packet of its own."""
    context = ssl.create_default_context(cafile=str(plane.ca_file))
    connection = http.client.HTTPSConnection(
        "localhost", plane.people_port, timeout=timeout, context=context, source_address=(source, 0)
    )
    with contextlib.closing(connection):
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", str(sum(map(len, pieces))))
        connection.endheaders()
        for piece in pieces:
            connection.send(piece)
            time.sleep(0.2)
        return answered(connection.getresponse())


def token(alg: str = "RS256") -> str:
    """One that nobody signed; to see that, the provider's keys are needed."""
    header = base64.urlsafe_b64encode(b'{"alg":"%s","kid":"x"}' % alg.encode()).rstrip(b"=").decode()
    return f"{header}.e30.AAAA"


@pytest.mark.parametrize("way", ["login", "logout"])
def test_logins_that_wait_for_a_provider_keep_nobody_else_waiting(plane: ControlPlane, way: str) -> None:
    def knock(number: int) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            source = f"127.0.0.{number + 2}"
            if way == "login":
                body = json.dumps({"id_token": token()}).encode()
                post(plane, "/v1/login/oidc", "application/json", body, source=source, timeout=8)
            else:
                body = f"logout_token={token()}".encode()
                post(plane, "/v1/login/oidc/logout", "application/x-www-form-urlencoded", body, source=source, timeout=8)

    strangers = [threading.Thread(target=knock, args=(number,)) for number in range(30)]
    for stranger in strangers:
        stranger.start()
    time.sleep(1)
    began = time.monotonic()
    assert plane.call("GET", "/v1/me", who="root").status == 200
    assert time.monotonic() - began < 3
    for stranger in strangers:
        stranger.join()


def test_a_logout_that_comes_in_two_packets_is_read_whole(plane: ControlPlane) -> None:
    form = "application/x-www-form-urlencoded"
    body = f"logout_token={token('HS256')}".encode()
    assert post(plane, "/v1/login/oidc/logout", form, body).code == "id_token_algorithm"
    assert post(plane, "/v1/login/oidc/logout", form, body[:20], body[20:]).code == "id_token_algorithm"
    assert post(plane, "/v1/login/oidc/logout", form, b"logout_token=" + b"x" * 30_000).code == "request_malformed"
