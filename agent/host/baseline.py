"""What of the host's own a tenant with root's powers might add to: marks of it when a grant opens, and what differs later.

A mark is eight characters over mode, owner and content (a large file: size and times). Nothing is kept but marks and, of what
is too much to keep, that it was left out: a baseline is small, takes milliseconds, and never keeps a grant from opening.
"""

import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.host.account_marks import Rows, mark
from agent.host.found import Found
from agent.host.mounts import Mount, mounts, network_points, nodev_types
from agent.host.trees import printable

VERSION = 1
_CONTENT_MAX = 64 * 1024  # bytes hashed of one file; a larger one is told apart by its size and times
_CACHED_MAX = 4096
_ENTRIES_MAX = 1024  # in one place
_HOMES_MAX = 256
_TOLD_MAX = 64  # differences of one kind

# Kind → places. A folder counts with its subfolders, as deep as systemd's drop-ins lie.
PLACES: Mapping[str, tuple[str, ...]] = {
    "unit": (
        *("/etc/systemd/system", "/etc/systemd/user", "/run/systemd/system", "/run/systemd/user", "/usr/local/lib/systemd"),
        *("/etc/systemd/system-generators", "/etc/init.d", "/etc/rc.local", "/etc/xdg/autostart"),
    ),
    "transient-unit": ("/run/systemd/transient",),
    "cron": (
        *("/etc/crontab", "/etc/anacrontab", "/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly"),
        *("/etc/cron.monthly", "/var/spool/cron"),
    ),
    "at": ("/var/spool/cron/atjobs", "/var/spool/at"),
    "sudoers": ("/etc/sudoers", "/etc/sudoers.d"),
    "linger": ("/var/lib/systemd/linger",),
    "sshd": ("/etc/ssh",),
    "login": (
        *("/etc/pam.d", "/etc/security", "/etc/profile", "/etc/profile.d", "/etc/bash.bashrc", "/etc/environment"),
        *("/etc/nsswitch.conf", "/etc/polkit-1/rules.d", "/etc/shells"),
    ),
    "loader": ("/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    "hook": (
        *("/etc/udev/rules.d", "/etc/modules-load.d", "/etc/tmpfiles.d", "/etc/apt/apt.conf.d", "/etc/logrotate.d"),
        *("/etc/network/if-up.d", "/etc/NetworkManager/dispatcher.d", "/etc/dhcp"),
    ),
}  # fmt: skip
_CONTAINERS = (
    "/var/lib/docker/containers", "/var/lib/containers/storage/overlay-containers", "/var/lib/lxc", "/var/lib/machines",
    "/var/lib/incus/containers", "/var/lib/lxd/containers",
)  # fmt: skip
_HOME_FILES = (".ssh/authorized_keys", ".ssh/authorized_keys2", ".ssh/rc", ".rhosts", ".config/systemd/user")
_ROOTS_FILES = (".bashrc", ".bash_profile", ".profile")
# Mounts that come and go with logins, services and containers.
PASSING = (
    "/run/user/",
    "/run/credentials/",
    "/run/systemd/",
    "/run/docker/",
    "/run/netns/",
    "/var/lib/docker/",
    "/var/lib/containers/",
)
# A scope or slice starts nothing: it only holds processes, and those are dead.
_STARTS_NOTHING = (".scope", ".scope.d", ".slice", ".slice.d")
_COUNTER = "/.SEQ"  # atd's

Marks = dict[str, str]
Baseline = Mapping[str, object]


