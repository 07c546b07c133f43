"""One suite's run: the host tests by pytest on hosts of it, and what came of them."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.hosts import root, tools

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYWHERE = "host(everywhere=True)"
_MOST_S = 3 * 3600.0


@dataclass(frozen=True, slots=True)
class Tally:
    """How many tests passed, failed (or could not be set up) and were skipped, the names of the failed, how long it took."""

    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    seconds: float = 0.0


def play(suite: str, tests: Sequence[str] = ("tests/host",), quick: bool = False) -> Tally:
    """Run the host tests among ``tests`` (paths as pytest takes them) on hosts of ``suite``; pytest's words go to stderr.

    ``quick``: only those that `make test` runs on more than one suite. A run without a single test that passed, or that
    pytest itself calls no success, has failed, by whatever name.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        report = Path(folder) / "report.xml"
        argv = [
            *tools.DIE_WITH_PARENT,
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "2",
            "-m",
            EVERYWHERE if quick else "host",
            "-p",
            "no:cacheprovider",
        ]
        # A mistake in an option must not pass for a run without tests, nor a machine that boots no hosts.
        environment = {**os.environ, root.VARIABLE: suite, "TIDEGATE_REQUIRE_HOSTS": "1"}
        try:
            done = subprocess.run(
                [*argv, "--suite", suite, f"--basetemp={folder}/tests", f"--junitxml={report}", *tests],
                cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=_MOST_S, check=False,
            )  # fmt: skip
            ended = f"pytest ended with status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            ended = f"pytest was still running after {_MOST_S:.0f} s"
        return count(report, ended, time.monotonic() - began)


def count(report: Path, ended: str, seconds: float) -> Tally:
    """What pytest's JUnit file holds; ``ended``: why the run as a whole is no success, or empty."""
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    failed = [_name(case) for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    # A test whose tear-down failed as well stands there twice.
    passed = len({_name(case) for case in cases} - {*failed}) - skipped
    if not failed and (ended or passed < 1):
        failed = [ended or "no test passed"]
    return Tally(max(passed, 0), skipped, tuple(dict.fromkeys(failed)), seconds)


def _name(case: ElementTree.Element) -> str:
    return f"{case.get('classname', '')}::{case.get('name', '')}"
