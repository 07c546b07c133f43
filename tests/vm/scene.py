"""A machine with tidegated in it, a control plane's keys, and what one asks of it: is it whole, is it clean, who gets in?"""

import json
import logging
import secrets
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko

from agent import trust
from agent.trust import TYP_GRANT, generate_key, sign_compact
from tests.hosts.errors import HostFailed
from tests.hosts.snapshot import Entry, Snapshot, differences
from tests.hosts.ssh import make_key
from tests.vm.channel import PATIENCE_S
from tests.vm.machine import Frozen, Machine

REPOSITORY = Path(__file__).resolve().parents[2]
INSIDE = Path(__file__).with_name("inside.py").read_text()
ISSUER, ALICE, ALLOWED = "https://cp.example", "jit-alice", "/usr/bin/id"
UNIT = "tidegated.service"
PATHS = (
    "/etc", "/home", "/root", "/run/userdb", "/run/tidegate/keys", "/run/tidegate/principals", "/run/tidegate/sudoers.d",
    "/run/systemd/transient", "/var/lib/systemd/linger", "/var/mail", "/var/spool/cron", "/tmp", "/var/tmp",
)  # fmt: skip
_OF_THE_BOOT = ("/tmp/systemd-private-", "/var/tmp/systemd-private-", "/run/systemd/transient/run-")
_TIMER = "/run/systemd/transient/tidegate-backstop@"

POLICY = f"""\
rules:
  - name: contractors
    issuers: [{ISSUER}]
    max_duration: 90d
    accounts: {{ prefix: jit-, shells: [/bin/bash], groups: [games], existing: [deploy] }}
    groups: [games]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root, games], commands: ["{ALLOWED}"] }}
"""

# A file system of its own for the journal, which then is not written in one order with /etc and /home.
_APART = """
cat > /etc/systemd/system/test-state.service <<'UNIT'
[Unit]
DefaultDependencies=no
Before=systemd-tmpfiles-setup.service local-fs.target tidegated.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount -t ext4 /dev/vdb /var/lib/tidegate
UNIT
mkdir -p /var/lib/tidegate /etc/systemd/system/sysinit.target.wants
ln -s ../test-state.service /etc/systemd/system/sysinit.target.wants/
mount -t ext4 /dev/vdb /var/lib/tidegate
"""

Claims = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Keys:
    """The control plane's private JWK, and the key that Alice logs in with."""

    signer: dict[str, object]
    trusted: dict[str, object]
    login: Path

    @classmethod
    def make(cls, folder: Path) -> "Keys":
        """New ones."""
        signer, trusted = generate_key("cp-1", [ISSUER])
        return cls(signer, trusted, make_key(folder / "alice"))

    @property
    def public(self) -> str:
        """The login key as a grant names it."""
        return " ".join(self.login.with_suffix(".pub").read_text().split()[:2])


