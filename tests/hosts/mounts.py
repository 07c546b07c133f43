"""The host's file tree: an overlay on a tree that stays as it is, visible on the machine at `<folder>/root`."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import linux
from tests.hosts.errors import HostUnavailable

# /proc/self/mountinfo writes space, tab, newline and backslash as octal.
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo (proc(5))."""

    point: Path
    kind: str
    options: tuple[str, ...]


def all_mounts() -> list[Mount]:
    """What is mounted in this process's mount namespace, in the order of mounting."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields.split()[4])
        found.append(Mount(Path(point), kind, tuple(options.split(","))))
    return found


def mount_root(name: str, lower: Path, folder: Path, in_memory: bool = False) -> Path:
    """Lay an overlay named `name` on `lower`, its own files in `folder`; returns the merged tree.

    Its own files are in a tmpfs if `in_memory`, or where `folder` lies on a file system that cannot carry them (another
    overlay, as in a container).

    Raises:
        HostUnavailable: this is not permitted here.
    """
    rw, merged = folder / "rw", folder / "root"
    merged.mkdir()
    rw.mkdir()
    try:
        try:
            if in_memory:
                linux.mount(name, rw, "tmpfs", options="mode=755")
            _overlay(name, lower, rw, merged)
        except OSError as failure:
            if in_memory or failure.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ELOOP):
                raise
            linux.mount(name, rw, "tmpfs", options="mode=755")
            _overlay(name, lower, rw, merged)
    except OSError as failure:
        reason = os.strerror(failure.errno or 0)
        raise HostUnavailable(f"no overlay can be mounted here: {reason}") from failure
    return merged


def mount_over(name: str, lower: Path, folder: Path, target: Path) -> None:
    """Show `lower` at `target` with an overlay of its own, or read-only where it cannot have one. Raises OSError."""
    rw = folder / "rw" / lower.relative_to("/").as_posix().replace("/", "-")
    rw.mkdir()
    try:
        _overlay(name, lower, rw, target)
    except OSError:
        linux.mount(str(lower), target, None, linux.MS_BIND)
        linux.mount("none", target, None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY)


def _overlay(name: str, lower: Path, rw: Path, merged: Path) -> None:
    for part in ("upper", "work"):
        (rw / part).mkdir(mode=0o755, exist_ok=True)
    linux.mount(name, merged, "overlay", options=f"lowerdir={lower},upperdir={rw}/upper,workdir={rw}/work")
    # Else a copy of this mount in another namespace would outlive the host.
    linux.mount("none", merged, None, linux.MS_PRIVATE)


def unmount_all(folder: Path) -> None:
    """Unmount everything at or below `folder`, the last mounted first. Raises OSError."""
    for mount in reversed(all_mounts()):
        if mount.point.is_relative_to(folder):
            linux.unmount(mount.point)
