"""How access is asked for and given: by the commands that people use, over the control plane, the network and the courier."""

import json
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.trust import base64url
from examples.control_plane.commands.client import Json
from examples.demo.plane import Person, finished, listed, wait_for
from examples.demo.scene import HOST_NAME, Scene
from tests.hosts.machine import Host

_SOON_S = 20.0
_KEPT = ("--no-ssh", "--output", "access")


def ask(person: Person, template: str, seconds: int, *more: str, hosts: Sequence[str] = (HOST_NAME,)) -> "subprocess.Popen[str]":
    """`tidegate-request`, which waits until it is open, and then writes a key and its certificate."""
    words = (*hosts, "--role", template, "--for", f"{seconds}s", "--reason", "show what Tidegate does", *more, *_KEPT, "--json")
    return person.request(*words)


def waiting_request(carol: Person) -> Json:
    """What an approver finds."""
    return wait_for(lambda: listed(carol.api, "/v1/requests?state=waiting", "requests"), _SOON_S, "a request to approve")[0]


def approve(carol: Person, request: Json) -> tuple[int, int]:
    """Carol approves exactly that; returns when she did (wall ns), and the grant's end in seconds since the epoch."""
    at_ns = time.time_ns()
    found = carol.api.post(f"/v1/requests/{request['id']}/approve", {"digest": request["digest"]})
    return at_ns, _seconds(found["ends_at"])


def break_glass(scene: Scene, until: int) -> int:
    """Bob's emergency, open at once; returns its end, which is ``until`` unless a second has just begun."""
    time.sleep(1 - time.time() % 1 + 0.05)  # whole seconds are granted
    seconds = until - int(time.time())
    body = {"template": "root-shell", "hosts": [HOST_NAME], "duration_s": seconds, "reason": "web1 is down", "break_glass": True}
    found = scene.bob.api.post("/v1/requests", body)
    finished(scene.bob.request("--resume", str(found["id"]), *_KEPT, "--json"))
    return _seconds(found["ends_at"])


def asked(process: "subprocess.Popen[str]") -> Json:
    """What `tidegate-request` said in the end."""
    found: Json = json.loads(finished(process))
    return found


def type_line(session: "subprocess.Popen[bytes]", line: str) -> None:
    """As at the keyboard of a session by ssh."""
    if session.stdin:
        session.stdin.write(f"{line}\n".encode())
        session.stdin.flush()


def follow(carol: Person, login: str, live: "subprocess.Popen[bytes]", *, host: str = HOST_NAME) -> float | None:
    """Carol watches the newest session of that login live, which is ``live``.

    Returns how long (ms) a line took from the keyboard to her, None if for ever.
    """

    def newest() -> str:
        running = [each for each in listed(carol.api, "/v1/recordings", "recordings") if each["complete"] is False]
        hers = [each for each in running if (each.get("login"), each["host_name"]) == (login, host)]
        return f"{hers[0]['host_name']}/{hers[0]['id']}" if hers else ""

    session = wait_for(newest, _SOON_S, "the live session at the control plane")
    with carol.admin("sessions", "watch", session, "--json") as watching:
        stdout = watching.stdout
        try:
            if stdout is None or not stdout.readline():
                return None
            said_ns = time.time_ns()
            type_line(live, "echo seen-$((40+2))")
            for line in iter(stdout.readline, ""):
                if "seen-42" in line:
                    return (time.time_ns() - said_ns) / 1e6
        finally:
            watching.terminate()
    return None


def told(grant: Json) -> dict[str, int]:
    """When its host says, in the receipt, that it was open, and that all was over and the receipt signed; wall ns."""
    claims = json.loads(base64url.decode(str(grant["receipt"]).split(".")[1]) or b"{}")
    return {name: _wall_ns(claims[claim]) for name, claim in (("opened", "opened"), ("receipt", "ended"))}


def ended_grants(scene: Scene) -> list[Json]:
    """What the control plane knows of both, once the hosts' receipts are there."""

    def both() -> list[Json]:
        found = listed(scene.plane.root.api, "/v1/grants", "grants")
        return found if len(found) == 2 and all(each["state"] == "ended" for each in found) else []

    found: list[Json] = wait_for(both, 40.0, "both receipts at the control plane")
    return found


def receipt_checked(host: Host, grant: Json) -> tuple[bool, str]:
    """Whether `tidegate receipts verify` on that host takes the grant's receipt for genuine; how late the receipt says it was."""
    receipt = str(grant["receipt"])
    host.write("/root/receipt.jws", receipt)
    genuine = host.run("tidegate receipts verify /root/receipt.jws", check=False).returncode == 0
    claims: dict[str, Any] = json.loads(base64url.decode(receipt.split(".")[1]) or b"{}")
    late = claims["lateness_ms"]
    return genuine, f"doors {late.get('doors')} ms, last process {late.get('last_process')} ms"


def _seconds(text: object) -> int:
    return int(datetime.fromisoformat(str(text)).timestamp())


def _wall_ns(text: object) -> int:
    since = datetime.fromisoformat(str(text)) - datetime.fromtimestamp(0, UTC)
    return since // timedelta(microseconds=1) * 1000
