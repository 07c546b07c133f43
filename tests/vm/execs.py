"""What tenants run, as the kernel's audit tells it: nothing may be missing, or the file and the receipt say that something is.

Audit is not namespaced: it is the machine's, and its rules would be too. So it is tried in a machine of its own and nowhere else.
"""

import hashlib
import json
import time
from typing import Any

from tests.vm.clocks import LONG_S, Case, Wrong
from tests.vm.scene import ALICE, ALLOWED, Claims, Scene

MANY, BY_SUDO = 5000, 50
FOLDER = "/var/lib/tidegate/execs"
_PATIENT = ("-o", "ConnectTimeout=300")
# Run by the tenant, over ssh: so many programs, each with a number that tells it and a status that follows from it.
_LOOP = """
import os, resource, sys, time
first, count, size = map(int, sys.argv[1:4])
began = time.monotonic()
for number in range(first, first + count):
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {number % 200}", f"n{number}", "x" * size], {})
    os.waitpid(pid, 0)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
own = resource.getrusage(resource.RUSAGE_SELF)
print(time.monotonic() - began, usage.ru_utime + usage.ru_stime + own.ru_utime + own.ru_stime)
"""
# What somebody would write who wants to be taken for another record, or to be lost.
_HOSTILE = (
    b'two\nlines" a1="x',
    b'type=EXECVE msg=audit(1.000:1): argc=1 a0="/bin/true"',
    b'key="tidegate" auid=0 success=no',
    b"\xff\xfe not utf-8 \x80",
    b"\x1b]0;title\x07\x1b[2J",
    "\u202egnp.exe \u00e9".encode(),
    b"",
    b"(null)",
    b"6162",
    b"a0=41 a1[0]=42",
)
_HOSTILE_RUN = """
import os, sys
words = [bytes.fromhex(word) for word in sys.argv[1:]]
for argv in (words, [b"big", b"x" * 120000, b"y y" * 30000], [b"many"] + [b"z%d" % n for n in range(20000)]):
    pid = os.posix_spawn("/bin/true", argv, {})
    os.waitpid(pid, 0)
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "kill -9 $$"], {})
os.waitpid(pid, 0)
try:
    os.posix_spawn("/etc/passwd", ["not a program"], {})
except OSError:
    pass
"""


def _everything(scene: Scene) -> str:
    """5,000 programs in one login, 50 of them by sudo: every one is there, with how it ended, and under one session number."""
    claims = _open(scene)
    _ssh(scene, _LOOP, 0, MANY - BY_SUDO, 0)
    _sudo(scene, BY_SUDO)
    found = _ended(scene, claims)
    direct = {line["argv"][3]: line for line in _of(found, "exec") if line["exe"] == "/usr/bin/dash" and len(line["argv"]) == 5}
    exits = {line["serial"]: line for line in _of(found, "exit")}
    missing = [number for number in range(MANY - BY_SUDO) if f"n{number}" not in direct]
    _must(not missing, f"{len(missing)} of {MANY - BY_SUDO} are missing, such as {missing[:3]}; gaps: {_of(found, 'gap')[:3]}")
    ended = [exits.get(direct[f"n{number}"]["serial"], {}).get("status") for number in range(MANY - BY_SUDO)]
    wrong = [number for number, status in enumerate(ended) if status != number % 200]
    _must(not wrong, f"{len(wrong)} have no exit status or a wrong one, such as {wrong[:3]}")
    _must(len({line["ses"] for line in direct.values()}) == 1, "one login has several session numbers")
    by_root = [line for line in _of(found, "exec") if line["exe"] == ALLOWED and line["uid"] == 0]
    _must(len(by_root) == BY_SUDO, f"{len(by_root)} of {BY_SUDO} by sudo")
    tenants = {line["auid"] for line in by_root} | {line["auid"] for line in direct.values()}
    _must(len(tenants) == 1 and min(tenants) >= 70000, f"by the login uids {tenants}")
    asked = {line["pid"]: line["ses"] for line in _of(found, "exec") if line["exe"] == "/usr/bin/sudo"}
    _must(all(asked.get(line["ppid"], line["ses"]) == line["ses"] for line in by_root), "sudo changed the session number")
    _must(not _of(found, "gap"), f"gaps: {_of(found, 'gap')[:3]}")
    told = scene.receipt(claims["jti"])["executions"]
    return f"{told['execs']} execs, {len(exits)} exit statuses, {told['bytes']} bytes, {told['gaps']} gaps"