@dataclass(slots=True)
class Scene:
    """One machine with Tidegate. Made by :func:`make` (booted) or :meth:`Ready.thaw`."""

    machine: Machine
    keys: Keys
    host_id: str
    clean: Snapshot = field(default_factory=dict)

    # Grants

    def claims(self, lifetime: int, delay: int = 0) -> Claims:
        """A grant for Alice that all four enforcers serve, by the machine's own clock."""
        now = self.machine.wall_ns() // 10**9
        return {
            "iss": ISSUER, "aud": self.host_id, "sub": "alice@example.com", "iat": now, "nbf": now + delay,
            "exp": now + delay + lifetime, "jti": f"g-{secrets.token_hex(6)}", "reason": "a test",
            "authorization_details": [
                {"type": "account", "identifier": ALICE, "groups": ["games"]},
                {"type": "ssh", "identifier": ALICE, "keys": [self.keys.public], "actions": ["login", "exec"]},
                {"type": "sudo", "identifier": ALICE, "run_as": ["root"], "commands": [ALLOWED]},
                {"type": "group", "identifier": "deploy", "groups": ["games"]},
            ],
        }  # fmt: skip

    def drop(self, claims: Claims) -> None:
        """Sign it and put it into the inbox."""
        self.inside("drop", f"{claims['jti']}.jwt", sign_compact(claims, TYP_GRANT, self.keys.signer))

    def open(self, lifetime: int, delay: int = 0, state: str = "open") -> Claims:
        """Until it is in that state. Raises HostFailed with what the host says when it is not."""
        claims = self.claims(lifetime, delay)
        self.drop(claims)
        self.machine.wait_for(lambda: self.states() == {claims["jti"]: state}, what=f"it is {state}: {self.ask('status')}")
        return claims

    # Looking

    def inside(self, function: str, *arguments: Any, timeout: float = PATIENCE_S) -> Any:
        """Call a function of tests.vm.inside in the machine."""
        return self.machine.python(f"{INSIDE}\nresult = {function}(*arguments)", *arguments, timeout=timeout)

    def ask(self, op: str, **arguments: object) -> Any:
        """One question to tidegated; None while it does not answer."""
        return self.inside("ask", op, arguments)

    def states(self) -> dict[str, str]:
        """The live grants: jti → state. Raises HostFailed when the daemon is not there."""
        status = self.ask("status")
        if status is None:
            raise HostFailed("tidegated does not answer")
        return {grant["jti"]: grant["state"] for grant in status["grants"]}

    def seconds_left(self) -> list[int]:
        """Of each live grant."""
        return [grant["seconds_left"] for grant in self.ask("status")["grants"]]

    def wait_ready(self) -> None:
        """Until tidegated answers; after a boot."""
        self.machine.wait_for(lambda: self.ask("status"), what="tidegated answers", step=0.2)

    def snapshot(self) -> Snapshot:
        """All that a grant may change, but what every boot names anew. A grant's timer is, by its due times: it counts as there."""
        found = self.inside("snapshot", *PATHS)
        left_out = ("/run/systemd/transient", *_OF_THE_BOOT, _TIMER)  # the folder itself is there from the first transient unit on
        seen = {path: Entry(*entry) for path, entry in found.items() if path != left_out[0] and not path.startswith(left_out[1:])}
        timers = sum(path.startswith(_TIMER) for path in found)
        return {**seen, f"{_TIMER}*": Entry("timer", 0, 0, 0, 0, str(timers))} if timers else seen

    def unclean(self) -> list[str]:
        """What differs from before the first grant, one line each, and who still lives."""
        alive = [f"alive: {pid}" for pid in self.inside("tenants")]
        return differences(self.clean, self.snapshot()) + alive

    def wait_over(self, timeout: float = PATIENCE_S) -> None:
        """Until no grant is live."""
        self.machine.wait_for(lambda: self.states() == {}, timeout, f"everything is over: {self.ask('status')}")

    def receipt(self, jti: str) -> dict[str, Any]:
        """The claims of its receipt."""
        found: dict[str, Any] = self.ask("receipt", jti=jti)["receipts"][0]["claims"]
        return found

    def bad_books(self) -> list[str]:
        """What is wrong with the journal and the receipts: each ended grant has one, in the outbox, and its signature holds."""
        books, keys = self.inside("journal"), trust.keyring(self.ask("host_key"))
        wrong = [] if books["check"] == "ok" else [f"journal: {books['check']}"]
        named: list[str] = []
        for jws in self.inside("receipts"):
            verified = trust.verify(jws.encode(), keys, typ=trust.TYP_RECEIPT, payload_max=1 << 20)
            named.append(json.loads(verified.payload)["grant"]["jti"])
        ended = [jti for jti, state, _ in books["grants"] if state == "ended"]
        wrong += [f"{jti} ended and has no receipt in the outbox" for jti in set(ended) - set(named)]
        return wrong + [f"{jti} has a receipt and did not end" for jti in set(named) - set(ended)]

    def accepts_key(self) -> bool | None:
        """What sshd says of Alice's key; None when it says nothing."""
        return offer_key(self.machine.port, ALICE, self.keys.login)

    def asked_sshd(self) -> bool:
        """The same, once sshd listens: after a boot it comes last. Raises HostFailed when it does not come."""
        answer = self.machine.wait_for(
            lambda: None if (found := self.accepts_key()) is None else (found,), what="sshd answers", step=0.5
        )
        return bool(answer and answer[0])

    def knock(self) -> "Knocking":
        """Offer the key over and over from now on."""
        return Knocking(self)


