"""`python -m tests.matrix`: the host suite on each Debian; ends with a table of versions and `N suites, M failures`."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.hosts import root, tools
from tests.hosts.errors import HostError
from tests.matrix.suite import Tally, play
from tests.matrix.versions import Versions, ask

SUITES = ("bookworm", "trixie", "sid")
_COLUMNS = ("suite", "OpenSSH", "sudo", "sudo-rs", "systemd", "Python", "kernel", "passed", "failed", "skipped", "seconds")


@dataclass(frozen=True, slots=True)
class Result:
    """One row. ``versions`` is None where no host of the suite came up."""

    suite: str
    versions: Versions | None
    tally: Tally

    def cells(self) -> tuple[str, ...]:
        """As the table has it."""
        told = [value or "-" for value in asdict(self.versions).values()] if self.versions else ["?"] * 6
        tally = self.tally
        return (self.suite, *told, str(tally.passed), str(len(tally.failed)), str(tally.skipped), f"{tally.seconds:.0f}")


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every test passed on every suite, 1 when one failed or could not run, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument(
        "tests", nargs="*", default=["tests/host"], help="only these, as pytest names them (default: the host suite)"
    )
    parser.add_argument(
        "--suite", metavar="NAME", action="append", help=f"only this one (may be given again); else {', '.join(SUITES)}"
    )
    parser.add_argument("--quick", action="store_true", help="only the main promises: what `make test` runs on a second suite")
    parser.add_argument("--json", action="store_true", help="one object as the last line but one")
    parser.add_argument("--list", action="store_true", help="name the suites and whether their root is there, and do nothing")
    arguments = parser.parse_args(argv)
    suites = list(dict.fromkeys(arguments.suite or SUITES))
    if wrong := [name for name in suites if not re.fullmatch("[a-z]+", name)]:
        parser.error(f"not a Debian suite's name: {wrong[0]!r}")
    if arguments.list:
        print("\n".join(f"{name}  {root.built(name) or 'to be built'}" for name in suites))
        return 0
    found = [_run(name, arguments.tests, arguments.quick) for name in suites]
    print("\n".join(table(found)))
    if arguments.json:
        rows = [{"suite": row.suite, "versions": row.versions and asdict(row.versions), **asdict(row.tally)} for row in found]
        print(json.dumps({"suites": rows, "failures": _failures(found)}))
    print(f"{len(found)} suites, {_failures(found)} failures")
    return 1 if _failures(found) else 0


def _run(suite: str, tests: Sequence[str], quick: bool) -> Result:
    """A suite whose host can't be booted is a failure of its own, and keeps no other from its turn."""
    progress = tools.Progress(f"matrix, {suite}")
    progress.say("booting a host of it")
    try:
        versions = ask(suite)
    except (HostError, LookupError) as failure:
        progress.say(f"no host: {failure}")
        return Result(suite, None, Tally(failed=("no host",)))
    progress.say(" ".join(f"{name} {value}" for name, value in asdict(versions).items() if value))
    tally = play(suite, tests, quick)
    progress.say(f"{tally.passed} passed, {len(tally.failed)} failed")
    return Result(suite, versions, tally)


def table(found: Sequence[Result]) -> list[str]:
    """A header and a line for each suite, in columns; then each failed test by name."""
    rows = [_COLUMNS, *(row.cells() for row in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return lines + [f"failed on {row.suite}: {name}" for row in found for name in row.tally.failed]


def _failures(found: Sequence[Result]) -> int:
    return sum(len(row.tally.failed) for row in found)


if __name__ == "__main__":
    sys.exit(main())
