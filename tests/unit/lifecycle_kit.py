"""A whole Tidegate on a fake host: the real pipeline, enforcers, journal and ledger; a clock and processes moved by hand.

``World`` is what outlives a process: the host, the disk, the clock. ``world.start()`` is the daemon coming up, ``world.crash()``
its SIGKILL, ``world.reboot()`` a power cut. The daemon's threads run inline, so that every run is the same.
"""

import contextlib
import functools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, TypeVar

from agent import policy, trust
from agent.acting import Acting
from agent.audit import HostIdentity, Trail
from agent.config import Config
from agent.errors import JournalError, RefusedError
from agent.expiry.behind import Behind
from agent.expiry.ending import Ending
from agent.expiry.executions import Executions
from agent.expiry.ledger import Ledger
from agent.expiry.logged import Logged
from agent.expiry.proving import Prover
from agent.expiry.recordings import Recordings
from agent.expiry.reserve import Reserve
from agent.expiry.teardown import Teardown
from agent.expiry.tombstones import Tombstones
from agent.host.asking import NOT_ASKED, Answer, Question
from agent.host.clock import NS, FakeClock
from agent.host.contract import CommandResult, Group, User
from agent.host.fake import KilledError
from agent.host.timers import SystemdTimers
from agent.journal import Journal
from agent.pipeline import Pipeline
from agent.recovery import look_behind, stand_again, take_down
from agent.sessions.execs.kernel import NoKernel
from agent.sessions.who import Sessions
from agent.spool import Inbox, Outbox
from enforcers.sudoers_rule import PROBE
from tests.unit.enforcer_fixtures import ENFORCERS, KEY, answer, real, sshd_says
from tests.unit.expiry_kit import FakeCgroups, FakeTable, Host, process

T = TypeVar("T")
HOST_ID, ISSUER = "host-1", "https://cp.example"
POLICY = f"""\
rules:
  - name: all
    issuers: [{ISSUER}]
    max_duration: 1d
    max_ahead: 7d
    accounts: {{ prefix: jit-, groups: [games, audio], home: [ephemeral, archive], existing: [deploy] }}
    groups: [games, audio]
    ssh: {{ keys: true, actions: [login, exec] }}
    sudo: {{ run_as: [root], commands: [/usr/bin/id, "/usr/bin/systemctl restart nginx"] }}
    root_equivalent: [/usr/bin/id, "/usr/bin/systemctl restart nginx"]
    privileged_groups: [games, audio]
"""
_ISSUER_KEY, _PUBLIC_KEY = trust.generate_key("cp-1", [ISSUER])
_HOST_KEY, _ = trust.generate_key("host", [HOST_ID])


class NobodyToAsk:
    """Neither sshd nor sudo is here to be asked."""

    def sshd(self, questions: Sequence[Question]) -> list[Answer]:
        return [Answer(NOT_ASKED, "a fake host") for _ in questions]

    def sudo(self, login: str) -> Answer:
        del login
        return Answer(NOT_ASKED, "a fake host")


class Inline(Executor):
    """Runs at once, in this thread. A kill goes through; an error stays in the job, as in a thread."""

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        job: Future[T] = Future()
        try:
            job.set_result(work(*arguments, **named))
        except Exception as error:
            job.set_exception(error)
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        del wait, cancel_futures


class Disk:
    """What the journal's file may do: be full, or be where the process dies, before or after a commit."""

    def __init__(self) -> None:
        self.full = False
        self.kill_at: int | None = None
        self.kill_after = False
        self.commits = 0

    def wrap(self, journal: Journal) -> None:
        """Have the journal's transactions ask here first."""
        real = journal._db.transaction

        @contextlib.contextmanager
        def transaction() -> Iterator[sqlite3.Connection]:
            outermost = journal._db._depth == 0
            if self.full and outermost:
                raise JournalError("journal_failed", "database or disk is full")
            hit = outermost and self._hit()
            with real() as db:
                yield db
                if hit and not self.kill_after:
                    raise KilledError("before a commit")
            if hit:
                raise KilledError("after a commit")

        journal._db.transaction = transaction  # type: ignore[method-assign]

    def _hit(self) -> bool:
        self.commits += 1
        return self.commits == self.kill_at


