"""`make demo`: a grant of 20 seconds on a disposable host, from the signature to the receipt, measured from outside.

Two contractors get in by plain ssh, one with a single sudo command, one (break-glass) with a root shell. Both leave
processes behind. At T all of it must be gone. Exits 0 only if every line held.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from examples.demo.scene import ALICE, BOB, Scene, set_up
from examples.demo.timeline import MS, Timeline
from examples.demo.watch import LoginProbe, ProcessWatch
from tests.hosts.errors import HostError
from tests.hosts.fallback import available
from tests.hosts.machine import Host
from tests.hosts.prepare import install_tidegate, install_tidegate_with_this_python
from tests.hosts.snapshot import Snapshot, differences

LIFETIME_S = 20
ROOT_MARKERS = (b"86401", b"86402")
ROOT_SHELL = "setsid sleep 86401 </dev/null >/dev/null 2>&1 & exec sleep 86402"
LEAVE_BEHIND = "nohup sleep 86400 >/dev/null 2>&1 & tmux new-session -d 'sleep 86400'; echo left"


def main() -> None:
    """Run it; prints the timeline, and with --json one object as the last line."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object on stdout; the timeline goes to stderr")
    as_json = parser.parse_args().json
    timeline = Timeline(quiet=as_json)
    try:
        figures = run(timeline)
    except (HostError, RuntimeError, subprocess.SubprocessError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        if as_json:
            print(json.dumps({"verdict": "fail", "error": str(error), "steps": timeline.steps}))
        sys.exit(1)
    verdict = "pass" if timeline.passed else "fail"
    timeline.title(f"\nVerdict: {verdict.upper()}")
    if as_json:
        print(json.dumps({"verdict": verdict, **figures, "steps": timeline.steps}), flush=True)
    sys.exit(0 if timeline.passed else 1)


def run(timeline: Timeline) -> dict[str, object]:
    """The whole story; returns the figures, milliseconds against T (``login_ms``: from the inbox)."""
    capability = available()
    timeline.title(f"A disposable host ({capability.kind}) boots, with Tidegate installed ...")
    whole = capability.kind == "nspawn"
    if not whole:
        timeline.title(f"  not shown here: systemd, logind, user slices and the journal, because {capability.reason}")
    prepare = install_tidegate if whole else install_tidegate_with_this_python
    with capability.host_class().boot(prepare=prepare) as host, tempfile.TemporaryDirectory() as folder:
        allowed = "/usr/bin/systemctl restart cron.service" if whole else "/usr/bin/id -u"
        start = "systemctl start tidegated" if whole else "setsid /usr/sbin/tidegated >/var/log/tidegated.log 2>&1 &"
        scene = set_up(host, Path(folder), allowed, start)
        if whole:
            host.run("systemd-run --quiet --wait true")  # systemd makes its folder of transient units at the first one
        before = host.snapshot()
        return {**_access(scene, timeline), **_aftermath(scene, timeline, before)}


def _access(scene: Scene, timeline: Timeline) -> dict[str, object]:
    token, exp = scene.grant("alice@example.com", ALICE, [scene.allowed], LIFETIME_S)
    root_token, root_exp = scene.grant("bob@example.com", BOB, ["/bin/bash"], exp - int(time.time()))
    timeline.deadline_ns = exp * 1000 * MS
    timeline.title(f"\nTwo grants are signed; they end at T, {LIFETIME_S} s from now. Times are seconds against T.")
    probe = LoginProbe(scene.host.address, ALICE, scene.key(ALICE)).start()
    dropped_ns = scene.drop(token)
    timeline.say("grant for alice dropped into the inbox", at_ns=dropped_ns)
    first_ns = probe.first_welcome(timeout_s=10)
    probe.stop()
    login_ms = None if first_ns is None else round((first_ns - dropped_ns) / MS, 1)
    if login_ms is None:
        raise RuntimeError(f"alice could not log in within 10 s of the inbox{scene.refusal()}")
    timeline.say(f"alice's key accepted by sshd, {login_ms} ms after the inbox", at_ns=first_ns)
    scene.drop(root_token)
    timeline.say(
        f"break-glass grant for bob dropped in: a root shell{'' if root_exp == exp else ' (a second later)'}", ok=root_exp == exp
    )
    _use_access(scene, timeline)
    live = subprocess.Popen(
        scene.host.ssh_argv(ALICE, scene.key(ALICE), options=("-tt",)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    figures = _deadline(scene, timeline, live)
    return {"login_ms": login_ms, **figures}


def _use_access(scene: Scene, timeline: Timeline) -> None:
    """What the contractors do while they may."""
    host = scene.host
    who = host.ssh(ALICE, scene.key(ALICE), "id -un")
    timeline.say("alice logs in with plain ssh", ok=who.stdout.strip() == ALICE)
    done = host.ssh(ALICE, scene.key(ALICE), f"sudo -n {scene.allowed}")
    timeline.say(f"alice runs her one sudo command: {scene.allowed}", ok=done.returncode == 0)
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


def _deadline(scene: Scene, timeline: Timeline, live: "subprocess.Popen[bytes]") -> dict[str, object]:
    """Watch T pass, from outside."""
    host = scene.host
    uids = {int(host.run(f"id -u {login}").stdout) for login in (ALICE, BOB)}
    door = Path(f"/proc/{host.leader}/root/run/tidegate/keys/{ALICE}")
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


def _verdicts(timeline: Timeline, probe: LoginProbe, watch: ProcessWatch, output: bytes, cut_ns: int) -> dict[str, object]:
    last_accept = timeline.against(max(probe.accepted)) if probe.accepted else None
    after = [at_ns for at_ns in probe.refused if at_ns >= timeline.deadline_ns]
    first_refuse = timeline.against(min(after)) if after else None
    doors = timeline.against(watch.doors_ns) if watch.doors_ns else None
    last_process = timeline.against(watch.all_dead_ns) if watch.all_dead_ns else None
    tries = f"{len(probe.accepted)} accepted, {len(probe.refused)} refused"
    timeline.say(
        f"the last key that sshd accepted was offered ({tries})",
        ok=last_accept is not None and last_accept < 0,
        at_ns=max(probe.accepted, default=None),
    )
    timeline.say(
        "the doors are shut: no key is there any more", ok=doors is not None and 0 <= doors < 1000, at_ns=watch.doors_ns or None
    )
    timeline.say("first login refused after T", ok=first_refuse is not None, at_ns=min(after, default=None))
    late = f"; the last seen: {watch.last_seen}" if last_process is None or last_process >= 1000 else ""
    timeline.say(
        f"the last of up to {watch.peak} processes is dead, root's among them{late}",
        ok=last_process is not None and watch.peak > 0 and last_process < 1000,
        at_ns=watch.all_dead_ns or None,
    )
    timeline.say(
        "alice's live session is cut, and she is told why", ok=bool(cut_ns) and b"access has ended" in output, at_ns=cut_ns or None
    )
    return {"last_accept_ms": last_accept, "first_refuse_ms": first_refuse, "doors_ms": doors, "last_process_ms": last_process}


def _receipts(host: Host) -> list[dict[str, Any]]:
    """Both, once what the two left has been searched for: at most 20 s on a host with very many files."""
    give_up = time.monotonic() + 30
    while True:
        found: list[dict[str, Any]] = json.loads(host.run("tidegate receipts list --json").stdout)["receipts"]
        if len(found) == 2 or time.monotonic() > give_up:
            return found
        time.sleep(0.2)


def _aftermath(scene: Scene, timeline: Timeline, before: Snapshot) -> dict[str, object]:
    """After T: nobody gets in, nothing is left, and the receipts hold."""
    host = scene.host
    for login in (ALICE, BOB):
        refused = host.ssh(login, scene.key(login), "true").returncode == 255
        gone = host.run(f"id {login}", check=False).returncode != 0
        timeline.say(f"a new login as {login} is refused, and the account is gone", ok=refused and gone)
    _sleep_until(timeline.deadline_ns + 2500 * MS)
    changed = differences(before, host.snapshot())
    timeline.say(
        "/etc, /home, /run/userdb and the rest are byte-identical to before" + "".join(f"\n      {line}" for line in changed),
        ok=not changed,
    )
    receipts = _receipts(host)
    timeline.say(f"{len(receipts)} receipts are there", ok=len(receipts) == 2)
    for entry in receipts:
        host.write("/root/receipt.jws", entry["jws"])
        done = host.run("tidegate receipts verify /root/receipt.jws", check=False)
        late = entry["claims"]["lateness_ms"]
        what = f"doors {late['doors']} ms, last process {late['last_process']} ms"
        timeline.say(f"the receipt for {entry['claims']['grant']['sub']} verifies, and says: {what}", ok=done.returncode == 0)
    return {}


def _sleep_until(at_ns: int) -> None:
    time.sleep(max(0.0, (at_ns - time.time_ns()) / 1e9))


if __name__ == "__main__":
    main()
