"""openapi.yaml and the server say the same, whoever asks whatever: schemathesis over the people's API, with an admin's session."""

import http.client
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control_plane.host import TestHost
from tests.control_plane.running import ControlPlane, answered, running_control_plane

SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"
# An end of the session, of somebody, or of nothing: these are tested by themselves.
LEFT_OUT = ("logout", "offboard", "followEvents")
# A body may be well formed and still name a host that is not there: refusing it is right. Some operations need no session.
NOT_ASKED = "positive_data_acceptance,ignored_auth"


def test_schemathesis_finds_no_server_error_and_nothing_that_the_document_does_not_say(tmp_path: Path) -> None:
    with running_control_plane(tmp_path) as plane:
        TestHost(plane, "web1").enrol(labels={"env": "staging"})
        plane.approve("bob", plane.ask("alice", ["web1"]))
        left_out = [word for name in LEFT_OUT for word in ("--exclude-operation-id", name)]
        command = [str(SCHEMATHESIS), "run", f"{plane.people_url}/openapi.yaml", "--tls-verify", str(plane.ca_file), *left_out]
        command += [
            "-H",
            f"Authorization: Bearer {plane.bearers['root']}",
            "--exclude-checks",
            NOT_ASKED,
            "--phases",
            "coverage,fuzzing",
        ]
        command += ["--max-time", "14", "--max-examples", "5", "--seed", "1", "--no-shrink", "--generation-database", "none"]
        (tmp_path / "schemathesis.toml").write_text('[parameters]\n"query.wait" = 0\n')
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Coverage" in done.stdout
    log = (tmp_path / "log").read_text()
    assert " failed\n" not in log


def raw(plane: ControlPlane, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
    connection = http.client.HTTPSConnection(
        "localhost", plane.people_port, timeout=20, context=ssl.create_default_context(cafile=str(plane.ca_file))
    )
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {plane.bearers['alice']}", **headers})
        return answered(connection.getresponse())
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "expected"),
    [
        ("POST", "/v1/requests", b"{", "application/json", (422, "body_invalid")),
        ("POST", "/v1/requests", b"[]", "application/json", (422, "body_invalid")),
        ("POST", "/v1/requests", b'{"template":"a","template":"b"}', "application/json", (422, "body_invalid")),
        ("POST", "/v1/requests", b"\xff", "application/json", (422, "body_invalid")),
        ("POST", "/v1/requests", b"[" * 60_000, "application/json", (422, "body_invalid")),
        ("POST", "/v1/requests", b" " * 70_000, "application/json", (413, "body_too_large")),
        ("POST", "/v1/requests", b"{}", "text/plain", (415, "media_type")),
        ("DELETE", "/v1/requests", None, "", (405, "method_not_allowed")),
        ("HEAD", "/v1/offers", None, "", (405, "")),
        ("GET", "/v1/nothing", None, "", (404, "not_found")),
        ("GET", "/v1/requests?limit=0", None, "", (422, "parameter_invalid")),
        ("GET", "/v1/requests?limit=1&limit=2", None, "", (422, "parameter_invalid")),
        ("GET", "/v1/requests?before=x%27%20OR%201", None, "", (422, "parameter_invalid")),
        ("GET", "/v1/requests?other=1", None, "", (422, "parameter_invalid")),
        ("GET", "/v1/requests/r-aaaaaaaaaaaaaaaa", None, "", (404, "not_found")),
        ("GET", "/v1/requests/..%2f..%2fkeys", None, "", (404, "not_found")),
        ("GET", "/v1/hosts", None, "", (403, "role_missing")),
    ],
)
def test_what_is_malformed_is_refused_with_its_code(
    control_plane: ControlPlane, method: str, path: str, body: bytes | None, kind: str, expected: tuple[int, str]
) -> None:
    answer = raw(control_plane, method, path, body, {"Content-Type": kind} if kind else {})
    assert (answer.status, answer.code) == expected


def test_a_session_that_is_none_opens_nothing(control_plane: ControlPlane) -> None:
    for value in ("", "Bearer", "Bearer x", f"Basic {control_plane.bearers['root']}"):
        assert raw(control_plane, "GET", "/v1/hosts", None, {"Authorization": value}).status == 401


def test_logins_are_bounded_for_each_address(tmp_path: Path) -> None:
    with running_control_plane(tmp_path) as plane:
        said = {"name": "alice", "password": "wrong password"}
        statuses = [plane.call("POST", "/v1/login/local", said).status for _ in range(12)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert not set(statuses) - {401, 429}


def test_the_document_is_served_as_it_is_obeyed(control_plane: ControlPlane) -> None:
    served = yaml.safe_load(str(control_plane.call("GET", "/openapi.yaml").body))
    idents = [found["operationId"] for item in served["paths"].values() for name, found in item.items() if name != "parameters"]
    assert len(idents) == len(set(idents)) >= 40
    health = control_plane.call("GET", "/v1/health")
    assert json.dumps(health.body["status"]) == '"ok"'


def test_no_cache_keeps_what_is_answered_well(control_plane: ControlPlane) -> None:
    found = raw(control_plane, "GET", "/v1/offers", None, {})
    assert found.status == 200
    assert found.headers["Cache-Control"] == "no-store"
