"""What one more grant costs, and a start, as the host fills: with 10, 1,000 and 10,000 live grants; beside useradd on that host."""

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from benchmarks.frame.row import OURS, Goal, Plot, Row, Run
from benchmarks.ground import Ground, standing
from tests.host.scene import UNIT, account, public, ssh
from tests.hosts.errors import HostError

USERADD = "useradd"
_FULL, _QUICK = (10, 1000, 10_000), (10, 300)
_INSIDE = Path(__file__).with_name("seeding.py")
_TO_SEED_S = 900
_ASKED = "asking the name service about the login, its group and their absence, as opening does"
_PREPARED = "the enforcers' files proved again (the account backend tried, sshd and sudo asked), by itself"
_READING = """
import sys, time
sys.path.insert(0, "/usr/lib/tidegate")
began = time.perf_counter()
import agent.daemon
imported = time.perf_counter()
from agent.assembly import looking_only
from agent.config import load_config
looking_only(load_config())
print(imported - began, time.perf_counter() - imported)
"""
_PREPARING = """
import sys, time
sys.path.insert(0, "/usr/lib/tidegate")
from agent.config import load_config
from agent.host.system import SystemHost
from enforcers import REGISTRY
host = SystemHost(load_config())
began = time.perf_counter()
for enforcer in REGISTRY:
    enforcer.prepare(host)
print(time.perf_counter() - began)
"""
# As the account and ssh enforcers look, five times over.
_ASKING = """
import sys, time
sys.path.insert(0, "/usr/lib/tidegate")
from agent.config import load_config
from agent.host.system import SystemHost
host = SystemHost(load_config())
for _ in range(5):
    began = time.perf_counter()
    for name in ("jit-none", host.config.tenant_group):
        host.group(name), host.user(name)
    host.groups_of("jit-fill0"), host.user_by_uid(99998), host.group_by_gid(99998)
    print((time.perf_counter() - began) * 1000)
"""


def opening(live: int) -> str:
    """The case of opening one beside so many."""
    return f"{live} live grants: one more opened"


def start(live: int) -> str:
    """The case of a start with so many."""
    return f"{live} live grants: start to ready"


GROWN = f"the same with {_FULL[-1]:,} over with {_FULL[0]}"


def measure(run: Run) -> None:
    """Filled step by step while the daemon is stopped, then measured."""
    with standing(run) as ground:
        standing_now, counts = 0, _QUICK if run.quick else _FULL
        for live in counts:
            ground.scene.stop()
            _seed(run, ground, standing_now, live)
            standing_now = live
            _start(run, ground, live)
            number = iter(range(10**6))
            ways: dict[str, Callable[[], None]] = {
                OURS: lambda live=live, number=number: open_one(run, ground, opening(live), next(number)),  # type: ignore[misc]
                USERADD: lambda live=live, number=number: add_one(run, ground, opening(live), next(number)),  # type: ignore[misc]
            }
            run.turns(10, 3, ways, f"{live} live grants")
            _name_service(run, ground, live)
    first, last = (run.figures[opening(live)][OURS] for live in (counts[0], counts[-1]))
    if counts == _FULL:
        run.add(GROWN, OURS, "times", *(value / first.median for value in last.values))
        for live in (counts[0], counts[-1]):
            run.part(GROWN, f"one more opened, with {live:,}", "ms", *run.figures[opening(live)][OURS].values)
            run.part(GROWN, f"of it, {_ASKED}, with {live:,}", "ms", *run.parts[opening(live)][_ASKED].values)


def _seed(run: Run, ground: Ground, there: int, wanted: int) -> None:
    scene, key = ground.scene, public(ground.key)
    exp = int(time.time()) + 6 * 3600
    tokens = []
    for number in range(there, wanted):
        login = f"jit-fill{number}"
        tokens.append(scene.grant(account(login), ssh(login, key), sub=f"{login}@example.com", exp=exp).decode())
    run.tell(f"filling the host: {wanted} grants")
    ground.host.write("/usr/local/lib/seeding.py", _INSIDE.read_bytes())
    text = "".join(f"{token}\n" for token in tokens)
    done = ground.host.run(["python3", "-I", "/usr/local/lib/seeding.py"], input=text, timeout=_TO_SEED_S)
    if int(done.stdout) != len(tokens):
        raise HostError(f"{done.stdout.strip()} of {len(tokens)} were opened")


