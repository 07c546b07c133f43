"""What Tidegate costs while nothing happens: wake-ups, processor time and memory of its three processes with 100 live grants."""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.frame.row import OURS, Absent, Goal, Row, Run
from benchmarks.ground import PIDS_MAX, POLICY, cpu_s, note_versions, of_unit, pss_kib, woken_by_thread
from benchmarks.peers import guest_agent
from examples.demo.plane import Plane
from examples.demo.scene import WITH_SYSTEMD, machine_address, set_up
from tests.host.scene import ISSUER, UNIT, Scene, account, public, ssh
from tests.hosts.errors import HostError
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate
from tests.hosts.ssh import make_key

_GUEST = "guest"
_WAKES, _CPU, _MEMORY = "wake-ups", "processor time", "memory"
_UNITS = {"tidegated": UNIT, "recorder": "tidegate-recorder.service", "courier": "tidegate-courier.service"}
_GRANTS, _USERS = 100, 10
_SETTLE_S = 12.0
_WITHOUT_SSL = "import sys; sys.modules['ssl'] = None; "  # as tidegated does it
# What each of the three can't be without: no code of ours in them.
_LIBRARIES = (
    "asyncio, sqlite3, ctypes, yaml, watchdog.observers, systemd.journal, cryptography.hazmat.primitives.asymmetric.ed25519",
    "argparse, ctypes, dataclasses, hashlib, json, logging, socket, subprocess",
    "argparse, ctypes, dataclasses, hashlib, json, logging, socket, ssl, subprocess, yaml",
)


def measure(run: Run) -> None:
    """All of it in the same time, one stretch after the other: who sleeps disturbs nobody."""
    with _host(run) as (scene, agent):
        _fill(run, scene, agent)
        time.sleep(_SETTLE_S)
        for number in range(run.times(2, 1)):
            seconds = 15.0 if run.quick else 60.0
            run.tell(f"idle for {seconds:.0f} s, stretch {number + 1}")
            _stretch(run, scene, agent, seconds)
        _libraries(run, scene.host)
        _by_itself(run, scene.host, seconds)


def _stretch(run: Run, scene: Scene, agent: guest_agent.GuestAgent | None, seconds: float) -> None:
    ours = {name: of_unit(scene.host, unit) for name, unit in _UNITS.items()}
    ways = {OURS: [pid for pids in ours.values() for pid in pids], **({_GUEST: of_unit(scene.host, agent.unit)} if agent else {})}
    before = {way: (_wakes(pids), cpu_s(pids)) for way, pids in ways.items()}
    threads = {name: woken_by_thread(pids) for name, pids in ours.items()}
    busy_before = {name: cpu_s(pids) for name, pids in ours.items()}
    time.sleep(seconds)
    for way, pids in ways.items():
        wakes, busy = before[way]
        run.add(_WAKES, way, "/s", (_wakes(pids) - wakes) / seconds)
        run.add(_CPU, way, "ms/s", (cpu_s(pids) - busy) * 1000 / seconds)
        run.add(_MEMORY, way, "MiB", pss_kib(pids) / 1024)
    for name, pids in ours.items():
        for thread, count in _more(threads[name], woken_by_thread(pids)).items():
            run.part(_WAKES, f"{name}, {thread}", "/s", count / seconds)
        run.part(_CPU, name, "ms/s", (cpu_s(pids) - busy_before[name]) * 1000 / seconds)
        run.part(_MEMORY, name, "MiB", pss_kib(pids) / 1024)


def _libraries(run: Run, host: Host) -> None:
    """Interpreters as ours have them, with the libraries and no code of ours; all at once, since they share what they can."""
    for what, imports in (("bare", ("os",) * 3), ("with the libraries that ours need", _LIBRARIES)):
        units = [f"measured-{number}" for number in range(len(imports))]
        for unit, names in zip(units, imports, strict=True):
            code = f"{_WITHOUT_SSL if 'asyncio' in names else ''}import {names}, time; time.sleep(600)"
            host.run(["systemd-run", "--quiet", "--unit", unit, "python3", "-I", "-c", code])
        time.sleep(3)
        pids = [pid for unit in units for pid in of_unit(host, unit)]
        run.part(_MEMORY, f"three interpreters, {what}", "MiB", pss_kib(pids) / 1024)
        host.run(["systemctl", "stop", *units])


