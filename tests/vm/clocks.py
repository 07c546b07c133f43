"""The clock is set, either way, also across a reboot, and the machine sleeps: no grant outlives its lifetime or its ``exp``.

Every case starts from the same frozen machine. What a case measures is by the machine's own boot clock, which nothing here sets.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.vm.channel import PATIENCE_S
from tests.vm.scene import ALICE, UNIT, Claims, Ready, Scene

HOUR, YEAR = 3600, 365 * 86400
LONG_S = 1800
WATCH_S = 300
NS = 10**9
# No measure of speed (that is printed): what tells the end by one clock from that by the other, which is far more away.
SLACK_S = 30.0


class Wrong(Exception):  # noqa: N818 - says what is so
    """A case did not hold; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Case:
    """``play`` returns what it measured, and raises Wrong. ``quick``: also in a quick run."""

    name: str
    play: Callable[[Scene], str]
    quick: bool = False


def chosen(quick: bool, name: str) -> list[Case]:
    """The cases of a run, those whose name has ``name`` in it."""
    return [case for case in CASES if (case.quick or not quick) and name in case.name]


def play(ready: Ready, case: Case) -> tuple[list[str], str]:
    """What went wrong, and what was measured. Whatever a case does, at its end nothing of any grant may be left."""
    scene = ready.thaw()
    try:
        try:
            figure = case.play(scene)
        except Wrong as wrong:
            return [str(wrong)], ""
        left = [*(f"left: {line}" for line in scene.unclean()), *scene.bad_books()]
        return left + (["the key is taken after the end"] if scene.asked_sshd() else []), figure
    finally:
        scene.machine.stop()


def _set_forward(scene: Scene) -> str:
    claims = _open(scene, LONG_S)
    seen = _watched(scene, HOUR, [])
    return _ended(scene, claims, seen, moved_s=HOUR, most_s=None)


def _set_back(scene: Scene) -> str:
    return _by_the_boot_clock(scene, -HOUR, [])


def _many_steps(scene: Scene) -> str:
    dice = random.Random(3)
    return _by_the_boot_clock(scene, 0, [dice.uniform(-2.0, 0.5) for _ in range(150)])


def _small_steps_back(scene: Scene) -> str:
    return _by_the_boot_clock(scene, 0, [-0.2] * 300)


def _by_the_boot_clock(scene: Scene, step_s: float, steps: list[float]) -> str:
    """A short grant, and a clock that would keep it: it dies when its lifetime is over by the boot clock."""
    before = scene.inside("clocks")
    claims = _open(scene, 40)
    seen = _watched(scene, step_s, steps)
    due = before[1] + claims["exp"] * NS - before[0]
    return _ended(scene, claims, seen, moved_s=(step_s + sum(steps)), most_s=SLACK_S, due=due)


def _pending_forward_and_back(scene: Scene) -> str:
    """Its time comes by a clock set forward; set back again, it has its lifetime and no more."""
    lifetime = 30
    claims = scene.open(lifetime, delay=HOUR, state="pending")
    scene.machine.set_clock(claims["nbf"] + 0.5)
    opened = scene.inside("clocks")[1]
    scene.machine.wait_for(lambda: scene.states() == {claims["jti"]: "open"}, what="it opens")
    scene.inside("live_as", ALICE)
    seen = _watched(scene, -HOUR, [])
    return _ended(scene, claims, seen, moved_s=-HOUR, most_s=SLACK_S, due=opened + lifetime * NS)


def _pending_set_back(scene: Scene) -> str:
    """Its time does not come any more before its end has: it never opens."""
    claims = scene.open(20, delay=20, state="pending")
    scene.machine.step_clock(-HOUR)
    scene.wait_over()
    if (opened := scene.receipt(claims["jti"])["opened"]) is not None:
        raise Wrong(f"it opened at {opened}")
    return "never opened"


def _daemon_down_set_back(scene: Scene) -> str:
    return _daemon_down(scene, -HOUR)


def _daemon_down_set_forward(scene: Scene) -> str:
    return _daemon_down(scene, HOUR)


def _daemon_down(scene: Scene, step_s: int) -> str:
    """The clock is set while no daemon runs; in the same boot the journal still knows the boot clock's end."""
    before = scene.inside("clocks")
    claims = _open(scene, 40 if step_s < 0 else LONG_S)
    scene.machine.run(["systemctl", "stop", UNIT])
    scene.machine.step_clock(step_s)
    scene.machine.run(["systemctl", "start", "--no-block", UNIT])
    seen = _watched(scene, 0, [])
    scene.wait_ready()
    due = before[1] + claims["exp"] * NS - before[0] if step_s < 0 else None
    return _ended(scene, claims, seen, moved_s=step_s, most_s=None, due=due)


def _reboot_set_back(scene: Scene) -> str:
    return _reboot(scene, clean=True)


def _power_cut_set_back(scene: Scene) -> str:
    return _reboot(scene, clean=False)