def _start(run: Run, ground: Ground, live: int) -> None:
    """From systemctl's start to READY=1."""
    for number in range(run.times(3, 1)):
        run.tell(f"start {number + 1} with {live} live grants")
        began = time.monotonic()
        ground.host.run(["systemctl", "start", UNIT], timeout=300)
        run.add(start(live), OURS, "s", time.monotonic() - began)
        found = len(ground.scene.ask("grants")["grants"])
        if found < live:
            raise HostError(f"{found} of {live} grants are there after the start")
        imported, read = map(float, ground.host.run(["python3", "-I", "-c", _READING], timeout=120).stdout.split())
        run.part(start(live), "the interpreter's imports alone", "s", imported)
        run.part(start(live), "reading the journal into memory, by itself", "s", read)
        prepared = ground.host.run(["python3", "-I", "-c", _PREPARING], timeout=120).stdout
        run.part(start(live), _PREPARED, "s", float(prepared))
        ground.host.run(["systemctl", "stop", UNIT], timeout=120)
    ground.host.run(["systemctl", "start", UNIT], timeout=300)


def open_one(run: Run, ground: Ground, case: str, number: int) -> None:
    """From the inbox to open, of one that is revoked again."""
    scene, login = ground.scene, f"jit-more{number}x{time.time_ns() % 10**6}"
    claims = scene.claims(account(login), ssh(login, public(ground.key)), sub=f"{login}@example.com")
    token, keys = scene.sign(claims), ground.inside(f"/run/tidegate/keys/{login}")
    began_ns = time.time_ns()
    scene.drop(token)
    end = time.monotonic() + 60
    while not keys.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"{login} was not opened")
        time.sleep(0.001)
    ground.host.wait_for(lambda: _opened(ground, claims["jti"]), 30)
    run.add(case, OURS, "ms", _opened(ground, claims["jti"]) - began_ns / 1e6)
    scene.tidegate("revoke", claims["jti"], timeout=120)
    time.sleep(0.5)


def _opened(ground: Ground, jti: str) -> float:
    """Milliseconds since the epoch; 0 while it is not."""
    found = ground.scene.ask("grant", jti=jti)["grants"][0]["opened"]
    return datetime.fromisoformat(found).timestamp() * 1000 if found else 0.0


def add_one(run: Run, ground: Ground, case: str, number: int) -> None:
    """By useradd, with a home; removed again."""
    login = f"plain{number}"
    timed = f"s=$EPOCHREALTIME; useradd -m -s /bin/bash {login}; e=$EPOCHREALTIME; echo $s $e; userdel -r {login} 2>/dev/null"
    began, ended = ground.host.run(timed).stdout.split()
    run.add(case, USERADD, "ms", (float(ended) - float(began)) * 1000)


def _name_service(run: Run, ground: Ground, live: int) -> None:
    """What of it is nss-systemd's, which looks through every record of the host."""
    found = ground.host.run(["python3", "-I", "-c", _ASKING], timeout=120).stdout.split()
    run.part(opening(live), _ASKED, "ms", *map(float, found))


ROW = Row(
    name="filling",
    title="As the host fills",
    about="A host is filled with live grants, each with an account and a key, while tidegated is stopped; then it is "
    "started, and one more grant is opened and revoked again several times, in turn with useradd and userdel. All end"
    " in the same second, so that one timer of systemd's stands behind them. From the inbox to open by the daemon's "
    "own clock; a start is from systemctl to READY=1.",
    measure=measure,
    goals=(Goal(GROWN, "median", 1.5), Goal(start(_FULL[-1]), "median", 1.0)),
    ways={OURS: "Tidegate", USERADD: "useradd -m"},
    plots=(
        Plot("growth", "One more grant opened", tuple(opening(live) for live in _FULL), "live grants"),
        Plot("growth", "Start to ready", tuple(start(live) for live in _FULL), "live grants"),
    ),
)
