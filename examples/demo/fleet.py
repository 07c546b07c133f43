"""`make demo-fleet`: one access to three disposable hosts over NATS, and its end on all three at once.

Alice asks a control plane for three hosts; Carol approves once. Three signed grants go out by nats-server, and Alice is in on all
three by plain ssh with one certificate. Carol follows one session live. Then Alice is offboarded: all of it must be shut and dead
on all three hosts, and their receipts be back at the control plane. Exits 0 only if every line held.
"""

import contextlib
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from examples.demo import asking
from examples.demo.command import Figures, run_as_command
from examples.demo.fleet_scene import Fleet, fleet
from examples.demo.plane import listed, wait_for
from examples.demo.scene import ALICE
from examples.demo.timeline import MS, Timeline
from examples.demo.watch import LoginProbe, ProcessWatch

LIFETIME_S = 600  # long: it is the offboarding that ends it
SOON_S = 20.0
SHUT_MS = 1000.0
_SETTLED_S = 0.2  # nobody seen for so long: over
LEAVE_BEHIND = "setsid sleep 86400 </dev/null >/dev/null 2>&1 & echo left-$((40+2))"


@dataclass(slots=True)
class Seat:
    """Alice on one host: her live session, what is watched of her there, and when the session was cut (wall ns, 0: not)."""

    name: str
    session: "subprocess.Popen[bytes]"
    watch: ProcessWatch | None = None
    cut_ns: int = 0
    said: bytes = b""
    reader: threading.Thread = field(default_factory=threading.Thread)

    def listen(self) -> None:
        """Note when the session ends, and its last words."""
        self.reader = threading.Thread(target=self._listen, daemon=True)
        self.reader.start()

    def _listen(self) -> None:
        for data in iter(lambda: os.read(self.session.stdout.fileno(), 65536) if self.session.stdout else b"", b""):
            self.said = (self.said + data)[-8192:]
        self.cut_ns = time.time_ns()


def story(timeline: Timeline) -> Figures:
    """The whole story, on a fleet that is gone after it; returns the figures of :func:`run`, and how many hosts there were."""
    with fleet(timeline.title) as made:
        return {"hosts": len(made.hosts), **run(made, timeline)}


def run(made: Fleet, timeline: Timeline) -> Figures:
    """The whole story; returns the figures: milliseconds from the approval, the key, or the offboarding, by host."""
    login_ms = _opened(made, timeline)
    seats = {name: _sit_down(made, timeline, name) for name in made.hosts}
    try:
        live_ms = _followed(made, timeline, seats["web1"])
        ended = _offboarded(made, timeline, seats)
    finally:
        for seat in seats.values():
            seat.session.kill()
            seat.session.communicate()
    return {"login_ms": login_ms, "live_ms": live_ms, **ended, "receipt_ms": _receipts(made, timeline)}


def _opened(made: Fleet, timeline: Timeline) -> dict[str, float]:
    """Asked, approved, pushed, in on all hosts."""
    began_ns = time.time_ns()
    request = asking.ask(made.alice, "web-restart", LIFETIME_S, "--ticket", "INC-42", hosts=tuple(made.hosts))
    found = asking.waiting_request(made.carol)
    timeline.deadline_ns, _ = asking.approve(made.carol, found)
    timeline.title("\nTimes are seconds against the approval.")
    timeline.say(f"alice asks for {found['template']} on {', '.join(made.hosts)}", at_ns=began_ns)
    timeline.say("carol approves once; three grants are signed, and pushed by NATS", at_ns=timeline.deadline_ns)
    asking.asked(request)
    probes = {name: LoginProbe(host.address, ALICE, made.key, clients=1).start() for name, host in made.hosts.items()}
    took: dict[str, float] = {}
    for name, probe in probes.items():
        first_ns = probe.first_welcome(timeout_s=SOON_S)
        if first_ns is not None:
            took[name] = timeline.against(first_ns)
        words = f"alice's certificate, for a key made on the spot, accepted by {name}'s sshd"
        timeline.say(words, ok=first_ns is not None, at_ns=first_ns)
    for probe in probes.values():
        probe.stop()
    if len(took) < len(made.hosts):
        raise RuntimeError("alice could not log in everywhere")
    return took


def _sit_down(made: Fleet, timeline: Timeline, name: str) -> Seat:
    """A live session on one host, and a process left behind there."""
    host = made.hosts[name]
    argv = host.ssh_argv(ALICE, made.key, options=("-tt",))
    pipe = subprocess.PIPE
    seat = Seat(name, subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT))
    seat.listen()
    there = _typed(seat, LEAVE_BEHIND, b"left-42")
    timeline.say(f"{name}: alice has a live session, and leaves a process behind", ok=there)
    return seat


