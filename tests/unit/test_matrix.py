"""`make matrix` counts what pytest counts, and calls nothing a success that was none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.errors import HostFailed
from tests.matrix import __main__ as matrix
from tests.matrix.suite import Tally, count
from tests.matrix.versions import Versions

SAMPLE = """
import pytest
@pytest.fixture
def broken(): raise RuntimeError("set-up")
@pytest.fixture
def sticky():
    yield
    raise RuntimeError("tear-down")
def test_good(): pass
@pytest.mark.parametrize("n", [1, 2])
def test_each(n): assert n == 1
def test_left_out(): pytest.skip("a reason")
def test_not_set_up(broken): pass
def test_not_torn_down(sticky): pass
def test_neither(sticky): raise AssertionError
"""
KNOWN = Versions("9.2p1", "1.9.13p3", "", "252", "3.11.2", "6.1.0")


def tally_of(folder: Path, *arguments: str) -> Tally:
    """Of a run by the real pytest."""
    (folder / "test_sample.py").write_text(SAMPLE)
    argv = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(folder), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*argv, f"--junitxml={folder}/report.xml", str(folder), *arguments],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # none is needed, and some take seconds to load
    )
    return count(folder / "report.xml", f"status {done.returncode}" if done.returncode else "", 1.0)


def test_what_failed_passed_and_was_left_out_is_told_apart(tmp_path: Path) -> None:
    found = tally_of(tmp_path)
    names = [f"test_sample::test_{name}" for name in ("each[2]", "not_set_up", "not_torn_down", "neither")]
    assert found == Tally(passed=2, skipped=1, failed=tuple(names), seconds=1.0)
    good = tally_of(tmp_path, "-k", "good or left_out")
    assert good == Tally(passed=1, skipped=1, failed=(), seconds=1.0)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(("-k", "nothing_has_this_name"), "status 5"), (("--no-such-option",), "status 4"), (("-k", "left_out"), "no test passed")],
)
def test_a_run_in_which_nothing_passed_is_a_failure(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    assert tally_of(tmp_path, *arguments).failed == (reason,)


def test_a_suite_without_a_host_fails_and_the_next_has_its_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(suite: str) -> Versions:
        if suite == "sid":
            raise HostFailed("did not boot")
        return KNOWN

    monkeypatch.setattr(matrix, "ask", ask)
    monkeypatch.setattr(
        matrix, "play", lambda suite, *_: Tally(7, 1, (), 12.4) if suite == "bookworm" else Tally(6, 1, ("a::b",), 9.0)
    )
    assert matrix.main(["--suite", "sid", "--suite", "trixie", "--suite", "bookworm", "--suite", "sid"]) == 1
    header, sid, trixie, bookworm, *failed, last = capsys.readouterr().out.splitlines()
    assert dict(zip(header.split(), bookworm.split(), strict=True))["sudo-rs"] == "-"
    assert sid.split() == ["sid", *"??????", "0", "1", "0", "0"]
    assert trixie.split()[-4:] == ["6", "1", "1", "9"]
    assert bookworm.split() == ["bookworm", "9.2p1", "1.9.13p3", "-", "252", "3.11.2", "6.1.0", "7", "0", "1", "12"]
    assert failed == ["failed on sid: no host", "failed on trixie: a::b"]
    assert last == "3 suites, 2 failures"
    assert matrix.main(["--suite", "bookworm"]) == 0


def test_a_name_that_is_no_suites_is_a_mistake_in_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        matrix.main(["--suite", "../x"])
    assert ended.value.code == 2
