"""Which suite a test runs on is told once, and holds for whatever boots a host (tests.hosts.suites)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# A host that was never booted: only its suite is looked at.
SAMPLE = """
import os, pytest
from tests.hosts import root
from tests.hosts.machine import Host
def made(suite):
    host = object.__new__(Host)
    host.suite = suite
    return host
@pytest.fixture(scope="module")
def good(suite): return made(suite)
@pytest.fixture(scope="module")
def stale(): return made(root.chosen())
@pytest.mark.host(everywhere=True)
def test_main(good, suite): print("main on", good.suite, suite, root.chosen(), os.environ["TIDEGATE_SUITE"])
@pytest.mark.host
def test_other(good): print("other on", good.suite)
@pytest.mark.host(everywhere=True)
def test_stale(stale, suite): print("stale on", stale.suite)
"""


def run(folder: Path, *arguments: str, suite: str = "") -> str:
    (folder / "test_sample.py").write_text(SAMPLE)
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-v",
        "-p",
        "tests.hosts.suites",
        "-p",
        "no:cacheprovider",
        "-c",
        "pyproject.toml",
    ]
    done = subprocess.run(
        [*argv, "--rootdir", str(folder), *arguments, str(folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
        timeout=60,
        env={**os.environ, "TIDEGATE_SUITE": suite, "TIDEGATE_TEST_HOSTS": "none", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return done.stdout


def test_what_is_to_run_everywhere_runs_on_each_suite_and_the_rest_on_one(tmp_path: Path) -> None:
    said = run(tmp_path)
    assert "main on bookworm bookworm bookworm bookworm" in said
    assert "main on trixie trixie trixie trixie" in said
    assert said.count("other on") == 1 and "other on bookworm" in said
    assert "test_main PASSED" in said and "test_main[trixie] PASSED" in said  # the usual suite is not in the name
    # Nor is a host of one suite passed off as one of another.
    assert "the test is to run on trixie, and was given a host of bookworm" in said
    assert "1 failed, 4 passed" in said


@pytest.mark.parametrize("told", [("--suite", "sid"), ()])
def test_told_a_suite_everything_runs_on_that_one_alone(tmp_path: Path, told: tuple[str, ...]) -> None:
    said = run(tmp_path, *told, suite="" if told else "sid")
    assert "main on sid sid sid sid" in said and "other on sid" in said and "stale on sid" in said
    assert "3 passed" in said