@dataclass(slots=True)
class Taker:
    """Takes baselines of one host. ``own`` says whether a path is Tidegate's; ``root`` is / but in tests. Thread-safe."""

    own: Callable[[str], bool] = lambda _: False
    root: Path = Path("/")
    listed: Callable[[], list[Mount]] = mounts
    _cache: dict[tuple[int, ...], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _below_root: str = field(init=False)  # as text: it is put before hundreds of paths

    def __post_init__(self) -> None:
        self._below_root = "" if self.root == Path("/") else str(self.root)

    def take(self) -> dict[str, object]:
        """All marks by kind, JSON. What can't be read, or is more than is kept, stands in ``left_out``; never raises OSError."""
        with self._lock:
            out: list[str] = []
            found: dict[str, object] = {"version": VERSION}
            for kind, places in PLACES.items():
                found[kind] = self._marks(places, out, lambda path: kind == "transient-unit" and path.endswith(_STARTS_NOTHING))  # noqa: B023
            try:
                listed = self.listed()
            except OSError as error:
                out.append(f"mounts: {error.strerror}")
                listed = []
            found["mount"] = sorted({mark(mount.point) for mount in listed if not mount.point.startswith(PASSING)})[:_ENTRIES_MAX]
            found["container"] = [f"{place}/{name}" for place in _CONTAINERS for name in self._names(place, out)]
            rows = Rows.read(self.root / "etc", out)
            found["authorized-keys"] = self._homes(rows, network_points(listed, nodev_types()), out)
            found["account"] = {base: rows.marks(base) for base in Rows.BASES}
            found["left_out"] = out[:_TOLD_MAX]
            return found

    def _marks(self, places: tuple[str, ...], out: list[str], skip: Callable[[str], bool]) -> Marks:
        marks: Marks = {}
        for place in places:
            for count, path in enumerate(self._below(place, out)):
                if count >= _ENTRIES_MAX:
                    out.append(f"{place}: more than {_ENTRIES_MAX} entries")
                    break
                if not skip(path) and not self.own(path) and not path.endswith(_COUNTER):
                    self._put(marks, path, out)
        return marks

    def _put(self, marks: Marks, path: str, out: list[str]) -> None:
        try:
            found = os.lstat(self._at(path))
            if not stat.S_ISDIR(found.st_mode):
                marks[path] = self._mark_of(path, found)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            out.append(f"{printable(path)}: {error.strerror}")

    def _below(self, place: str, out: list[str], depth: int = 3) -> Iterator[str]:
        """The place itself, and if it is a folder all files in it; by name, no symlink followed."""
        try:
            with os.scandir(self._at(place)) as entries:
                found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except NotADirectoryError:
            yield place
            return
        except FileNotFoundError:
            return
        except OSError as error:
            out.append(f"{printable(place)}: {error.strerror}")
            return
        for name, folder in found:
            if folder and depth > 0:
                yield from self._below(f"{place}/{name}", out, depth - 1)
            elif not folder:
                yield f"{place}/{name}"

    def _mark_of(self, path: str, found: os.stat_result) -> str:
        """Over mode, owner and content. What was hashed once is not read again while its times stay."""
        about = f"{found.st_mode:o} {found.st_uid} {found.st_gid} "
        if stat.S_ISLNK(found.st_mode):
            return mark(about + os.readlink(self._at(path)))  # noqa: PTH115  # a name, not a Path
        if not stat.S_ISREG(found.st_mode) or found.st_size > _CONTENT_MAX:
            return mark(f"{about}{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in self._cache:
            if len(self._cache) >= _CACHED_MAX:
                self._cache.clear()
            self._cache[key] = mark(_content(self._at(path)))
        return mark(about + self._cache[key])

    def _names(self, place: str, out: list[str]) -> list[str]:
        try:
            names = sorted(os.listdir(self._at(place)))  # noqa: PTH208  # names, not Paths
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            out.append(f"{place}: {error.strerror}")
            return []
        if len(names) > _ENTRIES_MAX:
            out.append(f"{place}: more than {_ENTRIES_MAX} entries")
        return [printable(name) for name in names[:_ENTRIES_MAX]]

    def _homes(self, rows: Rows, avoid: tuple[str, ...], out: list[str]) -> Marks:
        """What lets people in by files of their homes. Homes that lie on a network are left out: a look could hang."""
        marks: Marks = {}
        homes = rows.homes()
        for login, home in homes[:_HOMES_MAX]:
            if home.startswith(("/dev", "/proc", "/sys", "/nonexistent")):
                continue
            if any(home == point or home.startswith(f"{point}/") for point in avoid if point != "/"):
                out.append(f"{printable(home)}: not on a local file system")
                continue
            for name in (*_HOME_FILES, *(_ROOTS_FILES if login == "root" else ())):
                for path in self._below(f"{home}/{name}", out):
                    self._put(marks, path, out)
        if len(homes) > _HOMES_MAX:
            out.append(f"homes: {len(homes)}, of which {_HOMES_MAX} were looked at")
        return marks

    def _at(self, path: str) -> str:
        return f"{self._below_root}{path}"


def differences(before: Baseline, now: Baseline, say: Callable[[str], str]) -> list[Found]:
    """What is there, or is otherwise, now and was not before; pure. ``say(path)`` adds what is to be known of a path.

    What is gone is not told: nobody gets in by it.
    """
    found: list[Found] = []
    for kind in (*PLACES, "authorized-keys"):
        old, new = _mapping(before.get(kind)), _mapping(now.get(kind))
        changed = [path for path, mark in new.items() if old.get(path) != mark]
        for path in changed[:_TOLD_MAX]:
            what = "changed" if path in old else "new"
            found.append(Found(kind, printable(path), f"{what} since the grant opened{say(path)}"))
        if len(changed) > _TOLD_MAX:
            found.append(Found(kind, f"{len(changed) - _TOLD_MAX} more", "new or changed since the grant opened"))
    known = set(_listing(before.get("container")))
    new_ones = [path for path in _listing(now.get("container")) if path not in known]
    found += [Found("container", path, "made since the grant opened") for path in new_ones[:_TOLD_MAX]]
    return found


def _mapping(value: object) -> Mapping[str, str]:
    """What a journal may have kept otherwise counts as empty: then too much is told, never too little."""
    return {str(key): str(mark) for key, mark in value.items()} if isinstance(value, dict) else {}


def _listing(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _content(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        return os.read(fd, _CONTENT_MAX + 1)
    finally:
        os.close(fd)