def _typed(seat: Seat, line: str, word: bytes) -> bool:
    asking.type_line(seat.session, line)
    with contextlib.suppress(RuntimeError):
        return wait_for(lambda: word in seat.said, SOON_S, "the session answers")
    return False


def _followed(made: Fleet, timeline: Timeline, seat: Seat) -> float | None:
    """Carol looks over alice's shoulder, with the broker between them."""
    took_ms = asking.follow(made.carol, ALICE, seat.session, host=seat.name)
    words = f"carol follows the session on {seat.name} live: a line is there {took_ms or 0:.0f} ms after it was typed"
    timeline.say(words, ok=took_ms is not None)
    return None if took_ms is None else round(took_ms, 1)


def _offboarded(made: Fleet, timeline: Timeline, seats: dict[str, Seat]) -> Figures:
    """Alice leaves; what that does on each host, seen from outside."""
    root = made.plane.root.api
    (ident,) = [one["id"] for one in listed(root, "/v1/people", "people") if one["subject"] == "alice"]
    for name, seat in seats.items():
        host = made.hosts[name]
        uids = {int(host.run(f"id -u {ALICE}").stdout)}
        door = Path(f"/proc/{host.leader}/root/run/tidegate/principals/{ALICE}")
        seat.watch = ProcessWatch(host.leader, uids, (), door).start()
    time.sleep(0.3)
    at_ns = time.time_ns()
    root.post(f"/v1/people/{ident}/offboard", {"reason": "left the company"})
    timeline.say("alice is offboarded: one act at the control plane", at_ns=at_ns)
    figures: dict[str, dict[str, float]] = {"doors_ms": {}, "dead_ms": {}, "cut_ms": {}}
    for name, seat in seats.items():
        _over(timeline, seat, at_ns, figures)
        refused = made.hosts[name].ssh(ALICE, made.key, "true").returncode == 255
        timeline.say(f"{name}: a new login is refused", ok=refused)
    return dict(figures)


def _over(timeline: Timeline, seat: Seat, at_ns: int, figures: dict[str, dict[str, float]]) -> None:
    watch = seat.watch
    assert watch is not None  # noqa: S101  # set a moment ago
    with contextlib.suppress(RuntimeError):
        wait_for(lambda: watch.dead_for(_SETTLED_S) and watch.doors_ns and seat.cut_ns, SOON_S, "the end")
    watch.stop()
    for what, then_ns in (("doors_ms", watch.doors_ns), ("dead_ms", watch.all_dead_ns), ("cut_ms", seat.cut_ns)):
        if then_ns:
            figures[what][seat.name] = round((then_ns - at_ns) / MS, 1)
    took = {what: by_host.get(seat.name) for what, by_host in figures.items()}
    ok = watch.peak > 0 and all(value is not None and value < SHUT_MS for value in took.values())
    words = f"the last of {watch.peak} processes dead {took['dead_ms']} ms after it, the doors shut {took['doors_ms']} ms"
    timeline.say(f"{seat.name}: {words}", ok=ok, at_ns=watch.all_dead_ns or None)
    told = b"access has ended" in seat.said
    timeline.say(f"{seat.name}: her live session is cut, and she is told why", ok=told, at_ns=seat.cut_ns or None)


def _receipts(made: Fleet, timeline: Timeline) -> dict[str, float]:
    """Back at the control plane, over NATS, and genuine."""
    took: dict[str, float] = {}
    root = made.plane.root.api

    def ended(name: str) -> list[dict[str, object]]:
        found = listed(root, "/v1/grants", "grants")
        return [one for one in found if one["host_name"] == name and one["state"] == "ended"]

    for name, host in made.hosts.items():
        try:
            grant = wait_for(lambda name=name: ended(name), 40.0, "the receipt")[0]  # type: ignore[misc]  # the default binds it
        except RuntimeError:
            timeline.say(f"{name}: its receipt is at the control plane", ok=False)
            continue
        took[name] = timeline.against(time.time_ns())
        genuine, late = asking.receipt_checked(host, grant)
        ok = genuine and grant["cause"] == "revoked"
        timeline.say(f"{name}: its receipt is at the control plane, verifies, and says: {late} after the order", ok=ok)
    return took


if __name__ == "__main__":
    run_as_command("demo-fleet", __doc__, story)
