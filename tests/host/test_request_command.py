"""tidegate-request with nothing made up: a real control plane, a real host with tidegated, the real ssh, a real certificate.

Between the two a thread carries files, as the courier does: tokens into the inbox, answers and receipts out of the outbox.
"""

import contextlib
import http.client
import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.trust import HostKey
from tests.control_plane.host import TestHost
from tests.control_plane.people_kit import REQUEST, Desk, finished
from tests.control_plane.running import ControlPlane, running_control_plane
from tests.host.scene import OUTBOX, Scene

pytestmark = pytest.mark.host

POLICY = """\
rules:
  - name: people
    issuers: [https://access.example.com]
    max_duration: 1h
    accounts: { prefix: jit-, shells: [/bin/bash], groups: [adm] }
    privileged_groups: [adm]
    ssh: { keys: false, principals: [alice, carol], actions: [login, exec] }
    sudo: { run_as: [root], commands: ["/usr/bin/systemctl restart nginx"] }
"""


class Carrier:
    """Files in, files out, until it is closed."""

    def __init__(self, scene: Scene, host: TestHost) -> None:
        self._scene, self._host, self._sent, self._after = scene, host, set[str](), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        outbox = Path(f"/proc/{self._scene.host.leader}/root{OUTBOX}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            while not self._over.wait(0.05):
                for item in self._host.tokens(self._after)["tokens"]:
                    self._after = item["id"]
                    self._scene.drop(item["token"].encode(), f"{item['id']:020}-{secrets.token_hex(8)}.jws")
                for path in sorted(outbox.iterdir()):
                    kind = "answer" if "-answer-" in path.name else "receipt" if "-receipt-" in path.name else ""
                    if kind and path.name not in self._sent and not path.name.startswith("."):
                        text = path.read_text()
                        body = json.loads(text) if kind == "answer" else text.strip()
                        self._host.send({"key": path.name, "kind": kind, "body": body})
                        self._sent.add(path.name)

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with running_control_plane(tmp_path_factory.mktemp("plane")) as found:
        yield found


@pytest.fixture(scope="module")
def web1(scene: Scene, plane: ControlPlane) -> Iterator[TestHost]:
    """The real host, enrolled under its own key, trusting what came with the enrolment."""
    host = TestHost(plane, "web1")
    host.key = HostKey.load(Path(f"/proc/{scene.host.leader}/root/var/lib/tidegate/host.jwk"))
    host.host_id = host.key.host_id
    host.enrol(labels={"env": "staging"}, address=scene.host.address)
    scene.host.write("/etc/tidegate/ssh_user_ca.pub", host.ssh_ca + "\n")
    scene.host.write("/etc/tidegate/trust.d/access.jwks", json.dumps(host.signing_keys))
    scene.policy(POLICY)
    carrier = Carrier(scene, host)
    yield host
    carrier.close()


def asked(plane: ControlPlane) -> str:
    found = plane.until("/v1/requests?state=waiting", "bob", lambda body: body["requests"])
    return str(found["requests"][0]["id"])


def test_a_person_asks_is_approved_and_is_in_by_plain_ssh_until_they_are_offboarded(
    scene: Scene, plane: ControlPlane, web1: TestHost, tmp_path: Path
) -> None:
    desk = Desk(plane, tmp_path / "alice", "alice")
    hosts = ("--ssh-option", f"UserKnownHostsFile={scene.host.known_hosts}", "--ssh-option", "BatchMode=yes")
    words = ("web1", "--role", "web-restart", "--for", "10m", "--reason", "restart web", *hosts)
    with desk.start(REQUEST, *words, "--", "id -un; sudo -n -l | grep -c 'restart nginx'") as process:
        plane.approve("bob", plane.ok("GET", f"/v1/requests/{asked(plane)}", who="bob"))
        done = finished(process)
    assert (done.status, done.out.split()) == (0, ["jit-alice", "1"]), done.err
    with desk.start(REQUEST, *words[:-4], *hosts, "--", "echo in; sleep 300") as session:  # open already: it is gone on with
        assert session.stdout is not None
        assert session.stdout.readline() == "in\n"
        ident = next(person["id"] for person in plane.ok("GET", "/v1/people", who="root")["people"] if person["subject"] == "alice")
        ended = plane.ok("POST", f"/v1/people/{ident}/offboard", {"reason": "left"}, who="root")
        assert ended["hosts"] == 1
        cut = finished(session, 20)
    assert cut.status == 1, "the session is over, and the command says so"
    assert "ssh ended with status" in cut.err
    grants = plane.until("/v1/grants", "root", lambda body: all(grant["state"] == "ended" for grant in body["grants"]))["grants"]
    assert [grant["cause"] for grant in grants] == ["revoked"]
    assert scene.host.run(["getent", "passwd", "jit-alice"], check=False).returncode == 2
    assert desk.request("--offers", "--json").status == 3
