"""The one run(): nothing inherited, nothing hangs, nothing is left behind."""

import os
import time
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host import command


def test_the_environment_is_fixed_and_stdin_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("SECRET", "1")
    assert set(command.run(["env"]).stdout.split()) == {"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
    assert command.run(["cat"]).stdout == ""
    assert command.run(["pwd"]).stdout == "/\n"


def test_no_descriptor_of_ours_reaches_the_tool(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        assert "secret" not in command.run(["ls", "-l", "/proc/self/fd"]).stdout


def test_a_relative_or_missing_tool_is_missing() -> None:
    for name in ("./x", "bin/sh", "", "no-such-tool", "/etc/passwd", "/no/such"):
        with pytest.raises(HostError, match="tool_missing"):
            command.run([name])


def test_a_late_tool_dies_with_all_its_group() -> None:
    begun = time.monotonic()
    with pytest.raises(HostError, match="tool_late"):
        command.run(["sh", "-c", "trap '' TERM HUP; sleep 61.25 & sleep 61.25"], timeout_s=0.2)
    assert time.monotonic() - begun < 10
    assert _nobody_runs("61.25")


def test_a_late_tool_that_closed_its_output_is_late_too() -> None:
    with pytest.raises(HostError, match="tool_late"):
        command.run(["sh", "-c", "exec >&- 2>&-; sleep 62.25"], timeout_s=0.2)
    assert _nobody_runs("62.25")


def test_a_daemon_it_leaves_behind_neither_blocks_nor_stays() -> None:
    begun = time.monotonic()
    assert command.run(["sh", "-c", "sleep 63.25 & echo done"]).stdout == "done\n"
    assert time.monotonic() - begun < 10
    assert _nobody_runs("63.25")


def test_output_is_cut_and_never_blocks_the_tool() -> None:
    result = command.run(["head", "-c", "5000000", "/dev/zero"])
    assert result.ok
    assert len(result.stdout) == command.OUTPUT_MAX


def test_long_input_is_fed_whole_and_a_tool_that_reads_none_is_fine() -> None:
    assert command.run(["wc", "-c"], stdin=b"x" * 3_000_000).stdout.strip() == "3000000"
    assert command.run(["true"], stdin=b"x" * 3_000_000).ok


def test_the_exit_status_is_the_callers_and_require_says_what_was_said() -> None:
    result = command.run(["sh", "-c", "echo oops >&2; exit 3"])
    assert (result.returncode, result.ok) == (3, False)
    with pytest.raises(HostError, match=r"labels: .*exited with 3: oops"):
        command.require(result, "labels")


def _nobody_runs(word: str) -> bool:
    def runs() -> bool:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if word.encode() in entry.read_bytes().split(b"\0"):
                    return True
            except OSError:
                continue
        return False

    deadline = time.monotonic() + 10
    while runs() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not runs()
