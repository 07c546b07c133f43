"""From the deadline to the last new login that sshd accepts: Tidegate, an at-script, the guest agent told at T and by expireOn."""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import paramiko

from benchmarks.frame.row import OURS, Absent, Goal, Row, Run
from benchmarks.ground import Ground
from benchmarks.peers.endings import Endings
from benchmarks.peers.guest_agent import GuestAgent
from benchmarks.rows import lateness
from benchmarks.rows.lateness import AT, GUEST
from examples.demo.watch import LoginProbe, offer_key
from tests.host.scene import account, public, ssh

_BY_ITSELF = "expire"
_CASE = "the last login accepted, after T"
_BEFORE_S, _AFTER_S = 0.8, 0.7
_KNOCKS_S = 1.0
_APART_S, _AHEAD_S = 4.0, 6.0
_HELD_S, _HELD_QUICK_S = 64.0, 12.0  # the guest agent's request is held for a minute
_TURN_S, _FIRST_S = 10.0, 4.0
_A_MINUTE = 5


def measure(run: Run) -> None:
    """Minute by minute a few turns; the guest agent that is left to itself is asked once in a second meanwhile."""
    with lateness.stage(run) as (ground, endings, agent), ThreadPoolExecutor(4) as beside:
        alone = [beside.submit(_left_to_itself, run, ground, agent, number) for number in range(run.times(4, 1))] if agent else []
        left = run.times(5, 1)
        while left:
            now = min(left, _A_MINUTE)
            _minute(run, ground, endings, agent, now)
            left -= now
        for each in alone:
            with contextlib.suppress(Absent):  # told, and no figure: it made no account in time
                each.result()


def _minute(run: Run, ground: Ground, endings: Endings, agent: GuestAgent | None, turns: int) -> None:
    """That many of each way, from the next full minute on."""
    starts_s = time.time() if run.quick else math.ceil((time.time() + 2) / 60) * 60.0  # at needs a full minute to begin
    uids = {}
    for number in range(0 if run.quick else turns):
        login = f"at{int(starts_s)}x{number}"
        uids[number] = login, endings.account(login, public(ground.key))
        endings.queue([login], starts_s, _FIRST_S + number * _TURN_S)
    for number in range(turns):
        due_s = starts_s + _FIRST_S + number * _TURN_S
        run.tell(f"knocking, {number + 1} of {turns}")
        if number in uids:
            login, uid = uids[number]
            _knock(run, ground, AT, login, due_s)
            endings.remove(login, uid)
        _ours(run, ground, due_s + _TURN_S / 3)
        if agent:
            with contextlib.suppress(Absent):
                _told(run, ground, agent, due_s + 2 * _TURN_S / 3)


def _ours(run: Run, ground: Ground, due_s: float) -> None:
    exp = int(due_s)
    jti = ground.scene.open(account("jit-door"), ssh("jit-door", public(ground.key)), exp=exp)
    _knock(run, ground, OURS, "jit-door", exp)
    run.part(_CASE, "its doors shut, by the receipt", "ms", ground.scene.receipt(jti)["lateness_ms"]["doors"])
    ground.host.wait_for(lambda: not ground.scene.status()["grants"], 30, "the grant is over")


def _told(run: Run, ground: Ground, agent: GuestAgent, due_s: float) -> None:
    agent.give("guest-door", public(ground.key))
    _knock(run, ground, GUEST, "guest-door", due_s, lambda: agent.take("guest-door"))
    ground.host.run("sleep 0.3; userdel -f -r guest-door", check=False)


def _knock(run: Run, ground: Ground, way: str, login: str, due_s: float, at_t: Callable[[], None] = lambda: None) -> None:
    """Three clients that try again and again, from before the deadline to after it."""
    time.sleep(max(0.0, due_s - _BEFORE_S - time.time()))
    probe = LoginProbe(ground.host.address, login, ground.key).start()
    timer = threading.Timer(max(0.0, due_s - time.time()), at_t)
    timer.start()
    time.sleep(max(0.0, due_s + _AFTER_S - time.time()))
    probe.stop()
    timer.join()
    if not probe.accepted or not probe.refused:
        run.tell(f"{way}: {len(probe.accepted)} accepted, {len(probe.refused)} refused: no figure")
        return
    run.add(_CASE, way, "ms", max(probe.accepted) / 1e6 - due_s * 1e3)


def _left_to_itself(run: Run, ground: Ground, agent: GuestAgent, number: int) -> None:
    """By ``expireOn`` alone: it looks when its request comes back."""
    login, held_s = f"guest-alone{number}", _HELD_QUICK_S if run.quick else _HELD_S
    time.sleep(number * _APART_S)  # one after the other: it makes accounts slowly, and may miss a change while it does
    due_s = math.ceil(time.time()) + _AHEAD_S
    agent.give(login, public(ground.key), due_s)
    key = paramiko.Ed25519Key.from_private_key_file(str(ground.key))
    time.sleep(max(0.0, due_s - time.time()))
    last_ns = 0
    while time.time() < due_s + held_s:
        answer, offered_ns = offer_key(ground.host.address, login, key)
        if answer is False:
            break
        last_ns = offered_ns if answer else last_ns
        time.sleep(_KNOCKS_S)
    else:
        run.never(_CASE, _BY_ITSELF, "ms", held_s)
        return
    run.add(_CASE, _BY_ITSELF, "ms", last_ns / 1e6 - due_s * 1e3)


ROW = Row(
    name="doors",
    title="Lateness: the last login accepted",
    about="Three clients offer a valid key again and again over the deadline. A figure is the moment when the last key that"
    " sshd then accepted was offered, less the deadline: below zero is before it. The guest agent is told by its "
    "metadata server at the deadline; left to itself, with the key's expireOn, it is tried once in a second.",
    measure=measure,
    goals=(Goal(_CASE, "max", 0.0),),
    ways={**lateness.WAYS, _BY_ITSELF: "GCE's guest agent, by expireOn"},
)
