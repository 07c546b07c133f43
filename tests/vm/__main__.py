"""`make vm`: power cuts, clocks, suspends, execs, on virtual machines of their own. One line a case; exit 1 when one failed."""

import argparse
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.hosts.errors import HostError
from tests.vm import clocks, cuts, execs
from tests.vm.machine import run_folder
from tests.vm.scene import Keys, Ready, ready

T = TypeVar("T")
_CUTS, _CUTS_QUICK = 50, 4


@dataclass(frozen=True, slots=True)
class Round:
    """One case: what is done, and the function that does it; it returns what went wrong, and what was measured."""

    name: str
    play: Callable[[], tuple[list[str], str]]


def main() -> int:
    """0 when all held, 1 when a case failed, 2 for a wrong option."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds of each kind, in some minutes")
    parser.add_argument("--rounds", type=int, help=f"power cuts (default {_CUTS}, quick {_CUTS_QUICK})")
    parser.add_argument("--seed", type=int, default=0, help="of the first power cut; the others follow")
    parser.add_argument("--only", choices=("cuts", "clocks", "execs"), help="only one kind")
    parser.add_argument("--case", help="only cases of clocks and execs whose name has this in it")
    parser.add_argument("--machines", type=int, default=2, help="how many run side by side (default 2)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that machines and disks go with this process
    if options.rounds is None:
        options.rounds = _CUTS_QUICK if options.quick else _CUTS
    folder = Path(tempfile.mkdtemp(prefix="rounds-", dir=run_folder()))
    try:
        return _run(options, folder)
    except HostError as failure:
        print(f"tests.vm: {failure}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: argparse.Namespace, folder: Path) -> int:
    keys = Keys.make(folder)
    print("making machines ready (two boots) ...", file=sys.stderr, flush=True)
    makers = [lambda: ready(keys, folder, "userdb", apart=False), lambda: ready(keys, folder, "passwd", apart=True)]
    made = _side_by_side(makers[:1] if options.only == "execs" else makers)
    rounds: list[Round] = []
    chosen: list[clocks.Case] = []
    if options.only in {None, "clocks"}:
        chosen += clocks.chosen(options.quick, options.case or "")
    if options.only in {None, "execs"}:
        chosen += execs.chosen(options.quick, options.case or "")
    rounds += [Round(case.name, _clock_case(made[0], case)) for case in chosen]
    if options.only in {None, "cuts"}:
        typical: list[cuts.Typical] = _side_by_side([lambda: cuts.measure(made[0]), lambda: cuts.measure(made[1])])
        for how in typical:
            print(f"opening takes {how.open_s:.1f} s, ending {how.end_s:.1f} s", file=sys.stderr, flush=True)
        for seed in range(options.seed, options.seed + options.rounds):
            cut, which = cuts.Cut.of(seed), seed % 2
            backend = ("userdb, one disk", "passwd, journal on a disk of its own")[which]
            rounds.append(Round(f"power cut {seed}: {cut} ({backend})", _cut(made[which], cut, typical[which])))
    return _play(rounds, options.machines)


def _clock_case(ready: Ready, case: clocks.Case) -> Callable[[], tuple[list[str], str]]:
    return lambda: clocks.play(ready, case)


def _cut(ready: Ready, cut: cuts.Cut, typical: cuts.Typical) -> Callable[[], tuple[list[str], str]]:
    return lambda: (cuts.play(ready, cut, typical), "")


def _play(rounds: list[Round], machines: int) -> int:
    waiting: queue.SimpleQueue[Round] = queue.SimpleQueue()
    for each in rounds:
        waiting.put(each)
    failed: list[str] = []
    printing = threading.Lock()

    def work() -> None:
        while True:
            try:
                one = waiting.get_nowait()
            except queue.Empty:
                return
            began = time.monotonic()
            try:
                wrong, figure = one.play()
            except Exception as failure:  # a round that breaks down is a failure, and not the others' end
                wrong, figure = [f"{failure}", *traceback.format_exc().splitlines()[-3:]], ""
            with printing:
                verdict = "FAILED" if wrong else "ok"
                print(f"{verdict:6} {one.name} [{time.monotonic() - began:.0f} s]{figure and ': ' + figure}", flush=True)
                for line in wrong:
                    print(f"         {line[:1000]}", flush=True)
                failed.extend([one.name] if wrong else [])

    threads = [threading.Thread(target=work) for _ in range(machines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"{len(rounds)} rounds, {len(failed)} failures", flush=True)
    return 1 if failed else 0


def _side_by_side(makers: list[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(len(makers)) as pool:
        return [future.result() for future in [pool.submit(maker) for maker in makers]]


if __name__ == "__main__":
    sys.exit(main())
