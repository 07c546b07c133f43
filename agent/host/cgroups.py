"""The unified cgroup tree (cgroups(7)): killing, freezing and emptiness of whole groups, where this host has one."""

import contextlib
import errno
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# Freezing one of these would stop the host itself, or the agent that is to thaw it.
_NEVER_FREEZE = ("/init.scope", "/system.slice/dbus", "/system.slice/systemd-", "/system.slice/ssh", "/system.slice/tidegate")

# Where users' own programs run: sessions and user managers, and the jobs of cron and at.
_OF_PEOPLE = ("/user.slice", "/system.slice/cron.service", "/system.slice/crond.service", "/system.slice/atd.service")
_FROZEN_BY_US = "trusted.tidegate-frozen"
_STILL_S = 0.02
_LISTED_MOST = 4096

_OCTAL = re.compile(r"\\([0-7]{3})")


class Cgroups:
    """Paths inside this class are cgroup paths as /proc/PID/cgroup shows them (``/user.slice/user-70000.slice``)."""

    def __init__(self, mount: Path | None, untouched: Sequence[str] = ()) -> None:
        self._mount = mount
        self._untouched = tuple(f"{group.rstrip('/')}/" for group in ("", *untouched))
        self._lock = threading.Lock()
        self._held: dict[str, int] = {}

    @classmethod
    def find(cls) -> "Cgroups":
        """The cgroup2 mount of this host: alone (unified) or beside version 1 (hybrid); none is allowed."""
        for candidate in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")):
            if (candidate / "cgroup.procs").exists() and (candidate / "cgroup.controllers").exists():
                return cls(candidate, [_group_of("self"), _group_of("1")])
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
        descriptor = None if self._holds_us(group) else self._open(group, "cgroup.kill")
        if descriptor is None:
            return False
        try:
            return _put(descriptor, b"1")
        finally:
            os.close(descriptor)

    def of_people(self) -> list[str]:
        """The groups, of those that are there, in which this host runs what its users ask for: none of its own services."""
        return [group for group in _OF_PEOPLE if (path := self._file(group, "cgroup.freeze")) is not None and path.exists()]

    def thaw_left(self) -> list[str]:
        """Thaw what an agent that was killed in the middle of a teardown left frozen; returns the groups. Never raises."""
        left = []
        for folder, _, _ in os.walk(self._mount) if self._mount is not None else ():
            with contextlib.suppress(OSError):
                os.getxattr(folder, _FROZEN_BY_US)
                (Path(folder) / "cgroup.freeze").write_bytes(b"0")
                os.removexattr(folder, _FROZEN_BY_US)
                left.append(folder)
        return left

    @contextlib.contextmanager
    def frozen(self, group: str) -> Iterator[bool]:
        """The group stands still within the ``with``; False when it does not (all): none such, one never frozen, one too slow.

        Those are the root, what the host itself runs in, and every group that holds PID 1 or this very process. What froze it
        also thaws it: with no descriptor left to open, a group of the host's would stay frozen for good.
        """
        never = self._holds_us(group) or group.startswith(_NEVER_FREEZE)
        descriptor = None if never else self._open(group, "cgroup.freeze")
        if descriptor is None:
            yield False
            return
        try:
            with self._lock:  # another teardown may hold the same group: the last of them thaws it
                self._held[group] = self._held.get(group, 0) + 1
                self._note_frozen(group, True)
                done = _put(descriptor, b"1")
            yield done and self._stands_still(group)
        finally:
            with self._lock:
                self._held[group] -= 1
                if self._held[group] == 0:
                    del self._held[group]
                    _put(descriptor, b"0")
                    self._note_frozen(group, False)
            os.close(descriptor)

    def populated(self, group: str) -> bool:
        """Whether any process, dead-but-unreaped ones aside, is in the group or below it.

        An absent group is empty; one that can't be read (no descriptor left) may not be.
        """
        path = self._file(group, "cgroup.events")
        if path is None:
            return False
        try:
            return "populated 1" in path.read_text(encoding="ascii").splitlines()
        except OSError as error:
            return error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ENODEV}

    def _stands_still(self, group: str) -> bool:
        """Freezing takes effect when each process next leaves the kernel: 0.1 ms, or never while one waits for a disk."""
        path = self._file(group, "cgroup.events")
        give_up = time.monotonic() + _STILL_S
        while path is not None and time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                if b"frozen 1" in path.read_bytes():
                    return True
            time.sleep(0.0001)
        return False

    def _note_frozen(self, group: str, frozen: bool) -> None:
        """On the group itself, so that the next agent finds it should this one be killed in between."""
        path = self._file(group, "")
        if path is not None:
            with contextlib.suppress(OSError):
                os.setxattr(path, _FROZEN_BY_US, b"1") if frozen else os.removexattr(path, _FROZEN_BY_US)

    def children(self, group: str, most: int = _LISTED_MOST) -> list[str]:
        """The groups right below one, at most so many, as proc(5) would write them; none where it is absent."""
        path = self._file(group, "")
        try:
            with os.scandir(path or os.devnull) as entries:
                below = (f"{group}/{_written(entry.name)}" for entry in entries if entry.is_dir(follow_symlinks=False))
                return list(itertools.islice(below, most))
        except OSError:
            return []

    def pids(self, group: str, most: int = _LISTED_MOST) -> list[int]:
        """The processes in a group and below it, as far as it can be read: of ``most`` groups, those nearest to the top.

        Below its own manager a user makes as many groups as it likes, as deep as it likes.
        """
        found: list[int] = []
        groups = [group]
        for each in groups:  # which grows meanwhile
            path = self._file(each, "cgroup.procs")
            with contextlib.suppress(OSError):  # a threaded group can't be read, and may have children that can
                found += [int(word) for word in path.read_bytes().split()] if path else []
            groups += self.children(each, most - len(groups))
        return found

    def _holds_us(self, group: str) -> bool:
        return any(own.startswith(group.rstrip("/") + "/") for own in self._untouched)

    def _file(self, group: str, name: str) -> Path | None:
        if self._mount is None:
            return None
        # proc(5) shows blanks and backslashes of a name as octal; a group whose name has them is to be found all the same.
        plain = _OCTAL.sub(lambda found: chr(int(found[1], 8)), group)
        return None if ".." in plain.split("/") or "\0" in plain else self._mount / plain.lstrip("/") / name

    def _open(self, group: str, name: str) -> int | None:
        path = self._file(group, name)
        if path is None:
            return None
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return None


def _put(descriptor: int, value: bytes) -> bool:
    try:
        return os.pwrite(descriptor, value, 0) == len(value)
    except OSError:
        return False


def _group_of(pid: str) -> str:
    """The process's cgroup2 path; the root when it can't be known."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _written(name: str) -> str:
    """A group's name with what is read back as octal written so: a tenant may call one of its own ``\\000``, or give it blanks."""
    return re.sub(r"[\\ \t\n\r\v\f]", lambda found: f"\\{ord(found[0]):03o}", name)
