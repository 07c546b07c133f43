"""A recording that can't be written: who required it waits, and is cut; who did not goes on, and a gap says so."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sessions.recorder.store import Store
from agent.sessions.recording import Kind
from tests.unit.recorder_kit import Command, Rig, Terminal, rig, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a small file system is mounted")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, gone with the test, and seen by this machine's other processes for that long."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["/usr/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["/usr/bin/umount", "-l", folder], check=True)


def _fill(folder: Path) -> Path:
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def _ready(recorder: Rig) -> Terminal:
    terminal = Terminal(recorder.argv("stty -echo; echo ready; while read line; do echo got $line $RANDOM; done"))
    terminal.until("ready")
    time.sleep(0.1)
    return terminal


def _fail(recorder: Rig, terminal: Terminal) -> None:
    """Until a block no longer fits into what is left of the last page."""
    for _ in range(60):
        terminal.send("x" * 200 + "\r")
        time.sleep(0.03)


def test_a_required_session_waits_while_the_disk_is_full_and_goes_on_after(tmp_path: Path, small: Path) -> None:
    with rig(tmp_path, sessions=small) as recorder:
        recorder.tenant(on_failure="pause", pause_s=30)
        terminal = _ready(recorder)
        filler = _fill(small)
        _fail(recorder, terminal)
        terminal.until("this session waits, since its recording can't be written: No space left on device")
        terminal.send("afterwards\r")
        time.sleep(0.5)
        assert recorder.bytes_of(Kind.OUT).count(b"afterwards") == 0
        filler.unlink()
        terminal.until("go on")
        terminal.until("got afterwards")
        terminal.send("\x04")
        terminal.rest()
        assert terminal.status() == 0
        wait_for(recorder.ended)
        assert [event["type"] for event in recorder.events()] == ["pause", "resume"]
        recorded = recorder.bytes_of(Kind.OUT)
        assert recorded.count(b"got " + b"x" * 200) == 60
        assert b"got afterwards" in recorded
        assert not recorder.port.cuts


@pytest.mark.parametrize("pause", [0, 1])
def test_a_required_session_is_cut_when_the_disk_stays_full(tmp_path: Path, small: Path, pause: int) -> None:
    with rig(tmp_path, sessions=small) as recorder:
        recorder.tenant(on_failure="pause" if pause else "close", pause_s=pause)
        terminal = _ready(recorder)
        filler = _fill(small)
        with contextlib.suppress(OSError):
            _fail(recorder, terminal)
        assert b"this session is over: its recording can't be written: No space left on device" in terminal.rest()
        assert terminal.status() != 0
        wait_for(lambda: recorder.port.cuts)
        assert recorder.port.cuts[0]["uid"] == 0
        assert recorder.port.cuts[0]["pid"] == terminal.pid
        refused = Terminal(recorder.argv("echo in"))
        assert b"the recording can't be written: No space left on device" in refused.rest()
        assert refused.status() == 1
        filler.unlink()
        wait_for(lambda: recorder.ended() == "its recording can't be written: No space left on device")


def test_one_that_is_not_required_goes_on_and_the_gap_is_told(tmp_path: Path, small: Path) -> None:
    with rig(tmp_path, sessions=small) as recorder:
        recorder.tenant(required=False)
        terminal = _ready(recorder)
        filler = _fill(small)
        _fail(recorder, terminal)
        terminal.send("unseen\r")
        terminal.until("got unseen")
        unrecorded = Terminal(recorder.argv("echo in"))
        assert unrecorded.rest() == b"in\r\n"
        assert unrecorded.status() == 0
        filler.unlink()
        time.sleep(0.5)
        terminal.send("seen\r")
        terminal.until("got seen")
        terminal.send("\x04")
        terminal.rest()
        assert terminal.status() == 0
        wait_for(recorder.ended)
        assert b"got seen" in recorder.bytes_of(Kind.OUT)
        (gap,) = recorder.events()
        assert gap["type"] == "gap"
        assert int(str(gap["bytes"])) > 0


def test_a_recording_that_reaches_its_cap_ends_its_session(tmp_path: Path) -> None:
    with rig(tmp_path, args=("--cap", "200000")) as recorder:
        terminal = Terminal(recorder.argv("head -c 1000000 /dev/zero; sleep 60"))
        assert b"has reached its greatest size" in terminal.rest()
        assert terminal.status() != 0
        wait_for(lambda: recorder.port.cuts)
        assert Command(recorder.argv("echo in")).talk() == (b"in\n", b"")


def test_the_folder_stays_within_its_quota_and_the_oldest_that_are_over_go_first(tmp_path: Path) -> None:
    live = {"r-20260101T000000-00000000"}
    names = [f"r-2026010{day}T000000-0000000{day}" for day in range(1, 6)]
    for name in [*live, *names]:
        (tmp_path / f"{name}.tgr").write_bytes(bytes(1000))
    shipped = tmp_path / "shipped"  # the courier's marks, in its own folder
    shipped.mkdir()
    (shipped / names[3]).touch()
    store = Store(tmp_path, live, quota=4500, keep_days=90, shipped=shipped)
    store.tidy()
    left = {path.stem for path in tmp_path.glob("*.tgr")}
    assert left == {*live, *names} - {names[3], names[0]}  # the shipped one first, then the oldest; never the live one
    assert store.size == 4000
    assert store.charge(400)
    os.utime(tmp_path / f"{names[4]}.tgr", (time.time() - 91 * 86400,) * 2)
    store.tidy()
    assert not (tmp_path / f"{names[4]}.tgr").exists()
    live.update(names)
    assert not Store(tmp_path, live, quota=100, keep_days=90).charge(1000)
