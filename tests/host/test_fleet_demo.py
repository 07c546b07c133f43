"""`make demo-fleet` keeps its promise: one approval opens three booted hosts over NATS, one offboarding shuts all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.host(beside=True)
REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_fleet_demo_passes_and_its_last_line_is_one_object() -> None:
    argv = [sys.executable, "-m", "examples.demo.fleet", "--json"]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=240, check=False)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, found["verdict"], found.get("hosts")) == (0, "pass", 3), done.stderr
    for name in ("login_ms", "doors_ms", "dead_ms", "cut_ms", "receipt_ms"):
        assert sorted(found[name]) == ["web1", "web2", "web3"]
        assert all(value > 0 for value in found[name].values())
    assert found["live_ms"] > 0
    assert all(set(step) == {"at_ms", "what", "ok"} for step in found["steps"])