def _reboot(scene: Scene, clean: bool) -> str:
    """Set back across a reboot: what it has lived counts; after a cut all but the seconds since the last mark does."""
    lifetime, unmarked = 180, 0 if clean else 10
    claims = _open(scene, lifetime)
    _pass(scene, 15)
    left_before = scene.seconds_left()[0]
    if clean:
        scene.machine.run(["systemctl", "stop", UNIT])
        scene.machine.run("sync")
    now = scene.machine.clock_now()
    scene.machine.power_cut()
    scene.machine.start(int(now) - HOUR)
    scene.wait_ready()
    up_s = scene.inside("clocks")[1] / NS
    left = scene.seconds_left()
    if left and left[0] > left_before - up_s + unmarked + 2:
        raise Wrong(f"{left_before} s were left, {up_s:.0f} s after the boot with the clock set back {left[0]} s are")
    scene.wait_over()
    if (cause := scene.receipt(claims["jti"])["cause"]) != "expired":
        raise Wrong(f"it ended as {cause}")
    return f"{left_before} s left before, {left[0] if left else 0} s after {up_s:.0f} s of the new boot"


def _reboot_forward(scene: Scene) -> str:
    """The clock is an hour ahead after a reboot: it is over before sshd takes anybody in."""
    claims = _open(scene, LONG_S)
    now = scene.machine.clock_now()
    scene.machine.power_cut()
    scene.machine.start(int(now) + HOUR)
    knocking = scene.knock()
    scene.machine.wait_up()
    scene.wait_over()
    knocking.stop()
    if knocking.accepted:
        raise Wrong("the key was taken after T")
    return f"{knocking.refused} logins refused during the boot; cause {scene.receipt(claims['jti'])['cause']}"


def _years_ahead_once(scene: Scene) -> str:
    """A clock that was years ahead and is right again ends what was live then, and nothing that came after, nor at a reboot."""
    first = _open(scene, LONG_S)
    scene.machine.step_clock(10 * YEAR)
    scene.wait_over()
    scene.machine.step_clock(-10 * YEAR)
    second = scene.open(LONG_S)
    now = scene.machine.clock_now()
    scene.machine.run("sync")
    scene.machine.power_cut()
    scene.machine.start(int(now) + 1)
    scene.wait_ready()
    scene.machine.wait_for(lambda: scene.states() == {second["jti"]: "open"}, what=f"it stands again: {scene.ask('status')}")
    left = scene.seconds_left()[0]
    scene.ask("revoke", all=True)
    del first
    return f"{left} of {LONG_S} s left after the reboot"


def _taken_in_while_behind(scene: Scene) -> str:
    """A grant that came in while the clock was an hour behind ends when that is put right, if its exp has passed by then."""
    scene.machine.step_clock(-HOUR)
    claims = _open(scene, LONG_S)
    seen = _watched(scene, HOUR, [])
    return _ended(scene, claims, seen, moved_s=HOUR, most_s=None)


def _sleep_past_the_end(scene: Scene) -> str:
    """Suspended before T, woken after it: on waking the doors shut at once."""
    claims = _open(scene, 45)
    watch = _Beside(lambda: _watched(scene, 0, []))
    time.sleep(2.0)
    scene.machine.suspend()
    if scene.machine.clock_now() > claims["exp"] - 1:
        raise Wrong("it took too long to fall asleep for this case to mean anything")
    time.sleep(max(0.0, claims["exp"] + 6 - scene.machine.clock_now()))
    scene.machine.wake()
    seen = watch.result()
    if seen["resumed"] is None or seen["dead"] is None:
        raise Wrong(f"asleep and awake, or dead, was not seen: {seen}")
    taken = scene.accepts_key()
    scene.wait_over()
    if taken:
        raise Wrong("the key was taken after T")
    late = scene.receipt(claims["jti"])["lateness_ms"]
    return f"last process dead {max(0, seen['dead'] - seen['resumed']) / 1e6:.0f} ms after the resume; by the receipt {late}"


def _sleep_and_wake_before(scene: Scene) -> str:
    """Suspended and woken before T: it stands still, and ends on its second."""
    before = scene.inside("clocks")
    claims = _open(scene, 60)
    scene.machine.suspend()
    time.sleep(5)
    scene.machine.wake()
    if scene.states() != {claims["jti"]: "open"}:
        raise Wrong(f"it does not stand after the sleep: {scene.states()}")
    seen = _watched(scene, 0, [])
    due = before[1] + claims["exp"] * NS - before[0]
    # The clock chip counts whole seconds, so what a sleep took is known to a second only.
    return _ended(scene, claims, seen, moved_s=None, most_s=SLACK_S, due=due)


