"""The search for what is left: what it finds, removes, packs, leaves alone, and when it gives up."""

import os
import socket
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from agent.host import archive
from agent.host.found import Found, Search, SetGid
from agent.host.own import OwnRemover
from agent.host.searcher import Searcher, acl_ids, read_order, search
from agent.host.searching import _order_text
from agent.host.trees import opened

ALICE, BOB = 70001, 70002
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


def put(path: Path, uid: int = ALICE, gid: int = 0, mode: int = 0o644, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def folder(path: Path, uid: int = ALICE, mode: int = 0o755) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def look(root: Path, *uids: int, remove: bool = True, **more: object) -> list[Found]:
    order = Search(uids=frozenset(uids or {ALICE}), remove=remove, **more)  # type: ignore[arg-type]
    found = Searcher(order, remove=remove)
    found.run([], first=[str(root)])
    return found.found


def names(found: Collection[Found], root: Path, removed: bool) -> set[str]:
    return {str(Path(each.where).relative_to(root)) for each in found if each.removed is removed}


@as_root
def test_what_the_uid_owns_goes_and_nothing_else(tmp_path: Path) -> None:
    folder(tmp_path / "theirs/sub", 0)
    for name, uid in (("a", ALICE), ("b", 0), ("theirs/sub/c", ALICE), ("theirs/sub/d", 0), ("bobs", BOB)):
        put(tmp_path / name, uid)
    folder(tmp_path / "ours/inner/deeper")
    put(tmp_path / "ours/inner/e")
    os.chown(tmp_path / "ours", ALICE, 0)
    os.chown(tmp_path / "ours/inner", ALICE, 0)
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.chown(tmp_path / "link", ALICE, 0, follow_symlinks=False)
    found = look(tmp_path)
    assert names(found, tmp_path, True) == {"a", "theirs/sub/c", "ours", "link"}
    assert names(found, tmp_path, False) == set()
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "b",
        "bobs",
        "theirs",
        "theirs/sub",
        "theirs/sub/d",
    ]
    assert Path("/etc/passwd").exists()
    assert {each.uid for each in found} == {ALICE}


@as_root
def test_anothers_file_in_a_tenants_folder_stays_where_it_is_and_so_does_the_folder(tmp_path: Path) -> None:
    folder(tmp_path / "ours/inner")
    os.chown(tmp_path / "ours", ALICE, 0)
    put(tmp_path / "ours/inner/roots", 0, text="precious")
    put(tmp_path / "ours/inner/own")
    put(tmp_path / "ours/own")
    found = look(tmp_path)
    assert (tmp_path / "ours/inner/roots").read_text() == "precious"
    assert not (tmp_path / "ours/inner/own").exists() and not (tmp_path / "ours/own").exists()
    left = [each for each in found if not each.removed]
    assert left and all("ours" in each.where for each in left)
    assert any("owned by uid 0" in each.detail for each in left)


@as_root
def test_looking_only_removes_nothing(tmp_path: Path) -> None:
    put(tmp_path / "a")
    folder(tmp_path / "ours")
    assert names(look(tmp_path, remove=False), tmp_path, False) == {"a", "ours"}
    assert (tmp_path / "a").exists() and (tmp_path / "ours").exists()


@as_root
def test_kinds_are_told_apart(tmp_path: Path) -> None:
    put(tmp_path / "suid", mode=0o4755)
    put(tmp_path / "sgid", mode=0o2755)
    put(tmp_path / "grouped", 0, ALICE)
    put(tmp_path / "lent", 1500, 999, 0o2755)
    put(tmp_path / "lent-before", 1500, 998, 0o2755)
    put(tmp_path / "plain-group", 1500, 999, 0o755)
    now = time.time_ns()
    lent = (SetGid(999, 1500, now - 10**11), SetGid(998, 1500, now + 10**11))
    found = look(tmp_path, setgid=lent)
    kinds = {(each.kind, Path(each.where).name, each.removed) for each in found}
    assert kinds == {
        ("setuid", "suid", True),
        ("setgid", "sgid", True),
        ("group-file", "grouped", False),
        ("setgid", "lent", False),
    }
    assert (tmp_path / "grouped").exists() and (tmp_path / "lent").exists()


