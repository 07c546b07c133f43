"""The scene: a disposable host, a control plane's key, two contractors' keys, and the two grants."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.machine import Host
from tests.hosts.ssh import make_key

ISSUER = "https://control-plane.example"
INBOX = "/var/lib/tidegate/spool/inbox"
ALICE, BOB = "jit-alice", "jit-bob"

POLICY = """\
# The host's own ceiling: what the control plane may grant here, and no more.
rules:
  - name: contractors
    issuers: [{issuer}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{allowed}"] }}
    ticket: {{ required: true, pattern: "INC-#" }}
  - name: break-glass
    issuers: [{issuer}]
    subjects: ["bob@example.com"]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["/bin/bash"] }}
    root_equivalent: ["/bin/bash"]
"""


@dataclass(slots=True)
class Scene:
    """A booted host with tidegated running, and everybody's keys in ``folder``."""

    host: Host
    folder: Path
    allowed: str
    host_id: str

    def grant(self, subject: str, login: str, commands: list[str], seconds: int, ticket: str = "INC-42") -> tuple[Path, int]:
        """Sign a grant of that many seconds from now, with ``tidegate sign``; returns the token's file and ``exp``."""
        now = int(time.time())
        key = (self.folder / f"{login}.pub").read_text().split()
        claims = {
            "iss": ISSUER,
            "aud": self.host_id,
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": now + seconds,
            "jti": f"demo-{login}-{now}",
            "authorization_details": [
                {"type": "account", "identifier": login, "full_name": subject.split("@", maxsplit=1)[0].title()},
                {"type": "ssh", "identifier": login, "keys": [" ".join(key[:2])], "actions": ["login", "exec"]},
                {"type": "sudo", "identifier": login, "run_as": ["root"], "commands": commands},
            ],
            "reason": "show what Tidegate does",
            "ticket": ticket,
        }
        source, target = self.folder / f"{login}.json", self.folder / f"{login}.jwt"
        source.write_text(json.dumps(claims))
        tidegate("sign", str(source), "--key", str(self.folder / "cp-1.jwk"), "--out", str(target))
        return target, now + seconds

    def drop(self, token: Path) -> int:
        """Put the token into the host's inbox; returns when (wall ns)."""
        at_ns = time.time_ns()
        self.host.write(f"{INBOX}/{token.name}", token.read_bytes(), mode=0o600)
        return at_ns

    def refusal(self) -> str:
        """The latest refusal that `tidegate status` shows, for a demo that goes wrong; empty when there is none."""
        found = json.loads(_status(self.host) or '{"refusals": []}')["refusals"]
        return f": {found[0]['code']}, {found[0]['reason']}" if found else ""

    def key(self, login: str) -> Path:
        """A contractor's private key."""
        return self.folder / login


def tidegate(*arguments: str) -> str:
    """The command ``tidegate`` on this machine, for what needs no host: keygen, sign, verify."""
    argv = [sys.executable, "-c", "from agent.cli import main; main()", *arguments]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def set_up(host: Host, folder: Path, allowed: str, start: str) -> Scene:
    """Make the keys, put policy and trusted key on the host, and start tidegated."""
    tidegate("keygen", str(folder / "cp-1.jwk"), "--kid", "cp-1", "--issuer", ISSUER, "--public", str(folder / "cp-1.jwks"))
    for login in (ALICE, BOB):
        make_key(folder / login)
    host.write("/etc/tidegate/trust.d/cp-1.jwks", (folder / "cp-1.jwks").read_bytes())
    host.write("/etc/tidegate/policy.d/demo.yaml", POLICY.format(issuer=ISSUER, allowed=allowed))
    host.run(start)
    status = json.loads(host.wait_for(lambda: _status(host), timeout=20, what="tidegated answers"))
    if status["problems"]:
        raise RuntimeError(f"tidegated has problems: {status['problems']}")
    return Scene(host, folder, allowed, status["host_id"])


def _status(host: Host) -> str:
    done = host.run("tidegate status --json", check=False)
    return done.stdout if done.returncode == 0 else ""
