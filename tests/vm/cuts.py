"""The power is cut at a random moment of opening or ending a grant; the disks are kept, and the machine is switched on again.

Then, once it is up: before T the grant stands whole or not at all, and what stands is what the journal says; from T on nothing of
it is left and nobody got in; /etc, homes and the rest are byte for byte as before the first grant; the journal is sound, and
what ended has its signed receipt.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.hosts.errors import HostFailed
from tests.hosts.snapshot import differences
from tests.vm.channel import Unreachable
from tests.vm.scene import ALICE, ALLOWED, Claims, Ready, Scene

LIFE_S = 1800
SHORT_S = 12
PHASES = ("opening", "revoking", "expiring", "opening", "expiring")


@dataclass(frozen=True, slots=True)
class Typical:
    """How one grant went that nobody disturbed: seconds it took to open and to end, and what differed while it stood."""

    open_s: float
    end_s: float
    standing: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cut:
    """One round. ``phase``: what is under way when the power goes; ``at``: how far, as a part of how long it typically takes.

    ``after``: the power comes back when T has passed.
    """

    seed: int
    phase: str
    at: float
    after: bool

    @classmethod
    def of(cls, seed: int) -> "Cut":
        """The round of that seed."""
        dice = random.Random(seed)
        return cls(seed, PHASES[seed % len(PHASES)], dice.uniform(0.0, 1.1), dice.random() < 0.4)

    def __str__(self) -> str:
        return f"{self.phase} at {self.at * 100:3.0f} %, back {'after' if self.after else 'before'} T"


def measure(ready: Ready) -> Typical:
    """A grant from beginning to end. Raises HostFailed when even that leaves something behind."""
    scene = ready.thaw()
    try:
        began = time.monotonic()
        claims = scene.open(LIFE_S)
        open_s = time.monotonic() - began
        standing = paths(differences(scene.clean, scene.snapshot()))
        scene.inside("live_as", ALICE)
        began = time.monotonic()
        scene.ask("revoke", jti=claims["jti"])
        end_s = time.monotonic() - began
        if left := scene.unclean():
            raise HostFailed(f"undisturbed, and it left: {left}")
        return Typical(open_s, end_s, standing)
    finally:
        scene.machine.stop()


def play(ready: Ready, cut: Cut, typical: Typical) -> list[str]:
    """One round; what went wrong, one line each."""
    scene = ready.thaw()
    try:
        claims = _until_the_cut(scene, cut, typical)
        scene.machine.power_cut()
        now = scene.machine.clock_now()
        scene.machine.start(int(claims["exp"] + 30 if cut.after else now + 1))
        knocking = scene.knock() if cut.after else None  # from the first moment that sshd may listen
        try:
            scene.wait_ready()
            wrong = _after_the_cut(scene, claims, typical)
        finally:
            if knocking is not None:
                knocking.stop()
        if knocking is not None and knocking.accepted:
            wrong.append(f"the key was taken {knocking.accepted[0] - claims['exp']:.1f} s after T")
        return wrong
    finally:
        scene.machine.stop()


def _until_the_cut(scene: Scene, cut: Cut, typical: Typical) -> Claims:
    if cut.phase == "opening":
        claims = scene.claims(LIFE_S)
        scene.drop(claims)
        time.sleep(cut.at * typical.open_s)
        return claims
    short = cut.phase == "expiring"
    claims = scene.open(int(SHORT_S + 4 * typical.open_s) if short else LIFE_S)
    scene.inside("live_as", ALICE)
    if short:
        scene.machine.wait_for(lambda: scene.machine.wall_ns() >= claims["exp"] * 10**9, step=0.1)
        time.sleep(cut.at * typical.end_s)
        return claims
    order = threading.Thread(target=_never_mind, args=(scene.ask, "revoke"), kwargs={"jti": claims["jti"]}, daemon=True)
    order.start()
    time.sleep(cut.at * typical.end_s)
    return claims


def _after_the_cut(scene: Scene, claims: Claims, typical: Typical) -> list[str]:
    """The machine is up again."""
    scene.machine.wait_for(lambda: set(scene.states().values()) <= {"open"}, what=f"it settles: {scene.ask('status')}", step=0.3)
    wrong: list[str] = []
    if scene.states():
        wrong += standing_wrong(scene, typical)
        scene.machine.set_clock(claims["exp"] + 0.5)
        scene.wait_over()
    wrong += [f"left: {line}" for line in scene.unclean()]
    if scene.asked_sshd():
        wrong.append("the key is taken after the end")
    return wrong + scene.bad_books()


def standing_wrong(scene: Scene, typical: Typical) -> list[str]:
    """It is open: all that stands must be there, and work."""
    now = paths(differences(scene.clean, scene.snapshot()))
    wrong = [f"lacks {path}" for path in sorted(typical.standing - now) if f"/home/{ALICE}/" not in path]
    wrong += [f"has {path} too" for path in sorted(now - typical.standing) if not _theirs(path)]
    if not scene.asked_sshd():
        wrong.append("the key is not taken though the grant is open")
    able = scene.machine.run(f"sudo -l -U {ALICE}; id -nG {ALICE}; id -nG deploy", check=False).stdout
    if ALLOWED not in able or able.count("games") != 2:
        wrong.append(f"does not give what it says: {able!r}")
    return wrong


def paths(lines: Iterable[str]) -> frozenset[str]:
    """Which paths differ, and how; a sudo rule's name is its grant's."""
    return frozenset(" ".join(line.partition(" Entry(")[0].split(": ")[:2]).partition("/grant-")[0] for line in lines)


def _theirs(path: str) -> bool:
    """What Alice made herself before the cut."""
    return any(f" {folder}" in path for folder in (f"/home/{ALICE}/", "/tmp/", "/var/tmp/", "/var/lib/systemd/linger"))


def _never_mind(call: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    with contextlib.suppress(Unreachable, HostFailed):  # the power went
        call(*arguments, **more)
