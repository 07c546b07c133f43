"""A recorder with nothing to record sleeps; one with a session syncs it every second."""

import re
import time
from pathlib import Path

from tests.unit.recorder_kit import Rig, Terminal, wait_for

SILENT_S = 2.6


def woken(pid: int) -> int:
    """How often any of its threads went to sleep by itself."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
        total += int(found[1]) if found else 0
    return total


def woken_in(pid: int, seconds: float) -> int:
    before = woken(pid)
    time.sleep(seconds)
    return woken(pid) - before


def children(pid: int) -> list[str]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/cmdline").read_text().split("\0")[-2] for child in found]


def test_who_tells_of_changed_windows_is_started_for_the_first_terminal(tmp_path: Path) -> None:
    """3 MB that a host without sessions does without."""
    rig = Rig(tmp_path)
    try:
        assert children(rig.pid) == []
        terminal = Terminal(rig.argv("echo begun; sleep 60"))
        terminal.until("begun")
        assert [Path(name).name for name in children(rig.pid)] == ["resizer.py"]
        terminal.send("\x03")
        terminal.rest()
    finally:
        rig.close()


def test_without_a_session_nothing_wakes_it_and_after_one_it_sleeps_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    try:
        time.sleep(0.5)
        assert woken_in(rig.pid, SILENT_S) == 0
        terminal = Terminal(rig.argv("echo begun; read line; echo more; sleep 60"))
        terminal.until("begun")
        (recording,) = rig.recordings()
        assert woken_in(rig.pid, SILENT_S) >= 2, "its tape is synced every second"
        size = recording.stat().st_size
        terminal.send("go on\n")
        terminal.until("more")
        wait_for(lambda: recording.stat().st_size > size)
        terminal.send("\x03")
        terminal.rest()
        wait_for(lambda: bool(rig.ended()))
        wait_for(lambda: bool(rig.port.seals) and bool(rig.port.seals[-1]["final"]), 15)
        time.sleep(SILENT_S)
        assert woken_in(rig.pid, SILENT_S) == 0
    finally:
        rig.close()