def _asleep_with_the_clock_set_back(scene: Scene) -> str:
    """The clock set back, then asleep past the end by the boot clock: that runs on in sleep."""
    claims = _open(scene, 45)
    scene.machine.step_clock(-HOUR)
    watch = _Beside(lambda: _watched(scene, 0, []))
    time.sleep(2.0)
    scene.machine.suspend()
    time.sleep(max(0.0, claims["exp"] + 6 - HOUR - scene.machine.clock_now()))
    scene.machine.wake()
    return _ended(scene, claims, watch.result(), moved_s=-HOUR, most_s=None)


def _daemon_dead_set_back(scene: Scene) -> str:
    """Not promised, and shown: with no daemon at all, the backstops count on the wall clock, and on that they hold."""
    _open(scene, 40)
    scene.machine.run(["systemctl", "mask", "--now", UNIT])
    scene.machine.step_clock(-HOUR)
    _pass(scene, 45)
    kept = scene.accepts_key()
    scene.machine.step_clock(HOUR)
    if scene.accepts_key():
        raise Wrong("the key was taken after T by the wall clock")
    scene.machine.run(["systemctl", "unmask", UNIT])
    scene.machine.run(["systemctl", "start", UNIT])
    scene.wait_over()
    said = "still taken" if kept else "refused"
    return f"after its lifetime, the clock an hour behind, the key was {said}; refused by the wall clock's T"


def _watched(scene: Scene, step_s: float, steps: list[float]) -> dict[str, Any]:
    """See tests.vm.inside.end_of."""
    seen: dict[str, Any] = scene.inside("end_of", WATCH_S, step_s, steps, timeout=4 * PATIENCE_S)
    return seen


def _pass(scene: Scene, seconds: float) -> None:
    """Let so much of the machine's own time go by."""
    end_ns = scene.inside("clocks")[1] + int(seconds * NS)
    scene.machine.wait_for(lambda: scene.inside("clocks")[1] >= end_ns, step=0.5)


def _open(scene: Scene, lifetime: int) -> Claims:
    claims = scene.open(lifetime)
    scene.inside("live_as", ALICE)
    return claims


def _ended(
    scene: Scene, claims: Claims, seen: dict[str, Any], *, moved_s: float | None, most_s: float | None, due: int | None = None
) -> str:
    """The tenant's processes died in time (``due``: on the boot clock; else at once), the books say so, and what moved."""
    if seen["dead"] is None:
        raise Wrong(f"a tenant's process lives {WATCH_S} s later")
    late_ms = (seen["dead"] - (due if due is not None else seen["began"])) / 1e6
    if most_s is not None and late_ms > most_s * 1000:
        raise Wrong(f"the last process died {late_ms:.0f} ms after its lifetime")
    scene.wait_over()
    found = scene.receipt(claims["jti"])
    if found["cause"] != "expired":
        raise Wrong(f"the receipt says it ended as {found['cause']}")
    moved = found["clock_moved_ms"] / 1000
    if moved_s is not None and abs(moved - moved_s) > 2.0:
        raise Wrong(f"the receipt says the clock was moved {moved:.1f} s, it was {moved_s:.1f} s")
    what = "its lifetime by the boot clock" if due is not None else "the clock was set"
    late = found["lateness_ms"]["last_process"]
    return f"last process dead {late_ms:+.0f} ms after {what}; by the receipt {late} ms late, clock moved {moved:+.1f} s"


class _Beside:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], dict[str, Any]]) -> None:
        self._found: dict[str, Any] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], dict[str, Any]]) -> None:
        try:
            self._found = call()
        except BaseException as error:
            self._error = error

    def result(self) -> dict[str, Any]:
        """What it returned, or its error."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


CASES = (
    Case("clock set forward 1 h while a grant stands", _set_forward, quick=True),
    Case("clock set back 1 h while a grant stands", _set_back, quick=True),
    Case("clock set 150 times, mostly back", _many_steps),
    Case("clock set back 0.2 s 300 times", _small_steps_back),
    Case("pending grant opened by a clock set forward, then back", _pending_forward_and_back, quick=True),
    Case("clock set back 1 h before a pending grant's time", _pending_set_back),
    Case("clock set back 1 h while the daemon is down", _daemon_down_set_back),
    Case("clock set forward 1 h while the daemon is down", _daemon_down_set_forward),
    Case("rebooted with the clock set back 1 h", _reboot_set_back),
    Case("power cut, and back with the clock set back 1 h", _power_cut_set_back, quick=True),
    Case("power cut, and back with the clock set forward 1 h", _reboot_forward),
    Case("clock ten years ahead for a while, then a reboot", _years_ahead_once),
    Case("grant taken in while the clock was an hour behind", _taken_in_while_behind),
    Case("asleep (S3) across the deadline", _sleep_past_the_end, quick=True),
    Case("asleep (S3) and awake before the deadline", _sleep_and_wake_before),
    Case("clock set back, then asleep across the lifetime's end", _asleep_with_the_clock_set_back),
    Case("not promised: daemon dead and the clock set back", _daemon_dead_set_back),
)
