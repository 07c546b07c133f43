"""The outbox: answers and receipts for whoever carries them away. Bounded, written whole or not at all."""

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.errors import HostError, TidegateError
from agent.host.clock import NS, Clock
from agent.host.files import TEMPORARY, atomic_write, opened_folder, own_files
from agent.model.text import one_line
from agent.spool.entries import shown

ANSWER, RECEIPT = "answer", "receipt"
ANSWER_TYP = "grant-answer+jwt"
_OURS = re.compile(r"\d{8}T\d{6}\.\d{9}Z-([a-z]+)-[A-Za-z0-9._@-]+")
_UNSAFE = re.compile(r"[^A-Za-z0-9._@-]+")
_IDENT_MAX = 128
_MODE = 0o640
_TEXT_MAX = 500
_SPARE = 64  # a full outbox is emptied by one part in so many
_logger = logging.getLogger("tidegate.outbox")

Signer = Callable[[str, Mapping[str, object]], str]


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    kind: str
    size: int


class Outbox:
    """One folder of files going out. Safe to call from any thread; blocks for two fsyncs a file.

    Args:
        max_files: answers and receipts together. Events have their own bound (agent.audit.trail).
        max_bytes: the same, in bytes.
        sign: makes a compact JWS of a typ and claims by the host's key.
        on_drop: told ``(kind, file name)`` of the files just deleted to keep the bounds: the oldest answers first, then, only
            when no answer is left, the oldest receipts.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        sign: Signer,
        *,
        max_files: int = 4096,
        max_bytes: int = 64 << 20,
        on_drop: Callable[[Sequence[tuple[str, str]]], None] | None = None,
    ) -> None:
        self._path = folder
        self._clock = clock
        self._sign = sign
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._on_drop = on_drop or _log_drop
        self._lock = threading.Lock()
        self._last_ns = 0
        self._files = max_files  # counted since the last look; so the first put looks
        self._bytes = 0

    def put(self, kind: str, ident: str, data: bytes, suffix: str) -> str:
        """Write one file and return its name: ``<UTC time to the nanosecond>-<kind>-<ident><suffix>``, sorting by time.

        ``kind`` is lower-case letters; of ``ident`` only ``[A-Za-z0-9._@-]`` is kept, at most 128 characters.

        Raises:
            HostError: ``write_failed`` (disk full, read-only), ``outbox_unwritable`` (the folder is gone, or no folder),
                ``outbox_too_large`` (longer than the whole bound).
        """
        if len(data) > self._max_bytes:
            raise HostError("outbox_too_large", f"{len(data)} bytes are more than the outbox may hold")
        with self._lock:
            try:
                with opened_folder(self._path) as folder:
                    dropped = self._make_room(folder, len(data))
                    name = self._fresh_name(folder, f"{kind}-{_safe(ident)}{suffix}")
                    gid = os.fstat(folder).st_gid  # readable by whoever the folder is for
                    atomic_write(self._path / name, data, _MODE, gid=gid)
            except OSError as error:
                raise HostError("outbox_unwritable", f"{self._path}: {error.strerror}") from error
            self._files += 1
            self._bytes += len(data)
        if dropped:
            self._on_drop([(file.kind, file.name) for file in dropped])
        return name

    def answer(
        self,
        verdict: str,
        source: str,
        *,
        code: str = "",
        reason: str = "",
        field: str | None = None,
        jti: str = "",
        revoked: Sequence[Mapping[str, str]] | None = None,
        revoked_count: int = 0,
    ) -> str:
        """Answer one file of the inbox. ``verdict`` is ``accepted`` or ``refused``, ``source`` the file's name there.

        The file holds those, ``at`` (RFC 3339, UTC, milliseconds) and ``jws``: the same members signed, typ ``grant-answer+jwt``.
        ``revoked`` (``iss`` and ``jti`` of each, not all of very many) and their number stand in the answer to an order alone.
        When the host can't sign, ``jws`` is empty: an answer is information, and access never hangs on it.

        Raises:
            HostError: as :meth:`put`.
        """
        value: dict[str, object] = {
            "verdict": verdict,
            "source": shown(source),
            "code": code,
            "reason": one_line(reason, _TEXT_MAX),
            "field": one_line(field or "", _TEXT_MAX),
            "jti": one_line(jti, _IDENT_MAX),
            "at": _rfc3339(self._clock.wall_ns()),
        }
        if revoked is not None:
            value |= {"revoked": [dict(found) for found in revoked], "revoked_count": revoked_count}
        try:
            jws = self._sign(ANSWER_TYP, value)
        except TidegateError as error:
            _logger.warning("answer is not signed: %s", one_line(str(error)))
            jws = ""
        data = json.dumps({**value, "jws": jws}, ensure_ascii=False).encode("utf-8") + b"\n"
        return self.put(ANSWER, jti or source, data, ".json")

    def receipt(self, jti: str, jws: str) -> str:
        """Put a signed teardown receipt out, as ``.jws``. Raises HostError as :meth:`put`."""
        return self.put(RECEIPT, jti, jws.encode("ascii") + b"\n", ".jws")

    def backlog(self) -> Mapping[str, tuple[int, int]]:
        """Kind → ``(files, bytes)`` that nobody has carried away yet; nothing where the folder can't be read."""
        found = {ANSWER: (0, 0), RECEIPT: (0, 0)}
        with contextlib.suppress(OSError), opened_folder(self._path) as folder:
            for file in _listed(folder):
                files, size = found.get(file.kind, (0, 0))
                found[file.kind] = files + 1, size + file.size
        return {kind: found[kind] for kind in (ANSWER, RECEIPT)}

    def clean(self) -> None:
        """At start: remove temporary files that a crash left. What can't be removed stays, hidden."""
        with contextlib.suppress(OSError), opened_folder(self._path) as folder, os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY):
                    with contextlib.suppress(OSError):
                        os.unlink(entry.name, dir_fd=folder)

    def _fresh_name(self, folder: int, rest: str) -> str:
        """By the wall clock, never back while this process lives, and no name that is there: a rename would replace it."""
        self._last_ns = max(self._last_ns + 1, self._clock.wall_ns())
        while _exists(name := f"{_stamp(self._last_ns)}-{rest}", folder):
            self._last_ns += 1
        return name

    def _make_room(self, folder: int, length: int) -> list[_File]:
        """Delete the oldest until this file fits, and a few more: so that not every file after it looks through a full folder.

        The folder is looked at only when our count says that it may be full.
        """
        if self._files < self._max_files and self._bytes + length <= self._max_bytes:
            return []
        files = _listed(folder)
        self._files, self._bytes = len(files), sum(file.size for file in files)
        if self._files < self._max_files and self._bytes + length <= self._max_bytes:
            return []
        most_files, most_bytes = (most - most // _SPARE for most in (self._max_files, self._max_bytes))
        dropped: list[_File] = []
        for file in sorted(files, key=lambda file: (file.kind != ANSWER, file.name)):
            if self._files < most_files and self._bytes + length <= most_bytes:
                break
            with contextlib.suppress(FileNotFoundError):  # carried away meanwhile
                os.unlink(file.name, dir_fd=folder)
                dropped.append(file)
            self._files -= 1
            self._bytes -= file.size
        return dropped


def _listed(folder: int) -> list[_File]:
    return [_File(match.string, match[1], size) for match, size in own_files(folder, _OURS)]


def _exists(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _stamp(at_ns: int) -> str:
    return f"{datetime.fromtimestamp(at_ns // NS, tz=UTC):%Y%m%dT%H%M%S}.{at_ns % NS:09d}Z"


def _safe(ident: str) -> str:
    return _UNSAFE.sub("_", ident)[:_IDENT_MAX].lstrip(".") or "unnamed"


def _rfc3339(at_ns: int) -> str:
    moment = datetime.fromtimestamp(at_ns // NS, tz=UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ns % NS // 1_000_000:03d}Z"


def _log_drop(dropped: Sequence[tuple[str, str]]) -> None:
    for kind, name in dropped:
        _logger.warning("outbox is full: %s %s was deleted", kind, one_line(name))