@dataclass
class World:
    """The host, its disk and its clock, and the daemon on them (:attr:`pipeline`, None while none runs).

    ``userdb``: accounts live in /run, and are gone after a reboot.
    """

    userdb: bool = True
    clock: FakeClock = field(default_factory=FakeClock)
    pipeline: Pipeline = field(init=False)
    acting: Acting = field(init=False)
    running: bool = False

    def __post_init__(self) -> None:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = tempfile.TemporaryDirectory(prefix="tidegate-world-", dir=memory)
        self.path = Path(self._folder.name)
        for name in ("inbox", "outbox", "policy"):
            (self.path / name).mkdir(mode=0o755)
        self.write_policy(POLICY)
        self.ring = trust.keyring({"keys": [_PUBLIC_KEY]})
        config = Config(paths=changed(Config().paths, policy_dir=self.path / "policy"), uid_first=70000, uid_last=70007)
        self.host = _host(config)
        self.before = self.host.snapshot()
        self.table = FakeTable()
        self.disk = Disk()

    def close(self) -> None:
        """Give the folder back."""
        if self.running:
            self.crash()
        self._folder.cleanup()

    def write_policy(self, text: str) -> None:
        """The admin's one policy file."""
        file = self.path / "policy" / "50.yaml"
        file.write_text(text)
        file.chmod(0o644)

    # The daemon

    def start(self) -> None:
        """Assemble it and recover, as agent.daemon does."""
        config, clock = self.host.config, self.clock
        journal = Journal(self.path / "state.db")
        self.disk.wrap(journal)
        host_key = trust.HostKey(_HOST_KEY, "host")
        trail = Trail(self.path / "outbox", HostIdentity.of_this_host(HOST_ID, "0"), clock, tell=lambda *_: None)
        outbox = Outbox(self.path / "outbox", clock, host_key.sign)
        cgroups = FakeCgroups(self.table)
        self.table.cgroups = cgroups
        ledger = Ledger(clock)
        self.pipeline = Pipeline(
            config=config,
            host_id=HOST_ID,
            clock=clock,
            writer=self.host,
            enforcers=ENFORCERS,
            ring=lambda: self.ring,
            policies=policy.PolicyStore(config.paths.policy_dir, policy.decoders(ENFORCERS)),
            host_key=host_key,
            journal=journal,
            ledger=ledger,
            recordings=Recordings(HOST_ID, clock, host_key, journal, ledger),
            table=self.table,
            teardown=Teardown(self.host, ENFORCERS, self.table, cgroups, clock, patience_s=0.0, others=ledger.lent),
            executions=Executions(NoKernel("not in this test"), self.path / "execs", (70000, 99999), clock, journal, ledger, trail),
            logged=Logged(self.host, clock, journal, ledger, trail),
            prover=Prover(NobodyToAsk(), config, clock, journal, ledger, trail),
            ending=Ending(HOST_ID, clock, host_key, journal, ledger, outbox, trail, Reserve(self.path / "orders.reserve")),
            inbox=Inbox(self.path / "inbox"),
            outbox=outbox,
            trail=trail,
            behind=Behind("auto", SystemdTimers(systemd=self.path / "none"), journal, ledger, clock),
            sessions=Sessions(self.table, cgroups, clock),
            tombstones=Tombstones(self.host, self.table, journal, ledger, trail, clock),
        )
        self.acting = Acting(self.pipeline, Inline(), lambda _size, _name: Inline())
        self.running = True
        left = take_down(self.pipeline)
        self.pipeline.policies.reload()
        self.acting.clear(left)
        stand_again(self.pipeline)
        look_behind(self.pipeline)

    def tick(self) -> None:
        """The timer: whatever is due, until nothing is."""
        for _ in range(100):
            due = self.pipeline.ledger.take_due()
            if not due:
                return
            self.acting.act(due)
        raise AssertionError("alarms without end")

    def crash(self) -> None:
        """SIGKILL: what was in memory is gone."""
        self.running = False
        self.pipeline.journal.close()

    def reboot(self, off_s: float = 30.0, clock_set_s: float = 0.0) -> None:
        """The power goes, for that long; the clock comes back wrong by that much. /run is empty and nothing runs."""
        if self.running:
            self.crash()
        self.clock.advance(off_s)
        self.clock.reboot()
        self.clock.step(clock_set_s)
        self.table.alive.clear()
        self.table.immortal.clear()
        host = self.host
        host.files = {path: found for path, found in host.files.items() if not path.is_relative_to("/run")}
        for user, group in list(host.made) if self.userdb else []:
            host._drop(user, group)
        for name in [name for name, user in host.users.items() if user.ours] if self.userdb else []:
            del host.users[name], host.groups[name]
            host.locked.pop(name, None)

    # What comes in

    def sign(
        self, jti: str, entries: Sequence[Mapping[str, Any]], *, starts_s: int = 0, lasts_s: int = 600, **claims: object
    ) -> bytes:
        """A good token for this host, beginning ``starts_s`` from now by the wall clock."""
        nbf = self.clock.wall_ns() // NS + starts_s
        body = {
            "iss": ISSUER,
            "aud": HOST_ID,
            "sub": "alice@example.com",
            "iat": nbf - max(0, starts_s),
            "nbf": nbf,
            "exp": nbf + lasts_s,
            "jti": jti,
            "authorization_details": list(entries),
            **claims,
        }
        return trust.sign_compact(body, trust.TYP_GRANT, _ISSUER_KEY).encode()

    def sign_as(self, claims: Mapping[str, Any], typ: str) -> bytes:
        """Any token of the control plane's."""
        return trust.sign_compact(dict(claims), typ, _ISSUER_KEY).encode()

    def refusal(self, token: bytes) -> str | None:
        """Open it; the code when it is refused or fails."""
        try:
            self.pipeline.open(token)
        except RefusedError as error:
            return error.code
        return None

    def process_of(self, uid: int, *, immortal: bool = False) -> int:
        """Start one process of that uid; returns its pid. An immortal one stays whatever is done (state D)."""
        pid = 1 + max(self.table.alive, default=1000)
        self.table.alive[pid] = process(pid, uid)
        if immortal:
            self.table.immortal.add(pid)
        return pid