@dataclass(frozen=True, slots=True)
class Ready:
    """A frozen machine in which tidegated waits for its first grant."""

    frozen: Frozen
    keys: Keys
    host_id: str
    clean: Snapshot

    def thaw(self) -> Scene:
        """Another one, going on from there."""
        return Scene(self.frozen.thaw(), self.keys, self.host_id, self.clean)


class Knocking:
    """Offers the key again and again in a thread of its own. ``accepted``: the machine's clock, by our counting, at each offer."""

    def __init__(self, scene: Scene) -> None:
        self.accepted: list[float] = []
        self.refused = 0
        self._scene = scene
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join(30)

    def _go_on(self) -> None:
        while not self._stop.is_set():
            at = self._scene.machine.clock_now()
            answer = self._scene.accepts_key()
            if answer:
                self.accepted.append(at)
            elif answer is False:
                self.refused += 1
            self._stop.wait(0.3)


# A machine that is down refuses by the hundred, and each time paramiko would tell the whole story.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


def offer_key(port: int, user: str, key: Path) -> bool | None:
    """Whether sshd lets that user in by that key; None when the connection comes to nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            transport = paramiko.Transport(connection)
            transport.banner_timeout = transport.auth_timeout = 30
            try:
                transport.start_client(timeout=30)
                transport.auth_publickey(user, paramiko.Ed25519Key.from_private_key_file(str(key)))
            except paramiko.AuthenticationException:
                return False
            finally:
                transport.close()
            return True
    except (OSError, EOFError, paramiko.SSHException):
        return None


def make(keys: Keys, backend: str, apart: bool) -> Scene:
    """Boot a machine and start Tidegate in it, with that account backend; ``apart``: its state on a disk of its own."""
    machine = Machine.boot()
    try:
        machine.run("useradd -m -s /bin/bash deploy")
        if apart:
            machine.run(_APART)
        machine.push(REPOSITORY, "/root/source", ".git", "tests", "benchmarks", "__pycache__", ".venv", ".*_cache")
        machine.run("/root/source/packaging/install.sh && rm -r /root/source")
        machine.run("systemd-tmpfiles --create tidegate.conf; systemctl daemon-reload")
        machine.write("/etc/tidegate/tidegate.yaml", f"account_backend: {backend}\n")
        machine.write("/etc/tidegate/trust.d/cp-1.jwks", json.dumps({"keys": [keys.trusted]}))
        machine.write("/etc/tidegate/policy.d/50-test.yaml", POLICY)
        machine.run(["systemctl", "enable", "--now", UNIT])
        scene = Scene(machine, keys, "")
        scene.wait_ready()
        status = scene.ask("status")
        if status["problems"]:
            raise HostFailed(f"tidegated has problems: {status['problems']}")
        scene.host_id = status["host_id"]
        scene.clean = scene.snapshot()
    except BaseException:
        machine.stop()
        raise
    return scene


def ready(keys: Keys, folder: Path, backend: str, apart: bool) -> Ready:
    """The same, frozen in a folder below ``folder``."""
    scene = make(keys, backend, apart)
    place = Path(tempfile.mkdtemp(prefix=f"{backend}-", dir=folder))
    scene.machine.run("sync")
    return Ready(scene.machine.freeze(place), keys, scene.host_id, scene.clean)