@as_root
def test_an_access_list_that_names_the_uid_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "shared", 0)
    entries = [(0x01, 6, 0xFFFFFFFF), (0x02, 6, ALICE), (0x04, 4, 0xFFFFFFFF), (0x10, 6, 0xFFFFFFFF), (0x20, 4, 0xFFFFFFFF)]
    raw = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", raw)
    except OSError:
        pytest.skip("no access lists on this file system")
    assert [each.kind for each in look(tmp_path, acls=True)] == ["acl"]
    assert look(tmp_path) == []
    assert acl_ids(raw) == {ALICE}
    assert path.read_text() == "x" and os.getxattr(path, "system.posix_acl_access") == raw, "told, not touched"
    monkeypatch.setattr("agent.host.searcher._JOURNALS", (str(tmp_path),))
    assert [(each.kind, each.removed) for each in look(tmp_path, remove=False)] == [("acl", False)]
    assert [(each.kind, each.removed) for each in look(tmp_path)] == [("acl", True)]
    assert look(tmp_path, acls=True) == [] and path.exists(), "of a journal the entry goes, and nothing else"
    assert acl_ids(b"") == acl_ids(raw[:7]) == set()


@as_root
def test_deep_trees_go_and_too_deep_ones_of_others_are_told(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine", tmp_path / "others"
    folder(mine), folder(others, BOB)
    for top, uid in ((mine, ALICE), (others, BOB)):
        fd = os.open(top, os.O_RDONLY)
        for _ in range(400):
            os.mkdir("d", dir_fd=fd)
            os.chown("d", uid, uid, dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
    found = look(tmp_path)
    assert not mine.exists()
    assert [(each.kind, each.uid, each.removed) for each in found if not each.removed] == [("unsearched", None, False)]
    subprocess.run(["rm", "-rf", str(others)], check=True)


@as_root
def test_a_search_out_of_time_says_that_it_does_not_know(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / str(number)).touch()
    found = look(tmp_path, patience_s=-1.0)
    assert [each.kind for each in found] == ["unsearched"] and found[0].uid is None


@as_root
def test_one_tenants_full_folders_take_no_more_than_their_share(tmp_path: Path) -> None:
    folder(tmp_path / "bobs", BOB, 0o777)
    for number in range(200):
        put(tmp_path / f"bobs/{number}", BOB)
    put(tmp_path / "z")
    walk = Searcher(Search(uids=frozenset({ALICE})), remove=True, foreign_max=100)
    walk.run([], first=[str(tmp_path)])
    assert not (tmp_path / "z").exists()
    assert [(each.kind, each.removed) for each in walk.found if not each.removed] == [("unsearched", False)]
    assert f"uid {BOB}" in next(each.detail for each in walk.found if not each.removed)
    assert walk.entries < 150


@as_root
def test_many_files_are_counted_and_a_few_named(tmp_path: Path) -> None:
    for number in range(300):
        put(tmp_path / str(number))
    found = look(tmp_path)
    assert len(found) == 65 and found[-1].where == "236 more" and found[-1].removed
    assert list(tmp_path.iterdir()) == []


@as_root
def test_what_is_to_be_archived_is_packed_whole_before_anything_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, target = tmp_path / "root", tmp_path / "archive/jit-alice-g-1-elsewhere.tar.gz"
    put(root / "work/a", text="hello", uid=ALICE)
    put(root / "b", BOB)
    folder(root / "dir")
    put(root / "dir/c", text="deep")
    os.mkfifo(root / "fifo")
    os.chown(root / "fifo", ALICE, 0)
    monkeypatch.setattr("agent.host.searcher.local_points", lambda *_: [str(root)])
    monkeypatch.setattr("agent.host.searcher.FIRST", ())
    monkeypatch.setattr(Searcher.run, "__defaults__", ((), ()))
    found, _ = search(Search(uids=frozenset({ALICE, BOB}), archives={ALICE: target}))
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*")) == ["work"]
    assert [each.where for each in found if each.kind == "archive" and each.removed] == [str(target)]
    with tarfile.open(target) as tar:
        members = {name.removeprefix(f"{str(root).lstrip('/')}/") for name in tar.getnames()}
        assert {"work/a", "dir", "dir/c"} <= members and "b" not in members
        assert tar.extractfile(f"{str(root).lstrip('/')}/dir/c").read() == b"deep"  # type: ignore[union-attr]
    assert target.stat().st_mode & 0o777 == 0o600


@as_root
def test_what_can_not_be_archived_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, target = tmp_path / "root", tmp_path / "archive/x.tar.gz"
    put(root / "a")
    monkeypatch.setattr("agent.host.searcher.local_points", lambda *_: [str(root)])
    monkeypatch.setattr(Searcher.run, "__defaults__", ((), ()))

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("agent.host.archive.os.fsync", full)
    found, _ = search(Search(uids=frozenset({ALICE}), archives={ALICE: target}))
    assert (root / "a").exists()
    assert {(each.kind, each.removed) for each in found} == {("file", False), ("archive", False)}
    assert list(target.parent.iterdir()) == []


@as_root
def test_an_earlier_archive_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    target = put(tmp_path / "archive/x.tar.gz", 0, text="old")
    put(tmp_path / "a")
    with archive.Archives({ALICE: target}) as archives, opened(str(tmp_path)) as fd:
        archives.add(ALICE, fd, "a", "/a")
    assert target.read_text() == "old"
    assert [each.where for each in archives.found] == [str(target.with_name("2-x.tar.gz"))]


@as_root
def test_a_folder_swapped_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """An accomplice exchanges a folder of the tenant's and a link to the precious one, as fast as it can."""
    precious = tmp_path / "precious"
    for number in range(50):
        put(precious / f"f{number}", 0, text=str(number))
    shared = folder(tmp_path / "shared", 0, 0o777)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for act in (
                lambda: (shared / "x").symlink_to(precious),
                (shared / "x").unlink,
                lambda: folder(shared / "x"),
                lambda: put(shared / "x/f1"),
                lambda: (shared / "x").rename(shared / "y"),
            ):
                try:
                    act()
                except OSError:
                    continue

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(200):
            look(shared, ALICE)
            with opened(str(shared)) as fd:
                OwnRemover(ALICE, time.monotonic() + 5).remove(fd, "x", "x")
    finally:
        stop.set()
        swapper.join()
    assert sorted(p.name for p in precious.iterdir()) == sorted(f"f{number}" for number in range(50))
    assert all((precious / f"f{number}").read_text() == str(number) for number in range(50))


@as_root
def test_a_hard_link_loses_its_name_and_the_file_its_content_never(tmp_path: Path) -> None:
    kept = put(tmp_path / "kept", 0, text="precious")
    folder(tmp_path / "ours")
    os.link(kept, tmp_path / "ours/link")
    look(tmp_path)
    assert kept.read_text() == "precious"
    assert (tmp_path / "ours/link").exists(), "root's file, wherever it has a name"


@as_root
def test_a_mount_inside_a_tenants_folder_is_never_entered(tmp_path: Path) -> None:
    script = f"""
set -e
mount -t tmpfs none {tmp_path}
mkdir -p {tmp_path}/t/ours/mnt {tmp_path}/precious
echo x > {tmp_path}/precious/file; chown -R 70001 {tmp_path}/t/ours {tmp_path}/precious
mount --bind {tmp_path}/precious {tmp_path}/t/ours/mnt
cd {Path(__file__).parents[2]}
python3 -I -c '
import sys; sys.path.insert(0, ".")
from agent.host.found import Search
from agent.host.searcher import Searcher
walk = Searcher(Search(uids=frozenset([70001])), remove=True)
walk.run([], first=["{tmp_path}/t"])
print([each.removed for each in walk.found])'
cat {tmp_path}/precious/file
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "permission" in done.stderr.lower():
        pytest.skip("no private mount namespace here")
    assert done.stdout.split() == ["[False]", "x"], done.stderr


@as_root
def test_a_socket_and_immutable_files_go_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ours:
        ours.bind(str(tmp_path / "sock"))
    os.chown(tmp_path / "sock", ALICE, ALICE)
    put(tmp_path / "f")
    subprocess.run(["chattr", "+i", str(tmp_path / "f")], capture_output=True, check=False)
    look(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_order_survives_its_way_to_the_other_process() -> None:
    order = Search(frozenset({ALICE}), {ALICE: Path("/a b")}, (SetGid(1, 2, 3),), (Path("/home/x"),), False, False, True, 1.5)
    assert read_order(_order_text(order)) == order