def _host(config: Config) -> Host:
    host = Host(config=config)
    host.users = {
        user.name: user
        for user in (User("root", 0, 0, "/root", "/bin/bash"), User("deploy", 1001, 1001, "/home/deploy", "/bin/sh"))
    }
    groups = [
        Group("root", 0),
        Group("deploy", 1001),
        Group(config.tenant_group, 600),
        Group("games", 60),
        Group("audio", 29, ("deploy",)),
    ]
    host.groups = {group.name: group for group in groups}
    host.homes = {config.paths.home_base / "deploy": 1001}
    host.files = {Path("/etc/sudoers.d/mine"): (b"deploy ALL=(root) /bin/true\n", 0o440)}
    host.commands = {
        "sshd": sshd_says(config),
        "sudo": answer("Sudo version 1.9.13p3\n"),
        "cvtsudoers": _cvtsudoers,
        "tidegate-shell": answer(),
        **{name: answer() for name in ("bash", "id", "systemctl", "install")},
    }
    return host


@functools.cache
def _read_by_cvtsudoers(text: bytes) -> CommandResult:
    return real(["cvtsudoers", "-c", "/dev/null", "-f", "json"], text)


def _cvtsudoers(argv: Sequence[str], stdin: bytes | None) -> CommandResult:
    """The real one of this machine, asked once about each text."""
    assert list(argv) == ["cvtsudoers", "-c", "/dev/null", "-f", "json"]
    return _read_by_cvtsudoers(stdin or b"")


__all__ = ["HOST_ID", "ISSUER", "KEY", "NS", "POLICY", "PROBE", "World"]
