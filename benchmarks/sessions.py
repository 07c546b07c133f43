"""What recording costs: ``python3 benchmarks/sessions.py [--json]``, as root, on a quiet machine; some three minutes.

On a booted test host, recorded and unrecorded sessions in turn: ``ssh host true``, the echo of a key, memory for each idle
terminal. On this machine, with no ssh in between: 100 MB through a terminal, by a bare copy in C between two terminals, by
script(1), by tlog-rec(8) where it is installed, and by the recorder. Medians, with the quartiles beside them; every ratio is of
one run. Changes nothing outside a temporary folder and its own test host.
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.sessions.bed import Bed, Person, booted
from tests.unit.recorder_kit import Rig, Terminal

_TERMINAL_BYTES = 100_000_000
_ROUNDS_THROUGH, _ROUNDS_TRUE, _KEYS, _IDLE = 5, 40, 300, 20
_UNIT = "tidegate-recorder.service"
# Reads from one terminal, writes to another: what a relay that records nothing has to do.
_COPY = r"""
#define _GNU_SOURCE
#include <pty.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int master;
    static char buffer[65536];
    (void)argc;
    pid_t child = forkpty(&master, NULL, NULL, NULL);
    if (child == 0) { execvp(argv[1], argv + 1); _exit(127); }
    for (ssize_t n; (n = read(master, buffer, sizeof buffer)) > 0;)
        for (ssize_t at = 0, put; at < n; at += put)
            if ((put = write(1, buffer + at, n - at)) < 0) return 1;
    waitpid(child, NULL, 0);
    return 0;
}
"""
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
            ways: dict[str, Callable[[], list[str]]] = {"bare": lambda: cat, "recorder": lambda: rig.argv(cat[2])}
            if compiler := shutil.which("cc") or shutil.which("gcc"):
                (folder / "copy.c").write_text(_COPY)
                subprocess.run([compiler, "-O2", "-o", str(folder / "copy"), str(folder / "copy.c"), "-lutil"], check=True)
                ways["c"] = lambda: [str(folder / "copy"), *cat]
            if script := shutil.which("script"):
                ways["script"] = lambda: [script, "-q", "-c", cat[2], str(folder / "typescript")]
            if tlog := shutil.which("tlog-rec"):
                ways["tlog"] = lambda: [tlog, "--writer=file", f"--file-path={folder / 'tlog'}", *cat]
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for number in range(_ROUNDS_THROUGH):
                for way, argv in ways.items():
                    rates[way].append(_rate(argv(), blob.stat().st_size))
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
    took: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        open_ = {way: stack.enter_context(_typing(who)) for way, who in (("recorded", bed.recorded), ("plain", bed.plain))}
        for way in open_:
            took[way] = []
        for number in range(_KEYS):
            for way, master in open_.items():
                time.sleep(0.01)
                began = time.monotonic()
                os.write(master, b"abcdefgh"[number % 8 : number % 8 + 1])
                if not select.select([master], [], [], 5.0)[0]:
                    raise RuntimeError("no echo")
                os.read(master, 4096)
                took[way].append((time.monotonic() - began) * 1000)
    added = statistics.median(took["recorded"]) - statistics.median(took["plain"])
    return {f"echo_{way}_ms": _spread(took[way]) for way in took} | {"echo_added_ms": round(added, 3)}


@contextlib.contextmanager
def _typing(person: Person) -> Iterator[int]:
    """A terminal with an ssh client on it, that stands in ``cat``."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    client = subprocess.Popen(
        person.argv("echo rea''dy; cat > /dev/null", ("-tt",)), stdin=slave, stdout=slave, stderr=slave, env=person.environment()
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
    """KiB (PSS) that each idle recorded terminal adds to the recorder and its helpers."""
    before = _pss(bed)
    with contextlib.ExitStack() as stack:
        for _ in range(_IDLE):
            stack.enter_context(_typing(bed.recorded))
        time.sleep(1)
        each = (_pss(bed) - before) / _IDLE
    return {"recorder_pss_kib": before, "session_pss_kib": round(each)}


def _pss(bed: Bed) -> int:
    pids = bed.host.run(f"cat /sys/fs/cgroup$(systemctl show -p ControlGroup --value {_UNIT})/cgroup.procs").stdout.split()
    text = bed.host.run(["cat", *(f"/proc/{pid}/smaps_rollup" for pid in pids)]).stdout
    return sum(int(found) for found in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE))


def _spread(values: Sequence[float]) -> Figures:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": round(middle, 2), "quartiles": [round(low, 2), round(high, 2)], "n": len(values)}


if __name__ == "__main__":
    main()