def _by_itself(run: Run, host: Host, seconds: float) -> None:
    """Without the courier: nothing comes from a control plane, which has a word for each open connection every ten seconds."""
    host.run(["systemctl", "stop", _UNITS["courier"]])
    time.sleep(_SETTLE_S)
    pids = [pid for name in ("tidegated", "recorder") for pid in of_unit(host, _UNITS[name])]
    before = _wakes(pids)
    time.sleep(seconds)
    run.part(_WAKES, "tidegated and the recorder, with the courier stopped", "/s", (_wakes(pids) - before) / seconds)


def _wakes(pids: Sequence[int]) -> int:
    return sum(woken_by_thread(pids).values())


def _more(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {thread: count - before.get(thread, 0) for thread, count in after.items() if count > before.get(thread, 0)}


def _fill(run: Run, scene: Scene, agent: guest_agent.GuestAgent | None) -> None:
    key = make_key(Path(tempfile.mkdtemp(dir=scene.host.root.parent)) / "key")
    for number in range(_GRANTS):
        login = f"jit-idle{number}"
        scene.drop(scene.grant(account(login), ssh(login, public(key)), sub=f"{login}@example.com", lifetime=4 * 3600))
    run.tell(f"opening {_GRANTS} grants")
    end = time.monotonic() + 120
    while sum(grant["state"] == "open" for grant in scene.status()["grants"]) < _GRANTS:  # answers are carried away by the courier
        if time.monotonic() > end:
            raise HostError(f"{len(scene.status()['grants'])} of {_GRANTS} grants are open: {scene.status()['refusals'][:1]}")
        time.sleep(0.5)
    for number in range(_USERS):
        if agent:
            agent.give(f"guest-idle{number}", public(key))


@contextlib.contextmanager
def _host(run: Run) -> Iterator[tuple[Scene, guest_agent.GuestAgent | None]]:
    """Enrolled at a control plane, so that the courier holds a connection; the guest agent beside it."""

    def prepare(root: Path) -> None:
        install_tidegate(root)
        guest_agent.prepare(root)

    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(Host.boot(packages=guest_agent.PACKAGES, prepare=prepare, pids_max=PIDS_MAX))
        except HostError as error:
            run.leave_out(_GUEST, error)
            host = stack.enter_context(Host.boot(prepare=prepare, pids_max=PIDS_MAX))
        note_versions(run, host, guest_agent.PACKAGES if _GUEST not in run.absent else ())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = stack.enter_context(Plane(folder, machine_address(host), WITH_SYSTEMD.allowed, recorded=True))
        set_up(host, plane, WITH_SYSTEMD)
        scene = Scene(host)
        host.write("/etc/tidegate/policy.d/90-measured.yaml", POLICY)
        scene.new_key("cp-1", ISSUER)
        host.wait_for(lambda: scene.status()["policy"].startswith("3 rules"), 10, "the policy is read")
        scene.host_id = scene.status()["host_id"]
        agent = None
        if _GUEST not in run.absent:
            try:
                agent = guest_agent.GuestAgent(host)
            except (Absent, HostError) as error:
                run.leave_out(_GUEST, error)
        yield scene, agent


ROW = Row(
    name="idle",
    title="Idle with 100 live grants",
    about="tidegated with its helpers, the recorder, and the courier with its connection to a control plane, for a minute "
    "at a time while no grant comes or goes: how often a thread of theirs went to sleep by itself (proc(5), voluntary "
    "switches: once for each time it was woken), processor time by the scheduler's count, PSS. Nothing polls; what wakes "
    "them is a word to systemd's watchdog (each half of 30 s; tidegated's goes with the next), the mark of the time that tidegated "
    "writes down every 10 s, so that a power cut and a clock set back win no more than that, and what the control plane sends: a "
    "sign of life every 10 s, a bulletin every minute. Beside them, in the same time, GCE's guest agent with ten accounts.",
    measure=measure,
    goals=(Goal(_WAKES, "median", 0.0), Goal(_CPU, "median", 0.0), Goal(_MEMORY, "median", 50.0)),
    ways={OURS: "Tidegate, all three processes", _GUEST: "GCE's guest agent"},
)
