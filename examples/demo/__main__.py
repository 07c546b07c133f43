"""`make demo`: two accesses on a disposable host, from the request to the receipt, measured from outside.

Alice, a contractor, asks a control plane; Carol approves; a signed grant is pushed to the host; Alice logs in by plain ssh with a
certificate, and Carol follows her session live. Bob breaks the glass for a root shell. Both leave processes behind. At T all of
it must be gone, and the receipts be back at the control plane. Exits 0 only if every line held.
"""

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path

from agent.host.clock import rfc3339
from examples.demo import asking
from examples.demo.command import Figures, run_as_command
from examples.demo.plane import Plane
from examples.demo.scene import ALICE, BOB, HOST_NAME, WITH_SYSTEMD, WITHOUT_SYSTEMD, Scene, machine_address, set_up
from examples.demo.timeline import MS, Timeline
from examples.demo.watch import LoginProbe, ProcessWatch
from tests.hosts.fallback import available
from tests.hosts.prepare import install_tidegate, install_tidegate_with_this_python
from tests.hosts.snapshot import Snapshot, differences

LIFETIME_S = 25
ROOT_MARKERS = (b"86401", b"86402")
ROOT_SHELL = "setsid sleep 86401 </dev/null >/dev/null 2>&1 & exec sleep 86402"
LEAVE_BEHIND = "nohup sleep 86400 >/dev/null 2>&1 & tmux new-session -d 'sleep 86400'; echo left"


def access(timeline: Timeline) -> Figures:
    """Alice's, as examples.demo.picture draws it: ``moments`` in milliseconds against ``deadline``, which is RFC 3339."""
    what = {"who": "alice", "approver": "carol", "host": HOST_NAME, "lifetime_s": LIFETIME_S}
    return {**what, "deadline": rfc3339(timeline.deadline_ns), "moments": timeline.moments}


def run(timeline: Timeline) -> Figures:
    """The whole story; returns the figures, milliseconds against T (``login_ms``: from the approval; ``live_ms``: from the key).

    ``access`` among them is alice's, whole.
    """
    capability = available()
    timeline.title(f"A disposable host ({capability.kind}) boots, with Tidegate installed ...")
    whole = capability.kind == "nspawn"
    if not whole:
        timeline.title(f"  not shown here: systemd, logind, user slices, the journal and recording, because {capability.reason}")
    prepare = install_tidegate if whole else install_tidegate_with_this_python
    way = WITH_SYSTEMD if whole else WITHOUT_SYSTEMD
    with capability.host_class().boot(prepare=prepare) as host, tempfile.TemporaryDirectory() as folder:
        timeline.title("A control plane starts; the host enrols by a token that is good once; its courier connects ...")
        with Plane(Path(folder), machine_address(host), way.allowed, recorded=way.recorded) as plane:
            scene = set_up(host, plane, way)
            if whole:
                host.run("systemd-run --quiet --wait true")  # systemd makes its folder of transient units at the first one
            before = host.snapshot()
            figures = _access(scene, timeline)
            _aftermath(scene, timeline, before)
            return {**figures, "access": access(timeline)}


