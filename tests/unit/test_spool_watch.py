"""A file is told once it is whole, however it came, and not before; waiting costs nothing."""

import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.spool import Watch


class Seen(queue.Queue[tuple[Path, str]]):
    """What was told, in order."""

    def __call__(self, folder: Path, name: str) -> None:
        self.put((folder, name))

    def next(self, timeout_s: float = 2.0) -> str:
        return self.get(timeout=timeout_s)[1]

    def nothing(self, for_s: float = 0.1) -> bool:
        try:
            self.get(timeout=for_s)
        except queue.Empty:
            return True
        return False


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def seen(inbox: Path) -> Iterator[Seen]:
    seen = Seen()
    watch = Watch([inbox], seen, settle_s=0.15)
    watch.start()
    yield seen
    watch.stop()


def test_a_file_moved_in_is_told_at_once(inbox: Path, seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"x")
    (tmp_path / "g").rename(inbox / "g")
    assert seen.next() == "g"
    assert seen.nothing(0.3)


def test_a_file_renamed_from_its_temporary_name_is_told_once(inbox: Path, seen: Seen) -> None:
    (inbox / ".g.tmp").write_bytes(b"x")
    (inbox / ".g.tmp").rename(inbox / "g")
    assert seen.next() == "g"
    assert seen.nothing(0.3)


def test_a_file_moved_away_holds_nothing_up(inbox: Path, seen: Seen, tmp_path: Path) -> None:
    for number in range(5):
        (inbox / ".away").write_bytes(b"x")
        (tmp_path / "g").write_bytes(b"x")
        (inbox / ".away").rename(tmp_path / "away")
        started = time.monotonic()
        (tmp_path / "g").rename(inbox / f"g{number}")
        assert seen.next() == f"g{number}"
        assert time.monotonic() - started < 0.3


def test_a_file_still_being_written_is_told_at_its_close_only(inbox: Path, seen: Seen) -> None:
    with (inbox / "g").open("wb") as file:
        file.write(b"half")
        file.flush()
        assert seen.nothing(0.5)
        file.write(b"whole")
    assert seen.next() == "g"
    assert seen.nothing(0.3)


def test_a_file_that_appeared_by_link_is_noticed(inbox: Path, seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"x")
    (inbox / "g").hardlink_to(tmp_path / "g")
    (tmp_path / "g").unlink()
    assert seen.next() == "g"
    assert seen.nothing(0.3)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket", "folder"])
def test_what_nobody_will_ever_close_is_told_at_once(inbox: Path, seen: Seen, kind: str) -> None:
    path = inbox / "odd"
    if kind == "symlink":
        path.symlink_to("/nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path.mkdir()
    assert seen.next(0.12 if kind != "socket" else 2.0) == "odd"


def test_names_that_are_not_meant_yet_and_files_in_folders_below_are_not_told(inbox: Path, seen: Seen) -> None:
    (inbox / "below").mkdir()
    assert seen.next() == "below"
    for name in (".hidden", "g.tmp", "g.part", "below/deep"):
        (inbox / name).write_bytes(b"x")
    (inbox / "g").write_bytes(b"x")
    (inbox / "g").unlink()
    assert seen.next() == "g"
    assert seen.nothing(0.3)


def test_a_name_of_any_bytes_arrives_as_the_inbox_lists_it(inbox: Path, seen: Seen) -> None:
    name = os.fsdecode(b"\xff\nx")
    (inbox / name).write_bytes(b"x")
    assert seen.next() == name


def test_removals_are_told_to_those_who_ask(inbox: Path) -> None:
    seen = Seen()
    (inbox / "policy.yaml").write_bytes(b"x")
    (inbox / "other.yaml").write_bytes(b"x")
    watch = Watch([inbox], seen, removals=True)
    watch.start()
    (inbox / "policy.yaml").unlink()
    assert seen.next() == "policy.yaml"
    (inbox / "other.yaml").rename(inbox.parent / "other.yaml")
    assert seen.next() == "other.yaml"
    watch.stop()


def test_the_folder_itself_going_is_told_with_an_empty_name(inbox: Path, seen: Seen) -> None:
    inbox.rmdir()
    assert seen.next() == ""


def test_a_failing_callback_does_not_end_the_watch(inbox: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = Seen()

    def fail(folder: Path, name: str) -> None:
        names(folder, name)
        raise RuntimeError(name)

    watch = Watch([inbox], fail)
    watch.start()
    for name in ("a", "b"):
        (inbox / name).write_bytes(b"x")
        assert names.next() == name
    watch.stop()
    assert caplog.text.count("could not be handled") == 2


def test_a_missing_folder_is_said_and_nothing_is_left_running(inbox: Path) -> None:
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(HostError) as caught:
        Watch([inbox, inbox / "missing"], Seen()).start()
    assert caught.value.code == "watch_unavailable"
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == (threads, files)


def test_start_leaves_no_gap_and_stop_leaves_no_thread_or_descriptor(inbox: Path) -> None:
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        seen = Seen()
        watch = Watch([inbox], seen)
        watch.start()
        (inbox / f"g{number}").write_bytes(b"x")
        assert seen.next() == f"g{number}"
        watch.stop()
        watch.stop()
        (inbox / f"late{number}").write_bytes(b"x")
        assert seen.nothing(0.01)
    assert (threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))) == (threads, files)


def test_an_idle_watch_never_wakes(inbox: Path) -> None:
    others = {path.name for path in Path("/proc/self/task").iterdir()}  # whatever else this process does is not the watch's
    seen = Seen()
    watch = Watch([inbox], seen, settle_s=0.15)
    watch.start()
    try:
        (inbox / "g").write_bytes(b"x")
        assert seen.next() == "g"
        time.sleep(0.3)
        own = [path for path in Path("/proc/self/task").iterdir() if path.name not in others]
        assert own

        def switches() -> int:
            texts = [(path / "status").read_text().splitlines() for path in own]
            return sum(int(line.split()[1]) for text in texts for line in text if line.startswith("voluntary_ctxt_switches"))

        before = switches()
        time.sleep(1.5)
        assert switches() == before
    finally:
        watch.stop()
