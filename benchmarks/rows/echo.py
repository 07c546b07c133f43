"""What being recorded adds to the echo of a key, as the client's terminal sees it."""

import contextlib
import os
import select
import time
from collections.abc import Callable

from benchmarks.frame.row import OURS, Goal, Plot, Row, Run
from benchmarks.ground import cpu_s, of_unit
from benchmarks.peers import log_server
from benchmarks.rows.sessions_bed import BY_SCRIPT, PLAIN, SUDO, TLOG, WAYS, bed, by_sudo, copy_on, typing
from tests.sessions.bed import Person

_ECHO, _ADDED = "echo", "added to the echo"
_COPY, _SCRIPT = "copy", "script"
_BETWEEN_S = 0.01


def measure(run: Run) -> None:
    """One key to each of the open terminals in turn."""
    took: dict[str, list[float]] = {}
    with bed(run) as (host, people), contextlib.ExitStack() as stack:
        ways = {OURS: (people[OURS], ""), PLAIN: (people[PLAIN], "")}
        made: dict[str, Callable[[], tuple[Person, str]]] = {
            _COPY: lambda: (people[PLAIN], copy_on(host)),
            SUDO: lambda: (by_sudo(host), log_server.AROUND),
        }
        ways |= run.had(made)
        ways[_SCRIPT] = (people[PLAIN], BY_SCRIPT)
        ways |= {TLOG: (people[TLOG], "")} if TLOG in people else {}
        open_ = run.had({way: lambda how=how: stack.enter_context(typing(*how)) for way, how in ways.items()})  # type: ignore[misc]
        recorder = of_unit(host.host, "tidegate-recorder.service")
        before, rounds = cpu_s(recorder), run.times(400, 60)
        for number in range(rounds):
            if number % 20 == 0:
                run.tell(f"key {number} of {rounds}")
            for way, master in open_.items():
                took.setdefault(way, []).append(_key(master, number))
        run.part(_ADDED, "the recorder's processor time for each key", "ms", (cpu_s(recorder) - before) * 1000 / rounds)
    for way, values in took.items():
        run.add(_ECHO, way, "ms", *values)
        if way != PLAIN:
            pairs = zip(sorted(values), sorted(took[PLAIN]), strict=True)
            run.add(_ADDED, way, "ms", *(mine - plain for mine, plain in pairs))


def _key(master: int, number: int) -> float:
    time.sleep(_BETWEEN_S)
    began = time.monotonic()
    os.write(master, b"abcdefgh"[number % 8 : number % 8 + 1])
    if not select.select([master], [], [], 5.0)[0]:
        raise RuntimeError("no echo")
    os.read(master, 4096)
    return (time.monotonic() - began) * 1000


ROW = Row(
    name="echo",
    title="A key's echo",
    about="From a key in an ssh client's terminal to its echo there. What is added is the difference of the two series, "
    "each sorted, rank by rank: so its median and p99 are of what was added at that place.",
    measure=measure,
    goals=(Goal(_ADDED, "median", 0.1), Goal(_ADDED, "p99", 0.5)),
    ways={**WAYS, _COPY: "a bare copy in C", _SCRIPT: "script(1)"},
    limits={_ADDED: (_COPY,)},
    plots=(Plot("spread", "A key's echo", (_ECHO,)),),
)
