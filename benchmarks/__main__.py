"""``python -m benchmarks``: measure rows in turn with their peers, write results and docs/PERFORMANCE.md.

As root, on a quiet machine: about half an hour; ``--quick`` some 5, with few values. ``--compare`` exits with 1 when
something became slower than the last commit has it.
"""

import argparse
import json
import os
import sys
import time

from benchmarks.frame import compare, page, results
from benchmarks.frame.row import Absent, Row, Run, Teller
from benchmarks.rows import ROWS
from tests.hosts.errors import HostError


def main() -> int:
    """0 done, 1 slower than before or a row that failed, 2 usage."""
    asked = _arguments()
    chosen = [row for row in ROWS if not asked.only or row.name in asked.only]
    if asked.list:
        sys.stdout.write("".join(f"{row.name:12} {row.title}\n" for row in ROWS))
        return 0
    failed = [] if asked.page else _measure(chosen, quick=asked.quick)
    found = results.read_all(row.name for row in ROWS)
    page.write(ROWS, found)
    if asked.json:
        sys.stdout.write(json.dumps({name: found[name] for name in found if not asked.only or name in asked.only}) + "\n")
    else:
        sys.stdout.write(_told(chosen, found))
    slower = _compared(chosen, found) if asked.compare else False
    for name, error in failed:
        sys.stderr.write(f"failed: {name}: {error}\n")
    return 1 if slower or failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few values of each: some 5 minutes")
    parser.add_argument(
        "--only", metavar="ROW", action="append", choices=[row.name for row in ROWS], help="this row; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="the results as one object on stdout")
    parser.add_argument(
        "--compare", action="store_true", help="say what became slower than the last committed results, and exit with 1"
    )
    parser.add_argument(
        "--page", action="store_true", help="measure nothing: make the page (and compare) from the results that are there"
    )
    parser.add_argument("--list", action="store_true", help="name the rows")
    asked = parser.parse_args()
    if not (asked.page or asked.list) and os.geteuid() != 0:
        parser.error("test hosts need root")
    return asked


def _measure(rows: list[Row], *, quick: bool) -> list[tuple[str, str]]:
    """Each row to its file; a row that fails leaves its earlier one, and the others go on."""
    tell, failed = Teller(), []
    for row in rows:
        run = Run(row.name, quick, lambda line, name=row.name: tell(f"{name}: {line}"))  # type: ignore[misc]
        began = time.monotonic()
        try:
            row.measure(run)
        except (Absent, HostError, OSError, RuntimeError, ValueError) as error:
            failed.append((row.name, f"{type(error).__name__}: {error}"))
            continue
        results.write(results.made(row, run, time.monotonic() - began))
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    return failed


def _told(rows: list[Row], found: dict[str, results.Result]) -> str:
    lines = []
    for row in rows:
        for goal in found[row.name]["goals"] if row.name in found else ():
            verdict = {True: "met", False: "MISSED", None: "not measured"}[goal["met"]]
            value = "" if goal["found"] is None else f"{goal['found']:g}"
            sign = ">=" if goal["least"] else "<="
            over = f" over {goal['against']}" if goal["against"] else ""
            lines.append(
                f"{verdict:12} {row.name}: {goal['case']}, {goal['what']}{over} {value} {sign} {goal['limit']:g} {goal['unit']}"
            )
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _compared(rows: list[Row], found: dict[str, results.Result]) -> bool:
    """Say what changed; True when something became slower."""
    slower = False
    for row in rows:
        before = results.committed(row.name)
        if before is None or row.name not in found:
            sys.stdout.write(f"nothing to compare with: {row.name}\n")
            continue
        for change in compare.changes(before, found[row.name], more_is_better=row.more_is_better):
            sys.stdout.write(f"{change}\n")
            slower = slower or change.worse
    return slower


if __name__ == "__main__":
    sys.exit(main())