def _hostile(scene: Scene) -> str:
    """Arguments are what they were, byte by byte, as far as they are kept; and no line of the file is anything but JSON of ours."""
    claims = _open(scene)
    _ssh(scene, _HOSTILE_RUN, *(word.hex() or "''" for word in _HOSTILE))
    found = _ended(scene, claims)
    execs = _of(found, "exec")
    wanted = [word.decode("utf-8", "surrogateescape") for word in _HOSTILE]
    _must(any(line["argv"] == wanted for line in execs), f"none of {[line['argv'] for line in execs][-8:-5]}")
    big = next((line for line in execs if line["argv"][:1] == ["big"]), None)
    _must(big is not None and big["cut"] and big["argc"] == 3 and len(big["argv"][1]) > 4096, f"a big argument: {str(big)[:300]}")
    many = next((line for line in execs if line["argv"][:1] == ["many"]), None)
    _must(many is not None and many["cut"] and many["argc"] == 20001, f"many arguments: {str(many)[:300]}")
    itself = [line["serial"] for line in execs if "kill -9 $$" in line["argv"]]
    killed = [line.get("signal") for line in _of(found, "exit") if line["serial"] in itself]
    _must(killed == [9], f"ended by signal 9: {killed}")
    refused = [line for line in execs if not line["success"]]
    _must([(line["file"], line["error"]) for line in refused] == [("/etc/passwd", "EACCES")], f"refused: {refused}")
    _must(not _of(found, "gap"), f"gaps: {_of(found, 'gap')[:3]}")
    return f"{len(execs)} execs"


def _stalled(scene: Scene) -> str:
    """A reader that stands still for 1,000 execs loses none; one that stands still for more than its buffer holds says so."""
    claims = _open(scene)
    reader = _reader(scene)
    _signal(scene, reader, "STOP")
    _ssh(scene, _LOOP, 0, 1000, 0)
    _signal(scene, reader, "CONT")
    scene.machine.wait_for(lambda: _count(scene, '"n999"') == 1, what="it has caught up")
    _must(_count(scene, '"type":"gap"') == 0, "a gap, though all went into the buffer")
    _signal(scene, reader, "STOP")
    _ssh(scene, _LOOP, 5000, 800, 100_000)
    _signal(scene, reader, "CONT")
    scene.machine.wait_for(lambda: _count(scene, '"type":"gap"') >= 1, what="it tells what it lost")
    _let_it_read(scene)  # while its buffer is full the next event would be lost as well
    _ssh(scene, _LOOP, 6000, 1, 0)  # how many, the next event's number tells
    scene.machine.wait_for(lambda: _count(scene, '"n6000"') == 1, what="it has caught up again")
    found = _ended(scene, claims)
    gaps = _of(found, "gap")
    seen = {line["argv"][3] for line in _of(found, "exec") if len(line["argv"]) > 3}
    lost = sum(f"n{number}" not in seen for number in range(5000, 5800))
    _must(lost > 0, "the buffer held all of it: nothing was tried")
    _must(any("buffer" in line["why"] for line in gaps), f"{lost} are lost, and no gap says so: {gaps[:3]}")
    counted = sum(line["lost"] or 0 for line in gaps)
    _must(counted >= lost - 1, f"{lost} are lost, the gaps say {counted}")  # one whose beginning came may be told without its end
    told = scene.receipt(claims["jti"])["executions"]
    _must(told["gaps"] == len(gaps) and told["lost"] == counted, f"the receipt says {told}")
    return f"1,000 execs held for a stalled reader; of 800 with 100 KB each {lost} lost, {counted} told as lost in {len(gaps)} gaps"


def _killed(scene: Scene) -> str:
    """The reader is killed, then the daemon, then somebody takes our rules out: it goes on each time, and says so."""
    claims = _open(scene)
    _ssh(scene, _LOOP, 0, 20, 0)
    scene.machine.wait_for(lambda: _count(scene, '"n19"') == 1, what="it is written down")
    first = _reader(scene)
    _signal(scene, first, "KILL")
    scene.machine.wait_for(lambda: _reader(scene) not in {0, first}, what="another reader")
    _ssh(scene, _LOOP, 100, 20, 0)
    scene.machine.wait_for(lambda: _count(scene, '"n119"') == 1, what="the next reader writes")
    scene.machine.run(["systemctl", "kill", "-s", "KILL", "tidegated"])
    scene.wait_ready()
    scene.machine.wait_for(lambda: _reader(scene), what="the next daemon's reader")
    _ssh(scene, _LOOP, 200, 20, 0)
    _audit(scene, "rules.take_out(audit, was_off=False)")
    scene.machine.wait_for(lambda: _audit(scene, "result = len(audit.rules())"), what="the rules are back")
    _ssh(scene, _LOOP, 300, 20, 0)
    found = _ended(scene, claims)
    seen = {line["argv"][3] for line in _of(found, "exec") if len(line["argv"]) > 3}
    wanted = {f"n{first + number}" for first in (0, 100, 200, 300) for number in range(20)}
    _must(wanted <= seen, f"missing: {sorted(wanted - seen)}")
    whys = [line["why"] for line in _of(found, "gap")]
    _must(sum("nobody read" in why for why in whys) == 2 and any("rules" in why for why in whys), f"gaps: {whys}")
    return f"{len(whys)} gaps told: {'; '.join(whys)}"


