"""What a baseline and a search for what is left cost: ``python3 benchmarks/residue.py [--files 10000 --others 500000]``.

Makes FILES files of a tenant's number among OTHERS of root's, in a folder of its own that it removes again; then searches that
folder, first looking only, then removing. Prints one JSON object: entries, seconds and CPU seconds of each search, and
milliseconds of a baseline.
Changes nothing outside its folder. Run it as root (it gives files to uid 99999).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent.host.baseline import Taker
from agent.host.found import Search
from agent.host.searcher import Searcher

UID = 99999
_PER_FOLDER = 500


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=10_000, help="of the tenant's")
    options.add_argument("--others", type=int, default=500_000, help="of root's")
    options.add_argument("--acls", action="store_true", help="look into access lists too, as for grants that reach root's files")
    options.add_argument("--folder", type=Path, default=None, help="where (default: the temporary folder)")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-benchmark-", dir=asked.folder) as name:
        fill(Path(name), asked.others, 0)
        fill(Path(name), asked.files, UID)
        found = {"files": asked.files, "others": asked.others, "acls": asked.acls}
        for what, remove in (("look", False), ("remove", True), ("look_again", False)):
            began, worked = time.monotonic(), time.process_time()
            walk = Searcher(Search(uids=frozenset({UID}), remove=remove, acls=asked.acls, patience_s=3600.0), remove=remove)
            walk.run([], first=[name])
            seconds = time.monotonic() - began
            busy = time.process_time() - worked  # what it costs, however much else the machine does meanwhile
            found |= {f"{what}_s": round(seconds, 3), f"{what}_cpu_s": round(busy, 3), f"{what}_entries": walk.entries}
            assert (what == "look_again") is not bool(walk.found), walk.found[:3]  # noqa: S101
    found |= baseline()
    sys.stdout.write(json.dumps(found) + "\n")


def fill(top: Path, count: int, uid: int) -> None:
    """Files of one owner, five hundred to a folder of root's."""
    for number in range(count):
        folder = top / f"{uid}-{number // _PER_FOLDER}"
        if number % _PER_FOLDER == 0:
            folder.mkdir()
        fd = os.open(folder / str(number), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        if uid:
            os.fchown(fd, uid, uid)
        os.close(fd)


def baseline() -> dict[str, object]:
    """The first one reads every file; later ones only what changed."""
    taker, took, busy = Taker(), [], []
    for _ in range(21):
        began, worked = time.monotonic(), time.process_time()
        found = taker.take()
        took.append((time.monotonic() - began) * 1000)
        busy.append((time.process_time() - worked) * 1000)
    return {
        "baseline_first_ms": round(took[0], 2),
        "baseline_ms": round(statistics.median(took[1:]), 2),
        "baseline_cpu_ms": round(statistics.median(busy[1:]), 2),
        "baseline_bytes": len(json.dumps(found)),
    }


if __name__ == "__main__":
    main()
