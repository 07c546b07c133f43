"""Taking set-id bits off a tenant's files, and at jobs with a lent group out of the spool: nobody else's are touched."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host import atjobs, setid

ME, OTHER = os.getuid(), 70001


def program(path: Path, mode: int = 0o4755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_the_uid_owns_is_disarmed_however_deep_and_keeps_its_other_bits(tmp_path: Path) -> None:
    files = [
        program(tmp_path / "a"),
        program(tmp_path / "b/c/d", 0o2711),
        program(tmp_path / "e", 0o6755),
        program(tmp_path / "f", 0o644),
    ]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o2775)  # set-gid on a folder runs nothing
    assert sorted(setid.disarm([tmp_path], {ME})) == [f"{tmp_path}/{name}" for name in ("a", "b/c/d", "e")]
    assert [mode(path) for path in files] == [0o755, 0o711, 0o755, 0o644]
    assert mode(tmp_path / "folder") == 0o2775


def test_what_another_owns_and_what_a_link_points_to_stay_as_they_are(tmp_path: Path) -> None:
    outside, inside = program(tmp_path / "outside/x"), tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "folder").symlink_to(outside.parent)
    os.mkfifo(inside / "fifo", 0o4755)
    assert setid.disarm([inside], {ME}) == []
    assert setid.disarm([outside.parent], {OTHER}) == []
    assert mode(outside) == 0o4755


def test_a_walk_is_bounded_and_a_missing_folder_is_fine(tmp_path: Path) -> None:
    for number in range(20):
        program(tmp_path / f"{number}")
    assert len(setid.disarm([tmp_path / "none", tmp_path], {ME}, entries=5)) == 5
    assert setid.disarm([tmp_path], {ME}, deadline_s=-1) == []


def test_of_a_lent_group_only_what_was_given_the_bit_meanwhile_loses_it(tmp_path: Path) -> None:
    before = program(tmp_path / "before", 0o2755)
    opened_ns = before.stat().st_ctime_ns + 1
    time.sleep(0.02)
    made, plain = program(tmp_path / "made", 0o6755), program(tmp_path / "plain", 0o755)
    own = os.getgid()
    assert setid.disarm_group([tmp_path], ME, {own + 1}, opened_ns) == []
    assert setid.disarm_group([tmp_path], OTHER, {own}, opened_ns) == []
    assert setid.disarm_group([tmp_path], ME, {own}, opened_ns) == [str(made)]
    assert (mode(before), mode(made), mode(plain)) == (0o2755, 0o4755, 0o755)


def test_the_program_of_a_process_is_disarmed_wherever_it_is(tmp_path: Path) -> None:
    copy = tmp_path / "sleep"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o4755)
    with subprocess.Popen([copy, "60"]) as running:
        try:
            assert not setid.disarm_program(running.pid, {OTHER})
            assert setid.disarm_program(running.pid, {ME})
            assert not setid.disarm_program(running.pid, {ME}), "once is enough"
        finally:
            running.kill()
    assert mode(copy) == 0o755
    assert not setid.disarm_program(2**22 + 1, {ME})


def job(spool: Path, name: str, uid: int, gid: int) -> Path:
    path = spool / name
    path.write_text(f"#!/bin/sh\n# atrun uid={uid} gid={gid}\n# mail x 0\n")
    return path


def test_only_jobs_of_the_login_with_a_lent_group_are_dropped(tmp_path: Path) -> None:
    gone, kept = job(tmp_path, "a1", ME, 60), job(tmp_path, "a2", ME, 1000)
    (tmp_path / "a3").write_text("no job at all")
    (tmp_path / "a4").symlink_to(gone)
    (tmp_path / "folder").mkdir()
    assert atjobs.drop_jobs(OTHER, {60}, [tmp_path]) == 0
    assert atjobs.drop_jobs(ME, {60}, [tmp_path / "none", tmp_path]) == 1
    assert not gone.exists() and kept.exists() and (tmp_path / "a3").exists()


def test_a_spool_that_cant_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError) as caught:
        atjobs.drop_jobs(ME, {60}, [tmp_path / "file"])
    assert caught.value.code == "at_spool"
