"""Files and trees: whole or not at all, and never out of the tree they were pointed at."""

import os
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from agent.config import Config
from agent.errors import HostError
from agent.host import files, homes, system, trees

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to own files as others")
UID = 70001


def test_a_write_is_whole_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        files.atomic_write(tmp_path / "f", b"one", 0o644)
        files.atomic_write(tmp_path / "f", b"two", 0o440)
    finally:
        os.umask(old)
    assert (tmp_path / "f").read_bytes() == b"two"
    assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o440
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_write_replaces_a_symlink_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to("target")
    files.atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.atomic_write(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(HostError, match="write_failed"):
        files.atomic_write(tmp_path / "f", b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


def killed_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SIGKILL leaves it: the unfinished file stands beside the path."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "rename", lambda *_args, **_more: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(os, "unlink", lambda *_args, **_more: None)
        files.atomic_write(path, b"half", 0o600)


def test_what_killed_writes_left_keeps_nobody_from_writing_and_is_found_without_a_look_through_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, neighbour = tmp_path / "a", tmp_path / "a.0"
    neighbour.write_bytes(b"somebody's")
    for _ in range(3):
        killed_write(path, monkeypatch)
    assert len([each for each in tmp_path.iterdir() if each.name.startswith(files.TEMPORARY)]) == 3
    files.atomic_write(path, b"new", 0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda *_: pytest.fail("it may hold ten thousand files"))
        files.clear_unwritten(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "a.0"]
    assert path.read_bytes() == b"new"


def test_more_writers_than_names_are_all_served_and_what_is_left_is_found_by_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    for _ in range(6):
        killed_write(path, monkeypatch)
    files.atomic_write(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    files.clear_leftovers(path)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_reads_are_bounded_and_only_of_regular_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "fifo")
    assert files.read_bounded(tmp_path / "f", 100) == b"x" * 100
    assert files.read_bounded(tmp_path / "none") is None
    for name, limit, code in (
        ("f", 99, "file_too_long"),
        ("link", 100, "not_a_file"),
        ("fifo", 100, "not_a_file"),
        (".", 1, "not_a_file"),
    ):
        with pytest.raises(HostError, match=code):
            files.read_bounded(tmp_path / name, limit)


def test_removing_is_idempotent_and_takes_the_link_only(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("stays")
    (tmp_path / "link").symlink_to("f")
    assert files.exists(tmp_path / "link")
    for _ in range(2):
        files.remove(tmp_path / "link")
    assert (tmp_path / "f").read_text() == "stays"


def _remove(path: Path, **more: float) -> list[str]:
    with files.folder(path.parent) as parent:
        return trees.remove_tree(parent, path.name, os.geteuid(), str(path), **more)


def test_a_tree_goes_whatever_its_depth_and_names(tmp_path: Path) -> None:
    deep = tmp_path / "home"
    deep.mkdir()
    fd = os.open(deep, os.O_DIRECTORY)
    for _ in range(3000):  # far beyond PATH_MAX and the descriptors one may have
        os.mkdir("d" * 50, dir_fd=fd)
        inner = os.open("d" * 50, os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    os.mkfifo(deep / "fifo")
    (deep / "out").symlink_to("/etc")
    (deep / os.fsdecode(b"\xff\n")).write_text("")
    (deep / ".tidegate-moved-1").mkdir()
    (deep / "closed").mkdir(mode=0o000)
    assert _remove(deep) == []
    assert not deep.exists()
    assert Path("/etc/passwd").exists()
    assert _remove(deep) == []


def test_a_tree_of_somebody_else_and_a_symlink_in_its_place_are_left(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/f").write_text("")
    (tmp_path / "home").symlink_to("real")
    assert len(_remove(tmp_path / "home")) == 1
    with files.folder(tmp_path) as parent:
        assert trees.remove_tree(parent, "real", UID, "real") == [f"real: owned by uid {os.geteuid()}, not {UID}"]
    assert (tmp_path / "real/f").exists()


def test_a_removal_that_runs_out_of_time_says_so(tmp_path: Path) -> None:
    (tmp_path / "home/a").mkdir(parents=True)
    left = _remove(tmp_path / "home", deadline_s=-1)
    assert left == [f"{tmp_path}/home/a: out of time"]


@as_root
def test_a_bind_mount_in_a_tree_is_never_entered(tmp_path: Path) -> None:
    script = f"""
set -e
mount -t tmpfs none {tmp_path}
mkdir -p {tmp_path}/home/deep/mnt {tmp_path}/home/top {tmp_path}/precious
echo x > {tmp_path}/precious/file; echo y > {tmp_path}/home/own
mount --bind {tmp_path}/precious {tmp_path}/home/deep/mnt
mount --bind {tmp_path}/precious {tmp_path}/home/top
cd {Path(__file__).parents[2]}
{shutil.which("python3")} -I -c '
import sys; sys.path.insert(0, ".")
from pathlib import Path
from agent.host import files, trees
p = Path("{tmp_path}/home")
with files.folder(p.parent) as parent: print(len(trees.remove_tree(parent, "home", 0, "home")))'
cat {tmp_path}/precious/file; ls {tmp_path}/home
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "permission" in done.stderr.lower():
        pytest.skip("no private mount namespace here")
    assert done.stdout.split()[:2] == ["2", "x"], done.stderr
    assert "own" not in done.stdout.split()


@as_root
def test_a_home_is_made_whole_and_an_unfinished_one_is_made_anew(tmp_path: Path) -> None:
    skel, home = tmp_path / "skel", tmp_path / "home/jit-a"
    (skel / ".config").mkdir(parents=True)
    (skel / ".config/x").write_text("x")
    (skel / "link").symlink_to("/etc/passwd")
    (skel / "suid").write_text("")
    (skel / "suid").chmod(0o6755)
    (tmp_path / "home/.tidegate-new-jit-a/half").mkdir(parents=True)
    for _ in range(2):
        homes.create_home(home, UID, UID, skel)
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["jit-a"]
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in (home, *home.rglob("*"))} == {(UID, UID)}
    assert home.stat().st_mode & 0o7777 == 0o700
    assert (home / "suid").stat().st_mode & 0o7777 == 0o755
    assert (home / ".config/x").read_text() == "x"


@as_root
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_home_that_somebody_has_is_never_taken_nor_removed(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    if kind == "folder":
        home.mkdir()
    elif kind == "file":
        home.write_text("")
    else:
        home.symlink_to("/root")
    with pytest.raises(HostError, match="home_taken"):
        homes.create_home(home, UID, UID, tmp_path / "none")
    assert homes.dispose_home(home, UID, tmp_path / "archive.tar.gz").left
    assert files.exists(home)
    assert not (tmp_path / "archive.tar.gz").exists()


@as_root
def test_an_archive_has_all_that_is_the_homes_own_and_follows_no_link(tmp_path: Path) -> None:
    home, target = tmp_path / "jit-a", tmp_path / "archive/jit-a-g1.tar.gz"
    homes.create_home(home, UID, UID, tmp_path / "none")
    (home / "notes").write_text("hello")
    (home / "out").symlink_to("/etc/shadow")
    os.mkfifo(home / "fifo")
    (home / os.fsdecode(b"\xfe")).write_text("odd")
    disposed = homes.dispose_home(home, UID, target)
    assert (disposed.archive, disposed.left) == (str(target), ())
    assert not home.exists()
    assert target.stat().st_mode & 0o7777 == 0o600
    with tarfile.open(target) as tar:
        assert tar.extractfile("jit-a/notes").read() == b"hello"  # type: ignore[union-attr]
        assert tar.getmember("jit-a/out").linkname == "/etc/shadow"
        assert b"fifo" in tar.extractfile("jit-a/TIDEGATE-NOT-ARCHIVED.txt").read()  # type: ignore[union-attr]
    before = target.read_bytes()
    assert homes.dispose_home(home, UID, target).archive == str(target)
    assert target.read_bytes() == before


@as_root
def test_no_space_for_an_archive_keeps_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "jit-a"
    homes.create_home(home, UID, UID, tmp_path / "none")
    (home / "notes").write_text("hello")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(HostError, match="archive_failed"):
        homes.dispose_home(home, UID, tmp_path / "archive/a.tar.gz")
    assert (home / "notes").exists()
    assert list((tmp_path / "archive").iterdir()) == []


@as_root
def test_a_kill_while_packing_leaves_no_half_archive_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, archive = tmp_path / "jit-a", tmp_path / "archive"
    homes.create_home(home, UID, UID, tmp_path / "none")
    archive.mkdir()
    (archive / ".tidegate-jit-a-g1.tar.gz.0123456789ab").write_bytes(b"half")
    (archive / ".tidegate-jit-b-g2.tar.gz.0123456789ab").write_bytes(b"another's")
    homes.dispose_home(home, UID, archive / "jit-a-g1.tar.gz")
    assert sorted(path.name for path in archive.iterdir()) == [".tidegate-jit-b-g2.tar.gz.0123456789ab", "jit-a-g1.tar.gz"]


@as_root
@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("owner", [0, UID])
def test_a_home_that_was_killed_just_before_it_got_its_name_is_made_again_or_removed(
    tmp_path: Path, owner: int, again: bool
) -> None:
    half = tmp_path / ".tidegate-new-jit-a"
    half.mkdir()
    (half / ".bashrc").touch()
    for path in (half / ".bashrc", half):
        os.chown(path, owner, owner)
    if again:
        homes.create_home(tmp_path / "jit-a", UID, UID, tmp_path / "none")
        assert [path.name for path in tmp_path.iterdir()] == ["jit-a"]
    else:
        assert homes.dispose_home(tmp_path / "jit-a", UID, None).left == ()
        assert list(tmp_path.iterdir()) == []


@as_root
def test_immutable_files_are_removed_all_the_same(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "f").write_text("")
    if subprocess.run(["chattr", "+i", str(home / "f"), str(home)], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no immutable flag")
    assert _remove(home) == []


def test_a_big_tree_goes_in_reasonable_time(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for folder in range(100):
        (home / f"{folder}/a/b").mkdir(parents=True)
        for number in range(20):
            (home / f"{folder}/a/b/{number}").touch()
    begun = time.monotonic()
    assert _remove(home) == []
    assert time.monotonic() - begun < 5


def test_a_folders_removals_are_synced_and_a_disk_that_will_not_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.sync_folder(tmp_path)
    files.sync_folder(tmp_path / "absent")
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(HostError, match="may come back") as caught:
        files.sync_folder(tmp_path)
    assert caught.value.code == "remove_failed"


def _no_space(fd: int) -> None:
    raise OSError(28, "No space left on device")


@as_root
def test_of_a_folder_that_others_write_to_only_own_files_of_the_name_count(tmp_path: Path) -> None:
    (tmp_path / "n.1").write_bytes(b"12345")
    (tmp_path / "n.2").write_bytes(b"another's")
    os.chown(tmp_path / "n.2", UID, UID)
    (tmp_path / "n.3").mkdir()
    (tmp_path / "n.4").symlink_to("n.1")
    os.mkfifo(tmp_path / "n.5")
    (tmp_path / "xn.6").write_bytes(b"of another name")
    with files.opened_folder(tmp_path) as folder:
        found = files.own_files(folder, re.compile(r"n\.(\d)"))
    assert [(match.string, match[1], size) for match, size in found] == [("n.1", "1", 5)]


def test_of_a_folder_that_others_write_to_no_more_than_so_many_entries_are_looked_at(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).touch()
    with files.opened_folder(tmp_path) as folder:
        assert len(files.own_files(folder, re.compile(r"\d"), most=7)) == 7
        assert len(files.own_files(folder, re.compile(r"\d"))) == 10


def test_beside_what_lets_a_tenant_be_started_later_no_unfinished_write_of_ours_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, other = tmp_path / "crontabs", tmp_path / "keys"
    monkeypatch.setattr(system, "_SIDE_DOORS", (door,))
    cleared: list[Path] = []
    monkeypatch.setattr(files, "clear_unwritten", cleared.append)
    host = system.SystemHost(Config())
    for folder in (door, other):
        folder.mkdir()
        (folder / "jit-alice").write_text("x")
        host.remove(folder / "jit-alice")
        assert not (folder / "jit-alice").exists()
    assert cleared == [other / "jit-alice"]
