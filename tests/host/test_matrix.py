"""`make matrix`, by hand and in little: what it prints was asked of booted hosts, and its status tells a failure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts import root

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.host(beside=True)


def test_it_runs_the_tests_named_on_hosts_of_the_suite_and_prints_what_they_run() -> None:
    suite = root.chosen()
    argv = [
        sys.executable,
        "-m",
        "tests.matrix",
        "--suite",
        suite,
        "--json",
        "tests/host/test_bed.py::test_the_host_is_of_its_suite",
    ]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    header, row, result, last = done.stdout.splitlines()
    assert (done.returncode, last) == (0, "1 suites, 0 failures"), done.stderr
    (found,) = json.loads(result)["suites"]
    assert (found["suite"], found["passed"], found["failed"]) == (suite, 1, [])
    assert dict(zip(header.split(), row.split(), strict=True))["OpenSSH"] == found["versions"]["openssh"]
    assert all(found["versions"][name][0].isdigit() for name in ("openssh", "sudo", "systemd", "python", "kernel"))
