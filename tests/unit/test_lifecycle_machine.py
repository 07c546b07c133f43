"""Random lives of grants on a fake host, against a model of its own: what the host promises holds after every step.

Hypothesis chooses what happens: grants with all kinds of entries come in, time passes, clocks are set, an admin revokes and
changes the policy, steps fail, the disk is full, the process is killed at any change or commit, the power goes. After each step
the daemon does what is due, and the model, which knows only the grants and the time, says what must be there.
``TIDEGATE_MACHINE_RUNS`` makes it longer (``make fuzz``).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.errors import RefusedError, TidegateError
from agent.host.fake import KilledError
from agent.host.found import Found
from agent.journal import EndCause, GrantState
from tests.unit.enforcer_fixtures import needs_cvtsudoers
from tests.unit.lifecycle_kit import KEY, NS, POLICY, World

RUNS = int(os.environ.get("TIDEGATE_MACHINE_RUNS", "30"))
LOGINS = ("jit-a", "jit-b", "jit-c")
GROUPS = ("games", "audio")
SUDO = "/usr/bin/id"
SLACK_NS = 62 * NS  # what a power cut may cost: the time is written down once a minute
SETTLE_S = 70  # past every wait between two tries


@dataclass
class Asked:
    """A grant as it was asked for, and what the model knows of its end. ``lived_ns``: on the boot clock, since it came in."""

    jti: str
    entries: list[dict[str, Any]]
    nbf_ns: int
    exp_ns: int
    lifetime_ns: int
    lived_ns: int = 0
    cuts: int = 0  # power cuts while it lived
    revoked: bool = False
    untold: bool = False  # revoked with no disk to write that on: it may be open in the journal and shut on the host
    past: bool = False  # the wall clock has shown its end, or its lifetime is used up

    @property
    def over(self) -> bool:
        """Whether nothing of it may let anyone in any more."""
        return self.past or self.revoked or self.lived_ns >= self.lifetime_ns + self.cuts * SLACK_NS

    @property
    def made(self) -> list[str]:
        """The accounts it makes."""
        return [entry["identifier"] for entry in self.entries if entry["type"] == "account"]


@st.composite
def entries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """An account with what belongs to it, or rights for a person who was there before."""
    login = draw(st.sampled_from((*LOGINS, "deploy")))
    found: list[dict[str, Any]] = []
    if login != "deploy":
        groups = draw(st.lists(st.sampled_from(GROUPS), unique=True))
        found.append(
            {"type": "account", "identifier": login, "groups": groups, "home": draw(st.sampled_from(("ephemeral", "archive")))}
        )
        if draw(st.booleans()):
            found.append({"type": "ssh", "identifier": login, "keys": [KEY]})
    if login == "deploy" or draw(st.booleans()):
        found.append({"type": "sudo", "identifier": login, "commands": [SUDO]})
    if login == "deploy" and draw(st.booleans()):
        found.append(
            {"type": "group", "identifier": login, "groups": draw(st.lists(st.sampled_from(GROUPS), min_size=1, unique=True))}
        )
    return found


class Lifecycle(RuleBasedStateMachine):
    """See the module. ``faults``: what was told to fail; while there is any, what is due may take more tries."""

    @initialize(userdb=st.booleans(), first=st.lists(entries(), min_size=1, max_size=3), lasts_s=st.sampled_from((90, 600)))
    def begin(self, userdb: bool, first: list[list[dict[str, Any]]], lasts_s: int) -> None:
        self.world = World(userdb=userdb)
        self.asked: dict[str, Asked] = {}
        self.residue: set[int] = set()
        self.faults: set[str] = set()
        self.count = 0
        self._seen = self.world.clock.boot_ns()
        self.world.start()
        for asked in first:
            self.grant(asked, 0, lasts_s)

    def teardown(self) -> None:
        """Whatever happened: once nothing fails any more and all time has passed, the host is as it was before the first."""
        if not hasattr(self, "world"):
            return
        try:
            self.mend()
            if self.world.running:
                for _ in range(3):
                    self.advance(40 * 86400)
                    self.settle()
                self.check()
                assert self.world.host.snapshot() == self.world.before
                assert not self.world.pipeline.ledger.all() and not self.world.pipeline.journal.live()
        finally:
            self.world.close()

    # What comes in

    @rule(asked=entries(), starts_s=st.sampled_from((0, 0, 0, 0, 5, 400)), lasts_s=st.sampled_from((1, 30, 90, 600, 7200)))
    def grant(self, asked: list[dict[str, Any]], starts_s: int, lasts_s: int) -> None:
        world, clock = self.world, self.world.clock
        self.count += 1
        jti = f"g-{self.count}"
        token = world.sign(jti, asked, starts_s=starts_s, lasts_s=lasts_s)
        nbf_ns = (clock.wall_ns() // NS + starts_s) * NS
        exp_ns = nbf_ns + lasts_s * NS
        found = Asked(jti, asked, nbf_ns, exp_ns, exp_ns - clock.wall_ns())
        before = self.shown()
        spoken_for = self.spoken_for()
        self.asked[jti] = found
        code = self.do(lambda: world.refusal(token), "opening")
        if not world.running:
            return
        record = next(iter(world.pipeline.journal.by_jti(jti)), None)
        if code is not None and record is None:
            assert self.faults or self.shown() == before, "a refused grant changes nothing"
            del self.asked[jti]
        elif record is None:  # nothing could be written down, so nothing was done
            assert self.faults
            del self.asked[jti]
        else:
            assert not set(record.uids.values()) & spoken_for, "a UID came back while something of it was left"

    @rule(asked=entries(), starts_s=st.sampled_from((0, 5)))
    def another_grant(self, asked: list[dict[str, Any]], starts_s: int) -> None:
        """Many come, so that there are some of every kind at once."""
        self.grant(asked, starts_s, 600)

    @rule(asked=entries(), after=st.integers(1, 14), late=st.booleans())
    def grant_and_die(self, asked: list[dict[str, Any]], after: int, late: bool) -> None:
        """Killed while it is opened."""
        self.break_the_host(after, "dies after" if late else "dies")
        self.grant(asked, 0, 600)

    @rule(after=st.integers(1, 14), late=st.booleans(), seconds=st.sampled_from((30, 600, 8000)))
    def end_and_die(self, after: int, late: bool, seconds: float) -> None:
        """Killed while grants end."""
        self.break_the_host(after, "dies after" if late else "dies")
        self.advance(seconds)

    @rule(jti=st.integers(1, 12), by=st.sampled_from(("jti", "subject", "all")))
    def revoke(self, jti: int, by: str) -> None:
        pipeline = self.world.pipeline
        chosen = [live for live in pipeline.ledger.all() if by != "jti" or live.record.jti == f"g-{jti}"]
        ended = {live.record.jti for live in chosen}
        done = self.do(lambda: pipeline.shut(chosen, EndCause.REVOKED, "an admin"), "revoking")
        for name in ended & self.asked.keys():
            # A kill before it was written down leaves it open, as if it had never been said: nobody was told otherwise.
            # On a full disk it is carried out and told as NOT OVER; a restart may forget it (decision 19).
            self.asked[name].revoked |= self.world.running and done is not None and not self.world.disk.full
            self.asked[name].untold |= self.world.disk.full

    # Time

    @rule(seconds=st.sampled_from((0, 1, 7, 29, 61, 130, 700, 8000)))
    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.lived()

    @rule(seconds=st.sampled_from((-86400, -3600, -100, -1, 1, 100, 3600, 86400)))
    def set_clock(self, seconds: float) -> None:
        self.world.clock.step(seconds)
        self.lived()

    # What goes wrong

    @rule(after=st.integers(1, 25), kind=st.sampled_from(("fails", "dies", "dies after")))
    def break_the_host(self, after: int, kind: str) -> None:
        host = self.world.host
        host.fail_at, host.kill, host.after = len(host.calls) + after, kind != "fails", kind == "dies after"
        self.faults.add("a step fails" if kind == "fails" else "a kill")

    @rule(after=st.integers(1, 6), late=st.booleans())
    def die_at_a_commit(self, after: int, late: bool) -> None:
        self.world.disk.kill_at, self.world.disk.kill_after = self.world.disk.commits + after, late
        self.faults.add("a kill")

    @rule()
    def fill_the_disk(self) -> None:
        self.world.disk.full = True
        self.faults.add("a full disk")

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule(off_s=st.sampled_from((1, 30, 700)), set_s=st.sampled_from((0, 0, -86400, -300, 300)))
    def power_cut(self, off_s: float, set_s: float) -> None:
        self.lived()
        self.world.reboot(off_s, set_s)
        self._seen = self.world.clock.boot_ns()
        for found in self.asked.values():
            found.cuts += 1
        self.lived()

    @rule(which=st.integers(0, 5), immortal=st.booleans())
    def run_something(self, which: int, immortal: bool) -> None:
        tenants = [uid for live in self.world.pipeline.ledger.all() if live.state is GrantState.OPEN for uid in live.tenants]
        if tenants:
            self.world.process_of(tenants[which % len(tenants)], immortal=immortal)
            if immortal:
                self.faults.add("a process in state D")

    @rule(which=st.integers(0, 5))
    def leave_something(self, which: int) -> None:
        tenants = [uid for live in self.world.pipeline.ledger.all() for uid in live.tenants]
        if tenants:
            uid = tenants[which % len(tenants)]
            self.world.host.remains.found[uid] = [Found("file", "/var/tmp/held", uid=uid)]
            self.residue.add(uid)

    @precondition(lambda self: bool(self.faults))
    @rule()
    def mend(self) -> None:
        """Nothing fails any more; what waited is tried again."""
        self.world.host.fail_at = self.world.disk.kill_at = None
        self.world.disk.full = False
        self.world.table.immortal.clear()
        self.restart()
        self.advance(SETTLE_S)
        self.settle()
        self.advance(SETTLE_S)
        self.settle()
        self.faults.clear()

    # The admin

    @rule(text=st.sampled_from((POLICY, POLICY, POLICY, "rules: []\n", "rules: [\n")))
    def change_policy(self, text: str) -> None:
        self.world.write_policy(text)
        self.world.pipeline.policies.reload()

    # The daemon

    def restart(self) -> None:
        """systemd starts it again as often as it dies."""
        for _ in range(20):
            if self.world.running:
                return
            self.do(self.world.start, "starting")
        raise AssertionError("it never starts")

    def settle(self) -> None:
        self.restart()
        self.do(self.world.tick, "ticking")
        self.restart()

    def do(self, act: Callable[[], Any], what: str) -> Any:
        """Let the daemon act; None when it was killed, or the disk said no."""
        try:
            return act()
        except KilledError:
            self.world.host.fail_at = self.world.disk.kill_at = None
            self.faults.discard("a kill")  # the next start owes everything at once
            self.world.crash()
        except RefusedError:
            raise
        except TidegateError:
            assert self.faults, what
        return None

    def lived(self) -> None:
        """Time that has passed, in the model."""
        now, wall = self.world.clock.boot_ns(), self.world.clock.wall_ns()
        for found in self.asked.values():
            found.lived_ns += now - self._seen
            found.past |= wall >= found.exp_ns or found.lived_ns >= found.lifetime_ns + found.cuts * SLACK_NS
        self._seen = now

    # What must hold

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "world"):
            return
        self.settle()
        self.lived()
        journal, ledger, host = self.world.pipeline.journal, self.world.pipeline.ledger, self.world.host
        live = {found.record.jti: found for found in ledger.all()}
        assert {record.jti for record in journal.live()} == live.keys(), "the journal and the ledger hold the same grants"
        for jti, found in self.asked.items():
            assert jti not in live or live[jti].state is not GrantState.OPENING, f"{jti} is left half open"
            if found.over and not self.faults:
                assert jti not in live, f"{jti} outlives its end"
            if jti in live and live[jti].state is GrantState.OPEN and not found.untold:
                self.stands(found)
        self.accounted(live.keys())
        for record in journal.recent(1000):
            receipts = journal.receipts_of(record.id)
            assert len(receipts) == (1 if record.state is GrantState.ENDED else 0), "one receipt for each end"
            if record.state is GrantState.ENDED and record.cause is EndCause.EXPIRED:
                asked = self.asked[record.jti]
                early = asked.exp_ns - self.world.clock.wall_ns() if asked.cuts == 0 else 0
                assert asked.past or asked.lived_ns >= asked.lifetime_ns - NS or early <= 0 or asked.cuts, (
                    "it ended before its time"
                )
        assert host.groups["audio"].members[0] == "deploy" and host.users.keys() >= {"root", "deploy"}
        assert all(host.files[path] == held for path, held in self.world.before["files"].items())  # type: ignore[attr-defined]

    def stands(self, asked: Asked) -> None:
        """All that an open grant asked for is there."""
        host, paths = self.world.host, self.world.host.config.paths
        for entry in asked.entries:
            login = entry["identifier"]
            match entry["type"]:
                case "account":
                    assert host.users[login].ours and host.locked[login] is False and paths.home_base / login in host.homes
                    assert {host.config.tenant_group, *entry["groups"]} <= host.groups_of(login)
                case "ssh":
                    assert KEY in host.files[paths.keys / login][0].decode()
                case "sudo":
                    rules = [text for path, (text, _) in host.files.items() if path.is_relative_to(paths.sudoers)]
                    assert any(
                        line.startswith(f"{login} ".encode()) and SUDO.encode() in line
                        for text in rules
                        for line in text.splitlines()
                    )
                case "group":
                    assert set(entry["groups"]) <= host.groups_of(login)

    def accounted(self, live: Any) -> None:
        """Nothing is there that no live grant accounts for; processes neither."""
        host, paths = self.world.host, self.world.host.config.paths
        held = [self.asked[jti] for jti in live]
        logins = {login for asked in held for login in asked.made}
        everybody = {entry["identifier"] for asked in held for entry in asked.entries}
        assert {name for name, user in host.users.items() if user.ours} <= logins
        assert {path.name for path in host.homes if path.name != "deploy"} <= logins
        assert {path.name for path in host.files if path.parent == paths.keys} <= logins
        rules = [
            text.decode().splitlines()[-1].split(" ")[0]
            for path, (text, _) in host.files.items()
            if path.is_relative_to(paths.sudoers)
        ]
        assert set(rules) <= everybody and len(rules) <= len(held)
        assert {user for user, _ in host.made} <= everybody
        uids = {uid for found in self.world.pipeline.ledger.all() for uid in found.tenants}
        assert {process.tenant_uid for process in self.world.table.alive.values()} <= uids

    def shown(self) -> tuple[object, ...]:
        return self.world.host.snapshot(), [found.record.jti for found in self.world.pipeline.ledger.all()]

    def spoken_for(self) -> set[int]:
        """UIDs of live grants, and those of which something was left."""
        return {uid for found in self.world.pipeline.ledger.all() for uid in found.tenants} | self.residue


Lifecycle.TestCase.settings = settings(
    max_examples=RUNS,
    stateful_step_count=20,
    deadline=None,
    derandomize="TIDEGATE_MACHINE_RUNS" not in os.environ,
    database=None,
    phases=[Phase.generate, *([] if RUNS < 100 else [Phase.shrink])],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
TestLifecycle = needs_cvtsudoers(Lifecycle.TestCase)