def _cost(scene: Scene) -> str:
    """What an exec costs with our rules, over none. By the processor time of the tenant's own processes: there is one processor."""
    claims = _open(scene)
    _ssh(scene, _LOOP, 0, 100, 0)
    figures: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for _ in range(3):
        for captured in (True, False):
            if not captured:
                _signal(scene, _reader(scene), "STOP")  # or it would put the rules back
                _audit(scene, "rules.take_out(audit, was_off=True)")
            took, used = map(float, _ssh(scene, _LOOP, 0, 500, 0).split())
            figures[captured].append((took, used))
            if not captured:
                _audit(scene, "rules.put(audit, 70000, 99999)")
                _signal(scene, _reader(scene), "CONT")
    _ended(scene, claims)
    ratios = [min(each[which] for each in figures[True]) / min(each[which] for each in figures[False]) for which in (0, 1)]
    return f"time on one processor that the reader shares {ratios[0]:.2f}, the tenant's own processor time {ratios[1]:.2f}"


def _open(scene: Scene) -> Claims:
    """A grant, on a machine whose journald does not read audit too: under emulation that would be most of the work."""
    scene.machine.run("systemctl mask --runtime --now --quiet systemd-journald-audit.socket && systemctl restart systemd-journald")
    return scene.open(LONG_S)


def _ended(scene: Scene, claims: Claims) -> list[dict[str, Any]]:
    """Revoke it; the lines of its file, which is the one that the receipt means. Nothing of ours is left in the kernel."""
    scene.ask("revoke", jti=claims["jti"])
    scene.wait_over()
    told = scene.receipt(claims["jti"])["executions"]
    _must(told.get("absent") == "", f"not captured: {told}")
    text = scene.machine.run(["cat", f"{FOLDER}/{told['file']}"]).stdout.encode()
    _must(hashlib.sha256(text[: told["bytes"]]).hexdigest() == told["sha256"] and len(text) == told["bytes"], "the file is another")
    found = [json.loads(line) for line in text.splitlines()]
    _must(found[0]["type"] == "begin" and found[-1]["type"] == "end", f"from {found[0]['type']} to {found[-1]['type']}")
    _must(len(_of(found, "exec")) == told["execs"], f"{len(_of(found, 'exec'))} lines, {told['execs']} told")
    _must(_audit(scene, "result = [len(audit.rules()), audit.status().enabled]") == [0, 0], "rules or audit itself were left on")
    return found


def _of(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in found if line["type"] == kind]


def _must(so: bool, what: str) -> None:
    if not so:
        raise Wrong(what)


def _ssh(scene: Scene, source: str, *arguments: object) -> str:
    command = " ".join(["python3", "-", *map(str, arguments)])
    done = scene.machine.ssh(ALICE, scene.keys.login, command, timeout=900, options=_PATIENT, input=source)
    _must(done.returncode == 0, f"ssh: {done.stderr[-500:]}")
    return str(done.stdout)


def _sudo(scene: Scene, count: int) -> None:
    command = f"for i in $(seq {count}); do sudo -n {ALLOWED} >/dev/null || exit 9; done"
    done = scene.machine.ssh(ALICE, scene.keys.login, command, timeout=900, options=_PATIENT)
    _must(done.returncode == 0, f"sudo: {done.stderr[-500:]}")


def _let_it_read(scene: Scene) -> None:
    """Wait until what the reader has written down grows no more."""
    before, now = -1, _count(scene, '"type":"exec"')
    while now != before:
        time.sleep(10)
        before, now = now, _count(scene, '"type":"exec"')


def _count(scene: Scene, text: str) -> int:
    return int(scene.machine.run(["sh", "-c", f"cat {FOLDER}/* | grep -cF -- '{text}'"], check=False).stdout or 0)


def _reader(scene: Scene) -> int:
    """Its process id; 0 when there is none."""
    found = scene.machine.run(["pgrep", "-f", "sessions/execs/reader.py"], check=False).stdout.split()
    return int(found[0]) if found else 0


def _signal(scene: Scene, pid: int, name: str) -> None:
    scene.machine.run(["kill", f"-{name}", str(pid)])


def _audit(scene: Scene, source: str) -> Any:
    """By Tidegate's own code, in the machine."""
    head = 'import sys\nsys.path.insert(0, "/usr/lib/tidegate")\nfrom agent.host.kaudit import netlink, rules\nresult = None\n'
    return scene.machine.python(f"{head}with netlink.Audit() as audit:\n    {source}\n")


CASES = (
    Case("5,000 execs, some by sudo", _everything),
    Case("execs with arguments made to mislead", _hostile, quick=True),
    Case("execs with a stalled reader", _stalled),
    Case("execs while reader and daemon are killed and rules taken out", _killed, quick=True),
    Case("what an exec costs with capture", _cost),
)


def chosen(quick: bool, name: str) -> list[Case]:
    """The cases of a run, those whose name has ``name`` in it."""
    return [case for case in CASES if (case.quick or not quick) and name in case.name]
