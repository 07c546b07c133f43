"""What grants leave on this host: the baseline before one opens, the search after one has ended, mounts, the host's files."""

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from agent.config import Config
from agent.errors import HostError
from agent.host import command, detacher, files, ipc, searching
from agent.host.account_marks import Rows, account_differences, mark
from agent.host.baseline import PASSING, Baseline, Taker, differences
from agent.host.found import UNSEARCHED, Found, Progress, Search
from agent.host.mounts import Mount, mounts

_SHARED_S = 1.0  # a baseline may be older than its grant, so the grants of one second have one; never younger
_NAMED_IN_MAX = 64 * 1024
_TOLD_MAX = 64
_EXEC = re.compile(r"^Exec[A-Za-z]*=(.*)$", re.MULTILINE)
_OUR_PROGRAM = re.compile(r'[@:+!|-]*"?/usr/(?:s?bin/tidegated?|lib/tidegate/[a-z-]+)"?(?:\s|$)')


class HostRemains:
    """Implements contract.Remains on the real host. Thread-safe."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._memberships = config.paths.state_db.parent / "memberships"
        self._drop_ins = frozenset({str(config.paths.sshd_drop_in), str(config.paths.sudoers_drop_in)})
        self._taker = Taker(self._is_ours)
        self._searching = searching.Searching()
        self._lock = threading.Lock()
        self._last: tuple[float, dict[str, object]] | None = None

    def baseline(self) -> dict[str, object]:
        """See contract.Remains."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > _SHARED_S:
                began = time.monotonic()
                self._last = began, self._taker.take() | {"lent": self._lent()}
            return self._last[1]

    def changes(self, before: Mapping[str, object], names: Collection[str]) -> list[Found]:
        """See contract.Remains."""
        now = self._taker.take()
        lent = before.get("lent")
        pairs = [str(pair).partition(":") for pair in (*(lent if isinstance(lent, list) else ()), *self._lent())]
        found = differences(before, now, lambda path: _names_in(path, names))
        found += account_differences(before, Rows.read(Path("/etc"), []), frozenset((login, group) for login, _, group in pairs))
        return found + self._new_mounts(before)

    def detach(self, homes: Mapping[Path, int], *, runtime: bool = False) -> list[Found]:
        """See contract.Remains. The last one mounted goes first."""
        try:
            listed = [(each, uid) for each in reversed(mounts()) if (uid := _whose(each, homes, runtime)) is not None]
        except OSError as error:
            return [Found(UNSEARCHED, "mounts", error.strerror or "")]
        if not listed:
            return []
        errors = _detach([each.point for each, _ in listed])
        return [
            _mount(each, uid, f"can't be unmounted: {error}" if error else "unmounted", removed=not error)
            for (each, uid), error in zip(listed, errors, strict=True)
        ][:_TOLD_MAX]

    def search(self, order: Search) -> list[Found]:
        """See contract.Remains."""
        found = ipc.objects_of(order.uids, remove=order.remove) if order.uids else []
        if order.uids or order.setgid:
            found += self._searching.search(order)
        return found

    def progress(self) -> Progress | None:
        """See contract.Remains."""
        return self._searching.progress()

    def stop(self) -> None:
        """See contract.Remains."""
        self._searching.stop()

    def _lent(self) -> list[str]:
        """Memberships that Tidegate has in the group file now, ``login:group``."""
        try:
            return sorted(name for name in os.listdir(self._memberships) if not name.startswith("."))  # noqa: PTH208  # names
        except OSError:
            return []

    def _is_ours(self, path: str) -> bool:
        """What Tidegate itself writes there: its two drop-ins, and timers that would run its own program."""
        if path in self._drop_ins:
            return True
        name = path.rpartition("/")[2]
        if not name.startswith("tidegate") or not path.startswith(("/run/systemd/", "/etc/systemd/")):
            return name.startswith(files.TEMPORARY)
        with contextlib.suppress(HostError):
            text = (files.read_bounded(Path(path), _NAMED_IN_MAX) or b"").decode(errors="replace")
            return all(_OUR_PROGRAM.match(command) for command in _EXEC.findall(text))
        return False

    def _new_mounts(self, before: Baseline) -> list[Found]:
        known = before.get("mount")
        if not isinstance(known, list):
            return []
        with contextlib.suppress(OSError):
            new = [each for each in mounts() if not each.point.startswith(PASSING) and mark(each.point) not in known]
            return [_mount(each, None, "mounted since the grant opened") for each in new[:_TOLD_MAX]]
        return []


def _detach(points: list[str]) -> list[str]:
    """The error of each, empty when it is gone."""
    try:
        result = command.run([sys.executable, "-I", detacher.__file__], stdin=json.dumps(points).encode(), timeout_s=30.0)
        errors = [str(error) for error in json.loads(result.stdout)] if result.ok else []
    except (HostError, ValueError) as error:
        return [str(error)] * len(points)
    return errors if len(errors) == len(points) else ["the helper failed"] * len(points)


def _whose(found: Mount, homes: Mapping[Path, int], runtime: bool) -> int | None:
    """The tenant whose mount it is: its own FUSE mount, or whatever is mounted inside its home or runtime folder."""
    if (owner := found.of_uid()) is not None and owner in homes.values():
        return owner
    places = [(str(home), uid) for home, uid in homes.items()] + [(f"/run/user/{uid}", uid) for uid in homes.values() if runtime]
    return next((uid for place, uid in places if found.point == place or found.point.startswith(f"{place}/")), None)


def _mount(found: Mount, uid: int | None, detail: str, *, removed: bool = False) -> Found:
    return Found("mount", found.point, f"{found.type} of {found.source}, {detail}", removed, uid)


def _names_in(path: str, names: Collection[str]) -> str:
    """That the file speaks of a tenant by name or number, which is what to look at first."""
    try:
        text = (files.read_bounded(Path(path), _NAMED_IN_MAX) or b"").decode(errors="replace")
    except HostError:
        return ""
    said = [name for name in names if re.search(rf"(?<![A-Za-z0-9-]){re.escape(name)}(?![A-Za-z0-9-])", text)]
    return f"; names {', '.join(said)}" if said else ""
