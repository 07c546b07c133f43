"""A host's own cgroup: what holds all its processes, bounds them, and ends them in one write."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import mounts, tools
from tests.hosts.errors import HostUnavailable


def _mounts(*kinds: str) -> list[mounts.Mount]:
    return [mount for mount in mounts.all_mounts() if mount.kind in kinds]


@dataclass(frozen=True)
class Cgroup:
    """The cgroup `name` of the version 2 hierarchy, and of the version 1 pids hierarchy where pids is mounted as that.

    A machine with the pids controller in version 2 has one folder, a hybrid one two.
    """

    folder: Path
    pids: Path

    @classmethod
    def named(cls, name: str) -> "Cgroup":
        """Where the cgroup `name` is or would be on this machine.

        Raises:
            HostUnavailable: there is no version 2 hierarchy, or no pids controller to bound a host with.
        """
        unified = next((mount.point for mount in _mounts("cgroup2")), None)
        if unified is None:
            raise HostUnavailable("no cgroup2 file system is mounted")
        for legacy in _mounts("cgroup"):
            if "pids" in legacy.options:
                return cls(unified / name, legacy.point / name)
        if "pids" not in (unified / "cgroup.controllers").read_text().split():
            raise HostUnavailable("no pids cgroup controller, which keeps a fork bomb in its host")
        return cls(unified / name, unified / name)

    def create(self, pids_max: int) -> None:
        """Make it, with room for `pids_max` processes and threads.

        Raises:
            HostUnavailable: this is not permitted here.
        """
        try:
            if self.pids == self.folder:
                (self.folder.parent / "cgroup.subtree_control").write_text("+pids")
            self.folder.mkdir()
            if self.pids != self.folder:
                self.pids.mkdir()
            (self.pids / "pids.max").write_text(str(pids_max))
        except OSError as failure:
            raise HostUnavailable(f"no cgroup can be made here: {failure.strerror}") from failure

    def entrances(self) -> list[Path]:
        """The files to write a process id to, so that it (and all it starts) is in the host."""
        return [folder / "cgroup.procs" for folder in dict.fromkeys((self.folder, self.pids))]

    def kill(self, timeout: float = 10.0) -> bool:
        """SIGKILL all in it at once (cgroup.kill, Linux >= 5.14) and wait until it is empty; False if not in time."""
        if not self.folder.is_dir():
            return True
        (self.folder / "cgroup.kill").write_text("1")
        return tools.wait_until(lambda: not self.populated(), timeout, step=0.002)

    def populated(self) -> bool:
        """Whether any process is in it."""
        events = (self.folder / "cgroup.events").read_text()
        return re.search(r"^populated 1$", events, re.MULTILINE) is not None

    def clear(self) -> None:
        """Remove the cgroups below it, which must be empty of processes."""
        for base in self._everywhere():
            _remove(base, keep_top=True)

    def remove(self) -> None:
        """Remove it and all below it; it must be empty of processes."""
        for base in self._everywhere():
            # A killed process leaves the pids hierarchy when it is reaped, a moment after it left the other.
            tools.wait_until(lambda base=base: _remove(base), timeout=5.0)  # type: ignore[misc]

    def _everywhere(self) -> list[Path]:
        """Its folder in each hierarchy that has one: on a hybrid machine nspawn makes another in systemd's own."""
        return [folder for mount in _mounts("cgroup2", "cgroup") if (folder := mount.point / self.folder.name).is_dir()]


def _remove(folder: Path, keep_top: bool = False) -> bool:
    try:
        for below in folder.iterdir():
            if below.is_dir():
                _remove(below)
        if not keep_top:
            folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
