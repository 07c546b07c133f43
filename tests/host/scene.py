"""A booted host with tidegated running, a control plane's keys, and the words to tell a story with them.

``scene.open(account("jit-alice"), ssh("jit-alice", key))`` signs a grant and drops it; ``scene.answer_for(name)`` is what the
outbox said of a file; ``scene.state()`` is all that a refusal must leave alone. Files go in and out through the host's tree,
questions through the daemon's own socket: both as the machine sees them, so that one case costs milliseconds.
"""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from agent.control import client
from agent.errors import TidegateError
from agent.spool import shown
from agent.trust import TYP_GRANT, generate_key, sign_compact, sign_general
from tests.hosts.machine import Host
from tests.hosts.snapshot import DEFAULT_PATHS, Snapshot, differences

ISSUER = "https://cp.example"
OTHER_ISSUER = "https://other.example"
SPOOL = "/var/lib/tidegate/spool"
INBOX, OUTBOX = f"{SPOOL}/inbox", f"{SPOOL}/outbox"
SOCKET = "/run/tidegate/control.sock"
POLICY_FILE = "/etc/tidegate/policy.d/50-test.yaml"
UNIT = "tidegated.service"
ALLOWED = "/usr/bin/systemctl restart cron.service"
SUBJECT = "alice@example.com"

POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 1h
    accounts: {{ prefix: jit-, shells: [/bin/bash, /bin/sh], groups: [games] }}
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: ["{ALLOWED}"] }}
"""

Claims = dict[str, Any]
Entry = dict[str, Any]


class State(NamedTuple):
    """What a refused file, a plan or a question must leave as it was: the files of the host, and the grants that are live."""

    files: Snapshot
    live: tuple[str, ...]


def changes(before: State, after: State) -> list[str]:
    """What differs, one line each; empty when nothing does."""
    lines = differences(before.files, after.files)
    return lines + ([f"live grants: {before.live} -> {after.live}"] if before.live != after.live else [])


def account(login: str = "jit-alice", **more: object) -> Entry:
    """An account entry."""
    return {"type": "account", "identifier": login, **more}


def ssh(login: str = "jit-alice", *keys: str, **more: object) -> Entry:
    """An ssh entry with these public keys."""
    return {"type": "ssh", "identifier": login, **({"keys": list(keys)} if keys else {}), **more}


def sudo(login: str = "jit-alice", *commands: str, **more: object) -> Entry:
    """A sudo entry; without commands the one that the scene's policy allows."""
    return {"type": "sudo", "identifier": login, "commands": list(commands or (ALLOWED,)), **more}


def group(login: str = "jit-alice", *groups: str) -> Entry:
    """A group entry."""
    return {"type": "group", "identifier": login, "groups": list(groups)}


def role(name: str, login: str = "jit-alice") -> Entry:
    """A role entry."""
    return {"type": "role", "identifier": login, "name": name}


