"""The trail never raises, never loses an event unsaid, and never outgrows its bound."""

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.audit import AuditEvent, EventKind, Trail
from agent.audit import journald as journald_module
from agent.audit.journald import tell_journald, tell_logging
from agent.host.clock import FakeClock
from tests.unit.audit_values import IDENTITY, event

CURRENT = "events.ndjson"


class Told(list[AuditEvent]):
    """What went to journald, in order."""

    def __call__(self, found: AuditEvent, _ocsf: Mapping[str, object]) -> None:
        self.append(found)


def trail(folder: Path, told: Told | None = None, **bounds: int) -> Trail:
    return Trail(folder, IDENTITY, FakeClock(), tell=Told() if told is None else told, **bounds)


def lines(folder: Path, name: str = CURRENT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_bytes().splitlines()]


def codes(folder: Path) -> list[tuple[str, str]]:
    return [(line["metadata"]["event_code"], line.get("status_code", "")) for line in lines(folder)]


def everything(folder: Path) -> list[dict[str, Any]]:
    return [
        line
        for path in sorted(folder.glob("events.*ndjson"), key=lambda path: (path.name == CURRENT, path.name))
        for line in lines(folder, path.name)
    ]


def test_events_are_appended_numbered_and_keyed_uniquely_over_restarts(tmp_path: Path) -> None:
    for _ in range(3):
        trail(tmp_path).emit([event(), event()])
    found = lines(tmp_path)
    assert [line["metadata"]["sequence"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert len({line["metadata"]["uid"] for line in found}) == 6
    assert (tmp_path / CURRENT).stat().st_mode & 0o777 == 0o640


def test_one_call_is_one_write_and_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, sync = os.write, os.fdatasync

    def counted_write(fd: int, data: bytes) -> int:
        calls.append("write")
        return write(fd, data)

    def counted_sync(fd: int) -> None:
        calls.append("sync")
        sync(fd)

    monkeypatch.setattr(os, "write", counted_write)
    monkeypatch.setattr(os, "fdatasync", counted_sync)
    trail(tmp_path).emit([event(kind) for kind in EventKind])
    assert calls == ["write", "sync"]
    trail(tmp_path).emit([])
    assert calls == ["write", "sync"]


def test_files_rotate_by_size_and_the_oldest_go_told(tmp_path: Path) -> None:
    subject = trail(tmp_path, file_bytes=20_000, total_bytes=80_000)
    for _ in range(300):
        subject.emit([event()])
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 80_000
    assert all(path.stat().st_size <= 20_000 for path in tmp_path.iterdir())
    found = everything(tmp_path)
    sequences = [line["metadata"]["sequence"] for line in found]
    assert sequences == list(range(sequences[0], sequences[-1] + 1))
    dropped = [line for line in found if line["metadata"]["event_code"] == "audit.dropped"]
    assert dropped
    assert dropped[-1]["count"] == dropped[-1]["unmapped"]["detail"]["count"] > 0


def test_every_dropped_event_is_counted(tmp_path: Path) -> None:
    told = Told()
    subject = trail(tmp_path, told, file_bytes=20_000, total_bytes=60_000)
    for _ in range(200):
        subject.emit([event()])
    counted = sum(found.detail["count"] for found in told if found.kind is EventKind.AUDIT_DROPPED)  # type: ignore[misc]
    assert counted == everything(tmp_path)[0]["metadata"]["sequence"] - 1


def test_numbered_names_are_never_used_twice_though_they_are_carried_away(tmp_path: Path) -> None:
    names: list[str] = []
    for _ in range(6):
        subject = trail(tmp_path, file_bytes=10_000)
        for _ in range(20):
            subject.emit([event()])
        for path in sorted(tmp_path.glob("events.0*.ndjson")):
            names.append(path.name)
            path.unlink()
    assert len(names) == len(set(names)) > 6
    assert names == sorted(names)


@pytest.mark.parametrize("call", ["write", "fdatasync", "open", "short"])
def test_a_failing_disk_raises_nothing_and_its_loss_is_told_at_the_next_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    told = Told()
    subject = trail(tmp_path, told)
    subject.emit([event()])
    write = os.write

    def fail(*_args: object, **_kwargs: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(
            os, "write" if call == "short" else call, (lambda fd, data: write(fd, data[:100])) if call == "short" else fail
        )
        subject.emit([event(jti="lost-1"), event(jti="lost-2")])
        subject.emit([event(jti="lost-3")])
    assert subject.lost == 3
    assert [found.jti for found in told if found.jti.startswith("lost")] == ["lost-1", "lost-2", "lost-3"]
    assert sum(found.kind is EventKind.AUDIT_LOST for found in told) == 1
    assert codes(tmp_path) == [("grant.opened", "expired")]
    subject.emit([event(jti="kept")])
    assert subject.lost == 0
    loss = lines(tmp_path)[1]
    assert loss["metadata"]["event_code"] == "audit.lost"
    assert (loss["count"], loss["status_code"], loss["status_detail"]) == (3, "disk_failed", "No space left on device")
    assert lines(tmp_path)[2]["unmapped"]["jti"] == "kept"
    assert len(lines(tmp_path)) == 3


def test_nothing_at_all_raises_out_of_emit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("x\nforged")

    def explode(_event: AuditEvent, _ocsf: Mapping[str, object]) -> None:
        raise RuntimeError("x\nforged")

    trail(tmp_path).emit([event(jti="a"), event(detail={"x": Broken()}), event(jti="b")])
    assert codes(tmp_path)[1] == ("audit.lost", "unmappable")
    assert [line["unmapped"].get("jti") for line in lines(tmp_path)] == ["a", None, "b"]
    Trail(tmp_path, IDENTITY, FakeClock(), tell=explode).emit([event()])
    assert all("\n" not in record.getMessage() for record in caplog.records)
    trail(tmp_path / "missing").emit([event()])


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder", "hard link"])
def test_a_planted_file_is_never_written_through(tmp_path: Path, kind: str) -> None:
    outbox, victim = tmp_path / "outbox", tmp_path / "victim"
    outbox.mkdir()
    victim.write_text("root:x:0:0\n")
    planted = outbox / CURRENT
    if kind == "symlink":
        planted.symlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(planted)
    elif kind == "folder":
        planted.mkdir()
    else:
        planted.hardlink_to(victim)
    trail(outbox).emit([event()])
    assert victim.read_text() == "root:x:0:0\n"
    assert codes(outbox) == [("audit.lost", "file_untrusted"), ("grant.opened", "expired")]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_numbered_files_of_another_count_for_nothing_and_stop_no_rotation(tmp_path: Path) -> None:
    """Whoever may write to the folder may neither drive the numbers up nor stand in a full file's way."""
    subject = trail(tmp_path, file_bytes=20_000)
    subject.emit([event()])
    planted = tmp_path / "events.999999999999.ndjson"
    planted.write_text("{}\n")
    os.chown(planted, 65533, 65533)
    for number in range(400):
        folder = tmp_path / f"events.{number:012d}.ndjson"
        if not folder.exists() and number > 100:
            (folder / "full").mkdir(parents=True)
            os.chown(folder, 65533, 65533)
    for _ in range(150):
        subject.emit([event()])
    trail(tmp_path, file_bytes=20_000).emit([event()])
    found = sorted(
        line["metadata"]["sequence"]
        for path in tmp_path.glob("events.*ndjson")
        if path.is_file() and path != planted
        for line in lines(tmp_path, path.name)
    )
    assert found == list(range(1, 153))


def test_a_file_that_was_replaced_or_cut_is_told(tmp_path: Path) -> None:
    subject = trail(tmp_path)
    subject.emit([event(), event()])
    (tmp_path / CURRENT).unlink()
    subject.emit([event()])
    assert codes(tmp_path)[0] == ("audit.lost", "file_replaced")
    os.truncate(tmp_path / CURRENT, 10)
    subject.emit([event()])
    assert codes(tmp_path) == [("audit.lost", "file_cut"), ("grant.opened", "expired")]
    assert [line["metadata"]["sequence"] for line in lines(tmp_path)] == [5, 6]


def test_half_a_line_left_by_a_power_cut_is_cut_off_and_told(tmp_path: Path) -> None:
    trail(tmp_path).emit([event()])
    with (tmp_path / CURRENT).open("ab") as file:
        file.write(b'{"half":')
    trail(tmp_path).emit([event()])
    assert codes(tmp_path) == [("grant.opened", "expired"), ("audit.lost", "file_torn"), ("grant.opened", "expired")]


def test_threads_never_tear_a_line(tmp_path: Path) -> None:
    subject = trail(tmp_path)

    def emit_twenty() -> None:
        for _ in range(20):
            subject.emit([event()])

    threads = [threading.Thread(target=emit_twenty) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line["metadata"]["sequence"] for line in lines(tmp_path)) == list(range(1, 81))


def test_without_journald_each_event_is_one_clean_line_on_stderr(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    Trail(tmp_path, IDENTITY, FakeClock(), tell=tell_logging).emit(
        [event(reason="x\n<0>kernel: forged\x1b]0;owned\x07"), event(EventKind.TEARDOWN_LATE)]
    )
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.ERROR]
    assert all(character.isprintable() for record in caplog.records for character in record.getMessage())


def test_journald_gets_the_fields_and_its_absence_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    sent: list[dict[str, object]] = []

    class Journal:
        @staticmethod
        def send(**fields: object) -> None:
            sent.append(fields)

    monkeypatch.setattr(journald_module, "_journal", Journal)
    monkeypatch.setattr(journald_module, "_SOCKET", tmp_path)
    Trail(tmp_path, IDENTITY, FakeClock(), tell=tell_journald).emit([event()])
    assert sent[0]["GRANT_ID"] == "g-1"
    assert sent[0]["SUBJECT"] == "alice@example.com"
    assert sent[0]["TARGET_UID"] == "70001"
    assert sent[0]["MESSAGE_ID"] == journald_module.MESSAGE_IDS[EventKind.GRANT_OPENED]
    caplog.set_level(logging.INFO)
    for gone, value in (("_journal", None), ("_SOCKET", tmp_path / "absent")):
        monkeypatch.setattr(journald_module, gone, value)
        Trail(tmp_path, IDENTITY, FakeClock(), tell=tell_journald).emit([event()])
    assert [record.getMessage().split()[0] for record in caplog.records] == ["grant.opened", "grant.opened"]
    assert len(sent) == 1


FULL_DISK = """
import errno, json, os, sys
from pathlib import Path
from agent.audit import Trail
from agent.host.clock import FakeClock
from tests.unit.audit_values import IDENTITY, event
folder = Path(sys.argv[1])
subject = Trail(folder, IDENTITY, FakeClock(), tell=lambda *_: None)
subject.emit([event()])
with (folder / "ballast").open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
emitted = 1
while subject.lost == 0 and emitted < 500:
    subject.emit([event()]); emitted += 1
assert subject.lost == 1, subject.lost
(folder / "ballast").unlink()
subject.emit([event()])
lines = [json.loads(line) for line in (folder / "events.ndjson").read_bytes().splitlines()]
assert [line["count"] for line in lines if line["metadata"]["event_code"] == "audit.lost"] == [1]
assert len(lines) == emitted + 1
print("ok")
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a full tmpfs needs root and unshare(1)")
def test_on_a_really_full_disk_no_line_is_half_and_the_loss_is_exact(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    shell = f'mount -t tmpfs -o size=256k none "{tmp_path}" && exec "$@"'
    argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", shell, "sh", sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, check=False, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    if "mount:" in done.stderr:
        pytest.skip("no mount namespace here")
    assert done.stdout == "ok\n", done.stderr
