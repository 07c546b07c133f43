"""Run on the test host by its own Python, with the installed code: what of an opening is systemd's, the disk's and sudo's, in turn.

``python3 -I opening_inside.py ROUNDS``. Prints an object: what → milliseconds, in the order of the rounds.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, "/usr/lib/tidegate")

from agent.config import load_config
from agent.host.baseline import Taker
from agent.host.clock import NS
from agent.host.system import SystemHost
from agent.host.timers import SystemdTimers
from agent.journal.database import Database
from enforcers.sudoers_rule import Rule, prove, render

_HOUR_S = 3600


def main() -> None:
    """Measure and print."""
    rounds, config = int(sys.argv[1]), load_config()
    timers, wall_s = SystemdTimers(), int(time.time()) + _HOUR_S
    names = [f"{wall_s + number}-{_HOUR_S}" for number in range(rounds)]
    fresh, host, taker = iter(names), SystemHost(config), Taker()
    rule = Rule("jit-part", ("root",), (("/usr/bin/id",),), wall_s, 60, own=True)
    with tempfile.TemporaryDirectory(dir=config.paths.state_db.parent) as folder:
        database = Database(Path(folder) / "part.db")
        works: dict[str, Callable[[], object]] = {
            "timer": lambda: timers.arm(next(fresh), wall_s * NS, _HOUR_S * NS),
            "commit": lambda: database.set_meta("part", str(time.time_ns())),
            "cvtsudoers": lambda: prove(rule, render(rule), host),
            "baseline": taker.take,
        }
        try:
            json.dump(_timed(works, rounds), sys.stdout)
        finally:
            timers.disarm(names)
            database.close()


def _timed(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter_ns()
            work()
            found[name].append((time.perf_counter_ns() - began) / 1e6)
    return found


if __name__ == "__main__":
    main()