def _access(scene: Scene, timeline: Timeline) -> Figures:
    figures = _opened(scene, timeline)
    _use_access(scene, timeline)
    timeline.moments["session"] = timeline.against(time.time_ns())
    live = subprocess.Popen(
        scene.host.ssh_argv(ALICE, scene.key(ALICE), options=("-tt",)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if scene.way.recorded:
        figures["live_ms"] = _followed(scene, timeline, live)
    return {**figures, **_deadline(scene, timeline, live)}


def _opened(scene: Scene, timeline: Timeline) -> Figures:
    """Asked, approved, pushed, in."""
    began_ns = time.time_ns()
    request = asking.ask(scene.alice, "web-restart", LIFETIME_S, "--ticket", "INC-42")
    found = asking.waiting_request(scene.carol)
    came_ns = time.time_ns()
    approved_ns, exp = asking.approve(scene.carol, found)
    timeline.deadline_ns = exp * 1000 * MS
    timeline.title(f"\nA grant of {LIFETIME_S} s is signed when it is approved; it ends at T. Times are seconds against T.")
    timeline.say(f"alice asks for {found['template']} on {HOST_NAME}, with a reason and a ticket", at_ns=began_ns, moment="asked")
    timeline.say("carol, an approver, finds the request", at_ns=came_ns)
    timeline.say("carol approves exactly that; a grant is signed and pushed to the host", at_ns=approved_ns, moment="approved")
    asking.asked(request)
    probe = LoginProbe(scene.host.address, ALICE, scene.key(ALICE)).start()
    first_ns = probe.first_welcome(timeout_s=10)
    probe.stop()
    if first_ns is None:
        raise RuntimeError(f"alice could not log in within 10 s{scene.refusal()}")
    login_ms = round((first_ns - approved_ns) / MS, 1)
    timeline.say(
        f"alice's certificate, for a key made on the spot, accepted by sshd: {login_ms} ms after the approval",
        at_ns=first_ns,
        moment="accepted",
    )
    ends = asking.break_glass(scene, exp)
    timeline.say(
        f"bob breaks the glass: a root shell at once, to be reviewed{'' if ends == exp else ' (a second later)'}", ok=ends == exp
    )
    return {"login_ms": login_ms}


def _use_access(scene: Scene, timeline: Timeline) -> None:
    """What the contractors do while they may."""
    host = scene.host
    who = host.ssh(ALICE, scene.key(ALICE), "id -un")
    timeline.say("alice logs in with plain ssh", ok=who.stdout.strip() == ALICE)
    done = host.ssh(ALICE, scene.key(ALICE), f"sudo -n {scene.way.allowed}")
    timeline.say(f"alice runs her one sudo command: {scene.way.allowed}", ok=done.returncode == 0)
    done = host.ssh(ALICE, scene.key(ALICE), "sudo -n /usr/bin/cat /etc/shadow")
    timeline.say("alice is refused another: cat /etc/shadow", ok=done.returncode != 0 and "root:" not in done.stdout)
    done = host.ssh(ALICE, scene.key(ALICE), LEAVE_BEHIND)
    timeline.say("alice leaves a nohup process and a tmux server behind", ok="left" in done.stdout)
    host.wait_for(lambda: host.ssh(BOB, scene.key(BOB), "true").returncode == 0, timeout=5, what="bob can log in")
    _root_shell(scene)
    deep = host.wait_for(lambda: _marked(scene), timeout=5, what="bob's root processes run")
    timeline.say("bob has a root shell, and leaves a root process in a session of its own", ok=deep)
    status = host.run("tidegate status").stdout
    timeline.say("`tidegate status` lists both", ok=ALICE in status and BOB in status)


def _root_shell(scene: Scene) -> None:
    argv = scene.host.ssh_argv(BOB, scene.key(BOB), "sudo -n /bin/bash")
    shell = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with shell.stdin or contextlib.nullcontext() as stdin:
        if stdin:
            stdin.write(f"{ROOT_SHELL}\n".encode())


def _marked(scene: Scene) -> bool:
    found = scene.host.run("pgrep -c -u root -fx 'sleep 8640[12]'", check=False).stdout.strip()
    return found == str(len(ROOT_MARKERS))


def _followed(scene: Scene, timeline: Timeline, live: "subprocess.Popen[bytes]") -> float | None:
    """Carol looks over alice's shoulder, on the other side of the network."""
    took_ms = asking.follow(scene.carol, ALICE, live)
    words = f"carol follows alice's live session at the control plane: a line is there {took_ms or 0:.0f} ms after it was typed"
    timeline.say(words, ok=took_ms is not None)
    return None if took_ms is None else round(took_ms, 1)


def _deadline(scene: Scene, timeline: Timeline, live: "subprocess.Popen[bytes]") -> Figures:
    """Watch T pass, from outside."""
    host = scene.host
    uids = {int(host.run(f"id -u {login}").stdout) for login in (ALICE, BOB)}
    door = Path(f"/proc/{host.leader}/root/run/tidegate/principals/{ALICE}")
    watch = ProcessWatch(host.leader, uids, ROOT_MARKERS, door).start()
    timeline.say(
        f"alice's live session is open; {watch.marked} root processes of bob's are watched", ok=watch.marked == len(ROOT_MARKERS)
    )
    _sleep_until(timeline.deadline_ns - 1500 * MS)
    probe = LoginProbe(host.address, ALICE, scene.key(ALICE)).start()
    output, cut_ns = _wait_for_cut(live, timeline.deadline_ns)
    _sleep_until(timeline.deadline_ns + 1500 * MS)
    probe.stop()
    watch.stop()
    return _verdicts(timeline, probe, watch, output, cut_ns)


def _wait_for_cut(live: "subprocess.Popen[bytes]", deadline_ns: int) -> tuple[bytes, int]:
    try:
        output, _ = live.communicate(timeout=max(1.0, (deadline_ns - time.time_ns()) / 1e9 + 10))
    except subprocess.TimeoutExpired:
        live.kill()
        output, _ = live.communicate()
        return output, 0
    return output, time.time_ns()


def _verdicts(timeline: Timeline, probe: LoginProbe, watch: ProcessWatch, output: bytes, cut_ns: int) -> Figures:
    last_accept = timeline.against(max(probe.accepted)) if probe.accepted else None
    after = [at_ns for at_ns in probe.refused if at_ns >= timeline.deadline_ns]
    first_refuse = timeline.against(min(after)) if after else None
    doors = timeline.against(watch.doors_ns) if watch.doors_ns else None
    last_process = timeline.against(watch.all_dead_ns) if watch.all_dead_ns else None
    tries = f"{len(probe.accepted)} accepted, {len(probe.refused)} refused"
    timeline.say(
        f"the last certificate that sshd accepted was offered ({tries})",
        ok=last_accept is not None and last_accept < 0,
        at_ns=max(probe.accepted, default=None),
    )
    timeline.say(
        "the doors are shut: no principal is there any more",
        ok=doors is not None and 0 <= doors < 1000,
        at_ns=watch.doors_ns or None,
        moment="doors",
    )
    timeline.say("first login refused after T", ok=first_refuse is not None, at_ns=min(after, default=None), moment="refused")
    late = f"; the last seen: {watch.last_seen}" if last_process is None or last_process >= 1000 else ""
    timeline.say(
        f"the last of up to {watch.peak} processes is dead, root's among them{late}",
        ok=last_process is not None and watch.peak > 0 and last_process < 1000,
        at_ns=watch.all_dead_ns or None,
        moment="last_process",
    )
    timeline.say(
        "alice's live session is cut, and she is told why",
        ok=bool(cut_ns) and b"access has ended" in output,
        at_ns=cut_ns or None,
        moment="cut",
    )
    return {"last_accept_ms": last_accept, "first_refuse_ms": first_refuse, "doors_ms": doors, "last_process_ms": last_process}


def _aftermath(scene: Scene, timeline: Timeline, before: Snapshot) -> None:
    """After T: nobody gets in, nothing is left, and the receipts are at the control plane."""
    host = scene.host
    for login in (ALICE, BOB):
        refused = host.ssh(login, scene.key(login), "true").returncode == 255
        gone = host.run(f"id {login}", check=False).returncode != 0
        timeline.say(f"a new login as {login} is refused, and the account is gone", ok=refused and gone)
    _sleep_until(timeline.deadline_ns + 2500 * MS)
    # /run/tidegate/courier: how the courier stands, which it writes down as it goes on.
    changed = [line for line in differences(before, host.snapshot()) if "/run/tidegate/courier/" not in line]
    timeline.say(
        "/etc, /home, /run/userdb and the rest are byte-identical to before" + "".join(f"\n      {line}" for line in changed),
        ok=not changed,
    )
    for grant in asking.ended_grants(scene):
        genuine, late = asking.receipt_checked(host, grant)
        ok = genuine and grant["cause"] == "expired"
        timeline.say(f"{grant['subject']}'s receipt is at the control plane, verifies, and says: {late}", ok=ok)
        if ok and grant["subject"] == "alice":
            timeline.moments |= {name: timeline.against(at_ns) for name, at_ns in asking.told(grant).items()}


def _sleep_until(at_ns: int) -> None:
    time.sleep(max(0.0, (at_ns - time.time_ns()) / 1e9))


if __name__ == "__main__":
    run_as_command("demo", __doc__, run)
