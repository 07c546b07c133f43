"""The host's file tree: an overlay on the cached root, visible on the machine at `<folder>/root`."""

import errno
import re
from pathlib import Path

from tests.hosts import linux

# /proc/self/mountinfo writes space, tab, newline and backslash as octal.
_ESCAPE = re.compile(r"\\([0-7]{3})")


def mount_root(name: str, lower: Path, folder: Path) -> Path:
    """Lay an overlay named `name` on `lower`, its own files in `folder`; returns the merged tree.

    Where `folder` lies on a file system that cannot carry an overlay (another overlay, as in a container), its files
    go to a tmpfs instead.
    """
    rw, merged = folder / "rw", folder / "root"
    merged.mkdir()
    rw.mkdir()
    try:
        _overlay(name, lower, rw, merged)
    except OSError as failure:
        if failure.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ELOOP):
            raise
        linux.mount(name, rw, "tmpfs", options="mode=755")
        _overlay(name, lower, rw, merged)
    # Else a copy of this mount in another namespace would outlive the host.
    linux.mount("none", merged, None, linux.MS_PRIVATE)
    return merged


def _overlay(name: str, lower: Path, rw: Path, merged: Path) -> None:
    for part in ("upper", "work"):
        (rw / part).mkdir(mode=0o755, exist_ok=True)
    linux.mount(name, merged, "overlay", options=f"lowerdir={lower},upperdir={rw}/upper,workdir={rw}/work")


def under(folder: Path) -> list[Path]:
    """The mount points at or below `folder`, the last mounted first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), line.split()[4]))
        if point.is_relative_to(folder):
            found.append(point)
    return found[::-1]


def unmount_all(folder: Path) -> None:
    """Unmount everything at or below `folder`."""
    for point in under(folder):
        linux.unmount(point)
