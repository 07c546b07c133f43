"""Mounted file systems: which are local, which a tenant made, and letting go of those (proc(5), mountinfo)."""

import contextlib
import ctypes
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.host.trees import opened

_HOSTS = Path("/proc/1")  # the host's own view: the daemon's unit gives it a mount namespace to itself
_MOUNTINFO = _HOSTS / "mountinfo"
_CLONE_NEWNS = 0x20000
_OCTAL = re.compile(r"\\([0-7]{3})")
# What is on no device and still this host's own. All else that is on none is the kernel's, a network's or a user's program.
_LOCAL = frozenset({"tmpfs", "ramfs", "overlay", "mqueue", "zfs", "ubifs", "hugetlbfs", "aufs", "unionfs", "bcachefs"})
# On a device, but shared by several hosts, or such that nobody can have written to it.
_NOT_OURS = frozenset({"gfs2", "ocfs2", "iso9660", "squashfs", "erofs", "cramfs", "romfs", "udf"})
_DETACH, _NOFOLLOW = 0x2, 0x8  # MNT_DETACH, UMOUNT_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo. ``device`` is ``major:minor``, ``options`` the file system's own."""

    ident: int
    device: str
    root: str
    point: str
    type: str
    source: str
    options: str

    def of_uid(self) -> int | None:
        """Whose FUSE mount it is (mount(8): ``user_id``), None for any other."""
        found = re.search(r"(?:^|,)user_id=(\d+)", self.options) if self.type.startswith("fuse") else None
        return int(found[1]) if found else None


def mounts(path: Path = _MOUNTINFO) -> list[Mount]:
    """What is mounted, in the order it was. Raises OSError."""
    return list(_parse(path.read_text(encoding="utf-8", errors="surrogateescape")))


def _parse(text: str) -> Iterator[Mount]:
    for line in text.splitlines():
        fields, _, rest = line.partition(" - ")
        front, back = fields.split(" "), rest.split(" ")
        if len(front) < 6 or len(back) < 3:
            continue
        yield Mount(int(front[0]), front[2], _plain(front[3]), _plain(front[4]), back[0], _plain(back[1]), back[2])


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda found: os.fsdecode(bytes([int(found[1], 8)])), text)


def is_local(kind: str, nodev: Collection[str]) -> bool:
    """Whether a file system type keeps this host's own files. ``nodev``: those of /proc/filesystems that are on no device."""
    return kind in _LOCAL or (kind not in nodev and kind not in _NOT_OURS and not kind.startswith("fuse"))


def nodev_types(path: Path = Path("/proc/filesystems")) -> frozenset[str]:
    """File system types that are on no device (proc(5))."""
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="ascii").splitlines()
        return frozenset(line.split("\t")[1] for line in lines if line.startswith("nodev"))
    return frozenset({"proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "nfs", "nfs4", "cifs", "autofs", "9p", "ceph"})


def local_points(found: Collection[Mount], nodev: Collection[str]) -> list[str]:
    """Where to look so that each local file system is seen whole: its root where that is mounted, else each part of it."""
    chosen: dict[str, list[Mount]] = {}
    for mount in found:
        if is_local(mount.type, nodev):
            chosen.setdefault(mount.device, []).append(mount)
    points: list[str] = []
    for group in chosen.values():
        whole = [mount for mount in group if mount.root == "/"]
        points += [mount.point for mount in whole[:1] or group]
    return points


def network_points(found: Collection[Mount], nodev: Collection[str]) -> tuple[str, ...]:
    """Mount points where a look could hang, or start an automounter."""
    return tuple(mount.point for mount in found if not is_local(mount.type, nodev))


def join_hosts_namespace() -> None:
    """See, and change, what is mounted as the host does, in a process of one thread. Where it is refused all stays as it is."""
    with contextlib.suppress(OSError):
        fd = os.open(_HOSTS / "ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNS)  # os.setns comes with Python 3.12
        finally:
            os.close(fd)


def detach(point: str) -> None:
    """Take a mount away from where it is seen, what still uses it aside (umount2(2), MNT_DETACH); no symlink is followed.

    Raises:
        OSError: it can't, or the way there is not what mountinfo says.
    """
    with beneath(str(Path(point).parent)) as parent:
        target = os.fsencode(f"/proc/self/fd/{parent}/{Path(point).name}")
        if ctypes.CDLL(None, use_errno=True).umount2(target, _DETACH | _NOFOLLOW) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


@contextlib.contextmanager
def beneath(folder: str) -> Iterator[int]:
    """An absolute folder, opened from the root one name at a time so that no symlink is followed anywhere. Raises OSError."""
    with contextlib.ExitStack() as stack:
        fd = stack.enter_context(opened("/"))
        for name in [part for part in folder.split("/") if part]:
            fd = stack.enter_context(opened(name, fd))
        yield fd
