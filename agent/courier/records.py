"""From the outbox to the other side: answers and receipts as files, events as lines, in batches, until each is acknowledged."""

import contextlib
import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.courier import ndjson
from agent.courier.backoff import Backoff
from agent.courier.events import Events, Step
from agent.courier.status import Status
from agent.courier.transport import BATCH_MAX, BATCH_RECORDS_MAX, RECORD_MAX, Acked, Record, Transport
from agent.courier.waiting import Bell, News
from agent.errors import CourierError, HostError
from agent.host.files import open_entry, opened_folder
from agent.model.plan import Json

_FILE = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{9}Z-(answer|receipt)-[A-Za-z0-9._@-]{1,160}")
_TOGETHER_S = 0.02  # what comes within so long goes in one batch
_LOOK_AGAIN_S = 300.0
log = logging.getLogger("tidegate.courier")


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the outbox as a record of so many bytes; ``record`` None: it can't be carried, and why."""

    name: str
    record: Record | None
    size: int = 0
    why: str = ""


class Outgoing:
    """The outbox and the trail as one queue: :meth:`gather`, then :meth:`settle` with what became of it. Used by one thread."""

    def __init__(self, outbox: Path, events: Events, status: Status) -> None:
        self._outbox, self._events, self._status = outbox, events, status
        self._left: set[str] = set()  # names that can't be carried, told once
        self._names: list[str] = []
        self._steps: list[Step] = []

    def gather(self, most: int) -> list[Record]:
        """The next records, answers and receipts first; at most so many. Raises OSError."""
        records: list[Record] = []
        size = BATCH_MAX
        with opened_folder(self._outbox) as folder:
            names = sorted(name for name in _names(folder) if name not in self._left)
            for name in names:
                if len(records) >= most or size <= 0:
                    break
                found = _file(name, folder)
                if found.record is None:
                    self._leave(found)
                elif found.size > size:
                    size = 0
                else:
                    records.append(found.record)
                    size -= found.size
        self._names = [record.key for record in records]
        self._steps, behind = self._events.gather(most - len(records), size) if size > 0 and len(records) < most else ([], -1)
        self._status.backlog("files", len(names))
        if behind >= 0:
            self._status.backlog("event_bytes", behind + sum(step.size for step in self._steps))
        return records + [step.record for step in self._steps if step.record is not None]

    def settle(self, result: Acked) -> bool:
        """What the other side has, or will never take, goes; whether anything went. Raises OSError, HostError."""
        over = result.acked | result.refused.keys()
        for key, code in result.refused.items():
            self._status.lost("records_refused", 1, f"the control plane will never take {key}: {code}")
        gone = [name for name in self._names if name in over]
        with opened_folder(self._outbox) as folder:
            for name in gone:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
        done = 0
        for step in self._steps:
            if step.record is not None and step.record.key not in over:
                break
            done += 1
        self._events.done(self._steps[:done])
        return bool(gone) or done > 0

    def _leave(self, found: _File) -> None:
        if found.why:
            self._left.add(found.name)
            self._status.lost("files_left", 1, f"{found.name} stays in the outbox: {found.why}")


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if _FILE.fullmatch(entry.name)]


def _file(name: str, folder: int) -> _File:
    """One file; gone meanwhile is neither carried nor told."""
    kind = name.split("-", 2)[1]
    try:
        fd = open_entry(name, folder)
    except FileNotFoundError:
        return _File(name, None)
    except OSError as error:
        return _File(name, None, why=error.strerror or "can't be opened")
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return _File(name, None, why="it is no regular file")
        data = file.read(RECORD_MAX + 1)
    record = Record(name, kind, _body(data, kind))
    size = len(ndjson.line(record))
    if size > RECORD_MAX:
        return _File(name, None, why=f"it is longer than {RECORD_MAX} bytes")
    return _File(name, record, size)


def _body(data: bytes, kind: str) -> Json:
    text = data.decode("utf-8", "replace").strip()
    if kind == "answer":
        with contextlib.suppress(ValueError, RecursionError):
            found: Json = json.loads(text)
            if isinstance(found, dict):
                return found
    return text


class Sender:
    """One thread's work: carry what goes out until told to stop. ``between`` (the renewal) is called each time round."""

    def __init__(
        self,
        transport: Transport,
        outgoing: Outgoing,
        outbox: Path,
        status: Status,
        stop: threading.Event,
        bell: Bell,
        between: Callable[[], float] = lambda: _LOOK_AGAIN_S,
    ) -> None:
        self._transport, self._outgoing, self._outbox, self._status = transport, outgoing, outbox, status
        self._stop, self._bell, self._between = stop, bell, between
        self._backoff = Backoff()
        self._most = BATCH_RECORDS_MAX
        self._due = 0.0  # when ``between`` is to be called again, whatever becomes of the records

    def run(self) -> None:
        """Until ``stop`` is set. Errors of the network and the disk are told, and it is tried again."""
        while not self._stop.is_set():
            try:
                with News(self._bell, [self._outbox]) as news:
                    while not self._stop.is_set():
                        left = self._renewal_s()
                        if not self.carry():
                            news.wait(min(_LOOK_AGAIN_S, left))
                            self._stop.wait(_TOGETHER_S)
                            news.wait(0)
            except (CourierError, HostError) as error:
                self._failed(error.code, error)
            except OSError as error:
                self._failed("outbox_unreadable", error)

    def _renewal_s(self) -> float:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + self._between()
        return max(0.0, self._due - now)

    def carry(self) -> bool:
        """One batch; False when there is none. Raises CourierError, HostError, OSError."""
        records = self._outgoing.gather(self._most)
        if not records:
            return self._outgoing.settle(Acked())  # lines that can't be carried are done with
        result = self._send(records)
        if not self._outgoing.settle(result):
            raise CourierError("courier_unacknowledged", f"{len(records)} records were sent, and none acknowledged")
        self._backoff.worked()
        self._status.problem("records", "")
        self._most = min(BATCH_RECORDS_MAX, self._most * 2)
        return True

    def _send(self, records: Sequence[Record]) -> Acked:
        """A batch that is refused as a whole is sent in halves: the one record that is to blame holds up no other."""
        try:
            return self._transport.send(records)
        except CourierError as error:
            if error.code != "courier_refused":
                raise
            if len(records) == 1:
                return Acked(refused={records[0].key: error.reason})
            self._most = max(1, len(records) // 2)
            raise

    def _failed(self, code: str, error: Exception) -> None:
        if self._stop.is_set():
            return
        self._status.problem("records", f"{code}: {error}")
        self._renewal_s()
        self._stop.wait(self._backoff.failed())
