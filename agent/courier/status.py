"""How the courier stands, for people: a small file that `tidegate status` and `tidegate doctor` show. Nothing decides by it."""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agent.courier.state import read_object, whole, write_object
from agent.errors import HostError, TidegateError
from agent.model.text import one_line

LOSSES = "losses.json"
_WRITE_S = 0.25
log = logging.getLogger("tidegate.courier")


class Status:
    """Told by every thread; written by one. ``changed`` is called, from any thread, when there is something to write."""

    def __init__(self, path: Path, folder: Path, transport: str, where: str, changed: Callable[[], None] = lambda: None) -> None:
        self._path, self._losses_at = path, folder / LOSSES
        self._changed = changed
        self._lock = threading.Lock()
        self._dirty = True
        self._unwritable = False
        self._written = 0.0
        self._since: float | None = None
        self._contact: float | None = None  # when a connection last ended
        self._error: dict[str, object] | None = None
        self._problems: dict[str, str] = {}
        self._backlog: dict[str, int] = {}
        self._losses = {name: whole(count) for name, count in read_object(self._losses_at).items()}
        self._value: dict[str, object] = {
            "transport": transport,
            "url": where,
            "how": "",
            "last_token": 0,
            "certificate_ends": None,
        }

    def up(self, how: str) -> None:
        """Connected, over such a way."""
        with self._lock:
            if self._since is not None and self._value["how"] == how:
                return
            self._since = self._since if self._since is not None else time.time()
            self._value["how"] = how
            self._dirty = True
        log.info("connected: %s", how)
        self._changed()

    def down(self, error: TidegateError) -> None:
        """Not connected any more, and why."""
        with self._lock:
            again = self._error is not None and self._since is None and self._error["code"] == error.code
            self._contact = self._contact if self._since is None else time.time()
            self._since, self._dirty = None, True
            self._error = {"code": error.code, "reason": one_line(error.reason, 300), "at": _rfc3339(time.time())}
        if not again:
            log.warning("not connected: %s", one_line(str(error)))
        self._changed()

    def token(self, last: int) -> None:
        """The newest token that is in the inbox."""
        self._set(last_token=last)

    def certificate(self, ends: int | None) -> None:
        """When the client certificate ends, seconds since the epoch."""
        self._set(certificate_ends=None if ends is None else _rfc3339(ends))

    def backlog(self, what: str, count: int) -> None:
        """How much of something waits to be carried."""
        with self._lock:
            if self._backlog.get(what) == count:
                return
            self._backlog[what] = count
            self._dirty = True
        self._changed()

    def problem(self, what: str, text: str) -> None:
        """Something that has to be mended; an empty text: it is."""
        with self._lock:
            if self._problems.get(what, "") == text:
                return
            self._problems[what] = one_line(text, 300)
            if not text:
                del self._problems[what]
            self._dirty = True
        if text:
            log.warning("%s: %s", what, one_line(text))
        self._changed()

    def lost(self, what: str, count: int, why: str) -> None:
        """So many will never reach the other side. Counted over restarts, in the log and in the file."""
        with self._lock:
            self._losses[what] = self._losses.get(what, 0) + count
            self._dirty = True
            losses = dict(self._losses)
        log.warning("lost: %s", one_line(why))
        with contextlib.suppress(HostError):  # the log has it
            write_object(self._losses_at, losses)
        self._changed()

    def write(self, *, force: bool = False) -> float:
        """Write it if something changed; returns after how many seconds to call again, 0 for not before the next change."""
        with self._lock:
            if not self._dirty:
                return 0.0
            left = self._written + _WRITE_S - time.monotonic()
            if left > 0 and not force:
                return left
            self._dirty, self._written = False, time.monotonic()
            text = json.dumps(self._json(), indent=1).encode()
        temporary = self._path.with_name(f".{self._path.name}.new")
        try:
            temporary.write_bytes(text + b"\n")
            temporary.chmod(0o644)
            os.replace(temporary, self._path)  # noqa: PTH105
            self._unwritable = False
        except OSError as error:
            if not self._unwritable:
                log.error("%s can't be written: %s", self._path, error.strerror)
            self._unwritable = True
        return 0.0

    def _set(self, **values: object) -> None:
        with self._lock:
            if all(self._value[name] == value for name, value in values.items()):
                return
            self._value.update(values)
            self._dirty = True
        self._changed()

    def _json(self) -> dict[str, object]:
        return {
            **self._value,
            "connected": self._since is not None,
            "since": None if self._since is None else _rfc3339(self._since),
            "last_contact": None if self._contact is None else _rfc3339(self._contact),
            "problems": [f"{what}: {text}" for what, text in sorted(self._problems.items())],
            "backlog": self._backlog,
            "losses": self._losses,
            "last_error": self._error,
            "written": _rfc3339(time.time()),
        }


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
