"""Which mounts are searched, which are a tenant's, and whose IPC objects go."""

import contextlib
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.host import ipc, mounts
from agent.host.found import Found
from agent.host.remains import _whose

NODEV = frozenset({"proc", "sysfs", "tmpfs", "overlay", "nfs4", "fuse", "devpts", "cgroup2", "mqueue", "autofs", "9p"})
INFO = r"""21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
22 21 0:20 / /proc rw - proc proc rw
23 21 0:21 / /tmp rw - tmpfs tmpfs rw
24 21 254:1 /srv /mnt/bind rw - ext4 /dev/vda1 rw
25 21 254:2 /part /mnt/only\040part rw - xfs /dev/vda2 rw
26 21 0:40 / /mnt/nfs rw - nfs4 server:/x rw
27 21 0:41 / /home/jit-alice/ssh rw - fuse.sshfs host: rw,user_id=70001,group_id=70001
28 21 0:42 / /mnt/auto rw - autofs systemd-1 rw
29 21 254:3 / /mnt/image ro - squashfs /dev/loop0 ro
30 21 0:43 / /home/jit-alice/mnt rw - tmpfs none rw
32 21 0:45 / /run/user/70001 rw - tmpfs tmpfs rw
31 21 0:44 / /dev/mqueue rw - mqueue mqueue rw
broken line
"""


@pytest.fixture
def listed(tmp_path: Path) -> list[mounts.Mount]:
    (tmp_path / "info").write_text(INFO)
    return mounts.mounts(tmp_path / "info")


def test_every_local_file_system_is_searched_once_and_no_other(listed: list[mounts.Mount]) -> None:
    assert mounts.local_points(listed, NODEV) == [
        "/",
        "/tmp",
        "/mnt/only part",
        "/home/jit-alice/mnt",
        "/run/user/70001",
        "/dev/mqueue",
    ]
    assert "/mnt/nfs" in mounts.network_points(listed, NODEV) and "/" not in mounts.network_points(listed, NODEV)


def test_a_tenants_mounts_are_its_fuse_and_what_lies_in_its_home(listed: list[mounts.Mount]) -> None:
    homes = {Path("/home/jit-alice"): 70001}
    its = ["/home/jit-alice/ssh", "/home/jit-alice/mnt", "/run/user/70001"]
    assert [each.point for each in listed if _whose(each, homes, True) == 70001] == its
    assert [each.point for each in listed if _whose(each, homes, False) == 70001] == its[:2]
    assert [each.point for each in listed if _whose(each, {Path("/home/jit-al"): 70002}, True) is not None] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_unmounting_follows_no_link(tmp_path: Path) -> None:
    script = f"""
set -e
mount -t tmpfs none {tmp_path}
mkdir -p {tmp_path}/real/mnt {tmp_path}/home
mount -t tmpfs none {tmp_path}/real/mnt
ln -s {tmp_path}/real {tmp_path}/home/link
cd {Path(__file__).parents[2]}
{sys.executable} -c '
from pathlib import Path
from agent.host import mounts
for point in ("{tmp_path}/home/link/mnt", "{tmp_path}/real/mnt"):
    try:
        mounts.detach(point)
        print("gone")
    except OSError as error:
        print("refused")
print(sum(each.point == "{tmp_path}/real/mnt" for each in mounts.mounts(Path("/proc/self/mountinfo"))))'
"""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=False)
    if "permission" in done.stderr.lower():
        pytest.skip("no private mount namespace here")
    assert done.stdout.split() == ["refused", "gone", "0"], done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
@pytest.mark.parametrize("uid", [70001])
def test_ipc_objects_of_the_uid_go_and_nobody_elses(uid: int) -> None:
    """In an IPC namespace of its own."""
    script = f"""
import ctypes, os, sys
from agent.host import ipc
libc = ctypes.CDLL(None)
kept = [libc.shmget(0, 4096, 0o1600), libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)]
if os.fork() == 0:
    os.setresuid({uid}, {uid}, {uid})
    for n in range(20):
        libc.shmget(0, 4096, 0o1600)
    libc.semget(0, 1, 0o1600), libc.msgget(0, 0o1600)
    os._exit(0)
os.wait()
looked = ipc.objects_of([{uid}, 70002], remove=False)
gone = ipc.objects_of([{uid}, 70002], remove=True)
again = ipc.objects_of([{uid}, 70002], remove=True)
mine = ipc.objects_of([0], remove=False)
print(len(looked), len(gone), all(each.removed for each in gone), again, sorted(each.kind for each in mine))
"""
    done = subprocess.run(
        ["unshare", "--ipc", "--mount-proc", "--fork", "--pid", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    if "permission" in done.stderr.lower():
        pytest.skip("no namespaces here")
    assert done.stdout.strip() == "19 19 True [] ['msg', 'sem', 'shm']", done.stderr


def test_an_object_given_away_is_told_and_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shm").write_text("key shmid perms size cpid lpid nattch uid gid cuid cgid\n 0 7 1600 4096 1 1 0 0 0 70001 70001\n")
    monkeypatch.setattr(ipc, "_drop", lambda *_: pytest.fail("removed"))
    detail = "made by the tenant, owned by another user"
    assert ipc.objects_of([70001], remove=True, folder=tmp_path) == [Found("shm", "shm 7", detail, uid=70001)]


def test_the_kernels_own_names_are_there() -> None:
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):
        assert all((libc.shmctl, libc.semctl, libc.msgctl, libc.umount2))
        return
    pytest.fail("the C library has none of these")