def public(key: Path) -> str:
    """The public half of a private key's file, as a grant has it."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def sleep_until(moment: float) -> None:
    """Seconds since the epoch; one that has passed is no wait."""
    time.sleep(max(0.0, moment - time.time()))


@dataclass(slots=True)
class Scene:
    """One host; ``keys``: kid → private JWK, of which ``trusted`` ones lie in trust.d. Made by :func:`set_up`."""

    host: Host
    host_id: str = ""
    keys: dict[str, dict[str, object]] = field(default_factory=dict)
    _answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # file of the outbox → what it says

    # Keys and policy

    def new_key(self, kid: str, *issuers: str, approver: str | None = None, trusted: bool = True) -> None:
        """A key of that kid; a trusted one goes to ``trust.d/KID.jwks``, from where the daemon takes it up by itself."""
        self.keys[kid], public = generate_key(kid, issuers or (ISSUER,), approver)
        if trusted:
            self.host.write(f"/etc/tidegate/trust.d/{kid}.jwks", json.dumps({"keys": [public]}))

    def policy(self, text: str) -> None:
        """Put a policy in place of the one that is there, and wait until the daemon has it (or says why not)."""
        before = self.host.journal(UNIT).count("policy ")
        self.host.write(POLICY_FILE, text)
        self.host.wait_for(lambda: self.host.journal(UNIT).count("policy ") > before, what="the policy is read")

    # Grants

    def claims(self, *entries: Entry, lifetime: int = 600, **more: object) -> Claims:
        """Good claims for these entries (default: one account), from now; ``more`` replaces, None takes a claim out."""
        now = int(time.time())
        good: Claims = {
            "iss": ISSUER,
            "aud": self.host_id,
            "sub": SUBJECT,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": f"g-{secrets.token_hex(6)}",
            "authorization_details": list(entries or (account(),)),
            "reason": "a test",
        }
        return {name: value for name, value in {**good, **more}.items() if value is not None}

    def sign(self, claims: Mapping[str, object] | bytes, *kids: str, typ: str = TYP_GRANT) -> bytes:
        """A token: compact by one key (default ``cp-1``), General JSON by several."""
        chosen = [self.keys[kid] for kid in kids or ("cp-1",)]
        token = sign_compact(claims, typ, chosen[0]) if len(chosen) == 1 else sign_general(claims, typ, chosen)
        return token.encode()

    def grant(self, *entries: Entry, **more: Any) -> bytes:
        """A good grant, signed by ``cp-1``."""
        return self.sign(self.claims(*entries, **more))

    def receipt(self, jti: str) -> dict[str, Any]:
        """The claims of a grant's (only) receipt, once it is there."""

        def found() -> dict[str, Any] | None:
            done = self.tidegate("receipts", "show", jti, "--json")
            return json.loads(done.stdout)["receipts"][0]["claims"] if done.returncode == 0 else None

        claims = self.host.wait_for(found, 20, f"the receipt of {jti}")
        assert claims is not None
        return claims

    def open(self, *entries: Entry, **more: Any) -> str:
        """Sign, drop and wait; returns the jti. Raises AssertionError when the host refuses it."""
        claims = self.claims(*entries, **more)
        answer = self.answer_for(self.drop(self.sign(claims)))
        assert answer["verdict"] == "accepted", answer
        return str(claims["jti"])

    # The spool

    @property
    def inbox(self) -> Path:
        """The inbox, as this machine sees it."""
        return self._inside(INBOX)

    def drop(self, data: bytes, name: str | bytes | None = None) -> str:
        """Put a file into the inbox like any good writer (a hidden name, then a rename); returns its name."""
        chosen = os.fsdecode(name) if name is not None else f"{secrets.token_hex(6)}.jwt"
        temporary = self.inbox / f".tmp-{secrets.token_hex(6)}"
        temporary.write_bytes(data)
        temporary.rename(self.inbox / chosen)
        return chosen

    def answers(self) -> list[dict[str, Any]]:
        """Every answer that the outbox holds, oldest first."""
        folder = self._inside(OUTBOX)
        names = sorted(path.name for path in folder.iterdir() if "-answer-" in path.name and not path.name.startswith("."))
        for name in names:
            if name not in self._answers:
                self._answers[name] = json.loads((folder / name).read_bytes())
        return [self._answers[name] for name in names]

    def answer_for(self, name: str, timeout: float = 10.0) -> dict[str, Any]:
        """The latest answer to the inbox file of that name; waits for one."""

        def found() -> dict[str, Any] | None:
            return next((answer for answer in reversed(self.answers()) if answer["source"] == shown(name)), None)

        answer = self.host.wait_for(found, timeout, f"an answer to {name!r}")
        assert answer is not None
        self.host.wait_for(lambda: not os.path.lexists(self.inbox / name), timeout, f"{name!r} taken out of the inbox")
        return answer

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The audit trail's events of that kind, oldest first."""
        lines = (self._inside(OUTBOX) / "events.ndjson").read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["unmapped"]["kind"] == kind]

    # The daemon

    def ask(self, op: str, **arguments: object) -> Any:
        """One question over the control socket, from outside. Raises what the command line would report."""
        return client.call(self._inside(SOCKET), op, **arguments)

    def status(self) -> dict[str, Any]:
        """What ``tidegate status --json`` prints."""
        found: dict[str, Any] = self.ask("status")
        return found

    def tidegate(self, *arguments: str, user: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        """The installed command in the host, as root or ``user``. Its status is the caller's to judge."""
        as_user: Sequence[str] = ("runuser", "--user", user, "--") if user else ()
        return self.host.run([*as_user, "tidegate", *arguments], check=False, **options)

    def start(self) -> None:
        """Start the daemon, and wait until it answers."""
        self.host.run(["systemctl", "start", UNIT])
        self.host_id = self.host.wait_for(self._answers_status, what="tidegated answers")["host_id"]

    def stop(self) -> None:
        """Stop it, cleanly."""
        self.host.run(["systemctl", "stop", UNIT])

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL, and wait until systemd has started it again and it answers."""
        old = self.pid()
        self.host.run(["kill", "-KILL", str(old)])
        self.host.wait_for(lambda: self.pid() not in {0, old} and bool(self._answers_status()), what="tidegated is back")

    def pid(self) -> int:
        """The daemon's process id, in the host; 0 when it does not run."""
        return int(self.host.run(["systemctl", "show", "--property=MainPID", "--value", UNIT]).stdout)

    def state(self, paths: Sequence[str] = DEFAULT_PATHS) -> State:
        """What must be as before, now."""
        return State(self.host.snapshot(paths), tuple(f"{found['jti']} {found['state']}" for found in self.status()["grants"]))

    def _inside(self, path: str) -> Path:
        """A path of the host, with what is mounted there."""
        return Path(f"/proc/{self.host.leader}/root{path}")

    def _answers_status(self) -> dict[str, Any]:
        """The status; empty (so false) while nobody answers."""
        try:
            return self.status()
        except (TidegateError, OSError):
            return {}


def set_up(host: Host, policy: str = POLICY) -> Scene:
    """Start tidegated on a host that has it installed. Trusted keys: ``cp-1`` for ISSUER, ``other``; untrusted: ``stranger``."""
    scene = Scene(host)
    scene.new_key("cp-1", ISSUER)
    scene.new_key("other", OTHER_ISSUER)
    scene.new_key("stranger", ISSUER, trusted=False)
    host.write(POLICY_FILE, policy)
    host.run(["systemd-run", "--quiet", "--wait", "true"])  # systemd makes its folder of transient units at the first one
    scene.start()
    assert scene.status()["problems"] == []
    return scene
