"""What recording costs: ``python3 benchmarks/sessions.py [--json]``, as root, on a quiet machine; some three minutes.

On a booted test host, recorded and unrecorded sessions in turn: ``ssh host true``, the echo of a key (also through a bare copy in C
between two terminals, which is the limit), memory for each idle terminal. On this machine, with no ssh in between: 100 MB through a
terminal, by that copy, by script(1), by tlog-rec(8), and by the recorder. Medians, with the quartiles beside them; every ratio is
of one run. Changes nothing outside a temporary folder and its own test host.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.others import Absent, copy_in_c, script, tlog_rec
from tests.sessions.bed import Bed, Person, booted
from tests.unit.recorder_kit import Rig, Terminal

_TERMINAL_BYTES = 100_000_000
_ROUNDS_THROUGH, _ROUNDS_TRUE, _KEYS, _IDLE = 5, 40, 300, 20
_UNIT = "tidegate-recorder.service"
Figures = dict[str, object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object instead of lines")
    parser.add_argument("--only", choices=("terminal", "host"), help="half of it")
    asked = parser.parse_args()
    found: Figures = {}
    if asked.only != "host":
        found |= through_a_terminal()
    if asked.only != "terminal":
        with booted() as bed:
            found |= logins(bed) | echoes(bed) | memory(bed)
    if asked.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write("".join(f"{name:32} {value}\n" for name, value in found.items()))


# 100 MB through a terminal


def through_a_terminal() -> Figures:
    """MB/s of each way, and the recorder's as ratios."""
    with tempfile.TemporaryDirectory(prefix="tidegate-benchmark-") as name:
        folder = Path(name)
        blob = folder / "blob"
        blob.write_bytes(os.urandom(_TERMINAL_BYTES * 3 // 4).translate(bytes(33 + each % 90 for each in range(256))))
        cat = ["/bin/sh", "-c", f"stty raw -echo; cat {blob}"]
        with _rig(folder) as rig:
            ways = {"bare": cat, "recorder": rig.argv(cat[2])}
            for way, made in (
                ("c", lambda: [str(copy_in_c(folder)), *cat]),
                ("script", lambda: script(folder, cat[2])),
                ("tlog", lambda: tlog_rec(folder, cat)),
            ):
                try:
                    ways[way] = made()
                except Absent as absent:
                    sys.stderr.write(f"left out: {way}: {absent}\n")
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(_ROUNDS_THROUGH):
                for way, argv in ways.items():
                    rates[way].append(_rate(argv, blob.stat().st_size))
                    sys.stderr.write(f"\rterminal: round {number + 1} of {_ROUNDS_THROUGH}, {way}        ")
        sys.stderr.write("\n")
    found: Figures = {f"terminal_{way}_mb_s": _spread(rates[way]) for way in rates}
    ours = statistics.median(rates["recorder"])
    return found | {f"terminal_to_{way}": round(ours / statistics.median(rates[way]), 2) for way in rates if way != "recorder"}


@contextlib.contextmanager
def _rig(folder: Path) -> Iterator[Rig]:
    rig = Rig(folder)
    try:
        yield rig
    finally:
        rig.close()


def _rate(argv: Sequence[str], size: int) -> float:
    """MB/s, from the first byte shown to the last."""
    terminal = Terminal(list(argv), {"SHELL": "/bin/sh"})
    seen, began = 0, 0.0
    for data in terminal.pieces():
        began = began or time.monotonic()
        seen += len(data)
    took = time.monotonic() - began
    terminal.status()
    os.close(terminal.master)
    if seen < size:
        raise RuntimeError(f"{argv}: {seen} of {size} bytes came through")
    return seen / took / 1e6


# On a host


def logins(bed: Bed) -> Figures:
    """Milliseconds of ``ssh host true``."""
    took: dict[str, list[float]] = {"recorded": [], "plain": []}
    for number in range(_ROUNDS_TRUE + 3):
        for way, person in (("recorded", bed.recorded), ("plain", bed.plain)):
            began = time.monotonic()
            if person.ssh("true").returncode != 0:
                raise RuntimeError(f"{person.login} does not get in")
            if number >= 3:  # the first ones warm caches
                took[way].append((time.monotonic() - began) * 1000)
    ratio = statistics.median(took["recorded"]) / statistics.median(took["plain"])
    return {f"true_{way}_ms": _spread(took[way]) for way in took} | {"true_ratio": round(ratio, 3)}


def echoes(bed: Bed) -> Figures:
    """Milliseconds from a key to its echo, as the client's terminal sees it."""
    ways = {"recorded": (bed.recorded, ""), "plain": (bed.plain, ""), "copied": (bed.plain, _copy_on(bed))}
    took: dict[str, list[float]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        open_ = {way: stack.enter_context(_typing(*how)) for way, how in ways.items()}
        for number in range(_KEYS):
            for way, master in open_.items():
                time.sleep(0.01)
                began = time.monotonic()
                os.write(master, b"abcdefgh"[number % 8 : number % 8 + 1])
                if not select.select([master], [], [], 5.0)[0]:
                    raise RuntimeError("no echo")
                os.read(master, 4096)
                took[way].append((time.monotonic() - began) * 1000)
    plain = statistics.median(took["plain"])
    added = {f"echo_added_{way}_ms": round(statistics.median(took[way]) - plain, 3) for way in took if way != "plain"}
    return {f"echo_{way}_ms": _spread(took[way]) for way in took} | added


def _copy_on(bed: Bed) -> str:
    """The bare copy's path on the host."""
    with tempfile.TemporaryDirectory(prefix="tidegate-benchmark-") as name:
        program = copy_in_c(Path(name))
        there = f"/usr/local/bin/{program.name}"
        shutil.copy(program, f"/proc/{bed.host.leader}/root{there}")
    return there


@contextlib.contextmanager
def _typing(person: Person, around: str = "") -> Iterator[int]:
    """A terminal with an ssh client on it, that stands in ``cat``; ``around`` is a program between the two."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    client = subprocess.Popen(
        person.argv(f"{around} sh -c 'echo ready; cat > /dev/null'", ("-tt",)),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=person.environment(),
    )
    os.close(slave)
    try:
        shown = b""
        while b"ready" not in shown:
            shown += os.read(master, 4096)
        time.sleep(0.3)
        while select.select([master], [], [], 0)[0]:
            os.read(master, 4096)
        yield master
    finally:
        client.terminate()
        client.wait()
        os.close(master)


def memory(bed: Bed) -> Figures:
    """KiB (PSS) that each idle recorded terminal adds to the recorder and its helpers, its waiter below sshd among them."""
    before = _pss(bed)
    with contextlib.ExitStack() as stack:
        for _ in range(_IDLE):
            stack.enter_context(_typing(bed.recorded))
        time.sleep(1)
        each = (_pss(bed) - before) / _IDLE
    return {"recorder_pss_kib": before, "session_pss_kib": round(each)}


def _pss(bed: Bed) -> int:
    pids = bed.host.run(f"cat /sys/fs/cgroup$(systemctl show -p ControlGroup --value {_UNIT})/cgroup.procs").stdout.split()
    pids += bed.host.run("pgrep -f '^tidegate-(session|window)'", check=False).stdout.split()
    text = bed.host.run(["cat", *(f"/proc/{pid}/smaps_rollup" for pid in set(pids))]).stdout
    return sum(int(found) for found in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE))


def _spread(values: Sequence[float]) -> Figures:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)], "n": len(values)}


if __name__ == "__main__":
    main()
