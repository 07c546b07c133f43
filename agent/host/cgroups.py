"""The unified cgroup tree (cgroups(7)): killing, freezing and emptiness of whole groups, where this host has one."""

from pathlib import Path

# Freezing one of these would stop the host itself, or the agent that is to thaw it.
_NEVER_FREEZE = ("/init.scope", "/system.slice/dbus", "/system.slice/systemd-", "/system.slice/ssh", "/system.slice/tidegate")


class Cgroups:
    """Paths inside this class are cgroup paths as /proc/PID/cgroup shows them (``/user.slice/user-70000.slice``)."""

    def __init__(self, mount: Path | None) -> None:
        self._mount = mount

    @classmethod
    def find(cls) -> "Cgroups":
        """The cgroup2 mount of this host: alone (unified) or beside version 1 (hybrid); none is allowed."""
        for candidate in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
            if (candidate / "cgroup.procs").exists() and (candidate / "cgroup.controllers").exists():
                return cls(candidate)
        return cls(None)

    @property
    def available(self) -> bool:
        """Whether there is a cgroup2 tree at all."""
        return self._mount is not None

    def user_slice(self, uid: int) -> str:
        """systemd's slice for everything a user's sessions started (systemd.special(7))."""
        return f"/user.slice/user-{uid}.slice"

    def kill(self, group: str) -> bool:
        """SIGKILL the whole group and its children, atomically against forks (Linux 5.14). False when it can't be done."""
        return self._write(group, "cgroup.kill", "1")

    def freeze(self, group: str, frozen: bool) -> bool:
        """Freeze or thaw; refuses the root, what the host itself runs in, and whatever holds PID 1 or this very process."""
        if group in {"", "/"} or group.startswith(_NEVER_FREEZE):
            return False
        if frozen and any(_inside(_group_of(pid), group) for pid in ("self", "1")):
            return False
        return self._write(group, "cgroup.freeze", "1" if frozen else "0")

    def populated(self, group: str) -> bool:
        """Whether any process, dead-but-unreaped ones aside, is in the group or below it. An absent group is empty."""
        text = self._read(group, "cgroup.events")
        return "populated 1" in text.splitlines()

    def processes(self, group: str) -> set[int]:
        """PIDs directly in the group."""
        return {int(line) for line in self._read(group, "cgroup.procs").split() if line.isdigit()}

    def _file(self, group: str, name: str) -> Path | None:
        if self._mount is None or ".." in group.split("/"):
            return None
        return self._mount / group.lstrip("/") / name

    def _write(self, group: str, name: str, value: str) -> bool:
        path = self._file(group, name)
        if path is None:
            return False
        try:
            with path.open("w", encoding="ascii") as file:
                file.write(value)
        except OSError:
            return False
        return True

    def _read(self, group: str, name: str) -> str:
        path = self._file(group, name)
        if path is None:
            return ""
        try:
            return path.read_text(encoding="ascii")
        except OSError:
            return ""


def _group_of(pid: str) -> str:
    """The process's cgroup2 path; the root when it can't be known, which is then inside nothing."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _inside(group: str, outer: str) -> bool:
    return group == outer or group.startswith(f"{outer.rstrip('/')}/")
