"""What tenants run is in their grant's file, line by line, and what could not be seen or written is told there."""

import hashlib
import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.audit import EventKind, HostIdentity, Trail
from agent.audit.ocsf import to_ocsf
from agent.errors import HostError
from agent.expiry import receipt
from agent.expiry.executions import Executions
from agent.expiry.ledger import Ledger
from agent.expiry.shut import Shut
from agent.host.clock import FakeClock
from agent.host.kaudit import netlink
from agent.host.kaudit.exits import Exit
from agent.host.kaudit.records import EOE, EXECVE, SYSCALL, Exec
from agent.journal import Journal
from agent.sessions.execs import lines
from agent.sessions.execs.book import Book
from agent.sessions.execs.capture import Capture
from agent.sessions.execs.kernel import NoKernel
from agent.sessions.execs.sorting import TOLD_BURST, TOLD_MAX, Sorting
from tests.unit.expiry_kit import live

S = 1_000_000_000
UID = 70001


def an_exec(
    number: int = 1, *, pid: int = 100, auid: int = UID, at_ns: int = 0, error: int = 0, argv: tuple[str, ...] = ("id",)
) -> Exec:
    return Exec(at_ns, number, 1, auid, auid, auid, pid, 1, "/usr/bin/id", "/usr/bin/id", "/", argv, len(argv), False, error)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def agrees(path: Path, told: dict[str, Any]) -> bool:
    return bool(hashlib.sha256(path.read_bytes()[: told["bytes"]]).hexdigest() == told["sha256"])


# The file


def test_a_file_that_a_kill_tore_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "execs"
    first = Book(path)
    for number in range(3):
        first.write(lines.of_exec(an_exec(number)))
    first.write(lines.of_gap(0, "why", 5), kind=lines.GAP, lost=5)
    first.flush()
    os.close(first._fd)
    path.write_bytes(path.read_bytes() + b'{"type":"exec","at":"20')
    again = Book(path)
    assert (again.recovered, again.execs, again.gaps, again.lost) == (True, 3, 1, 5)
    again.write(lines.of_exec(an_exec(9)))
    told = again.close(0)
    assert [line.get("serial") for line in read(path) if line["type"] == "exec"] == [0, 1, 2, 9]
    assert told["execs"] == 4 and agrees(path, told) and told["bytes"] == path.stat().st_size


def test_a_file_is_bounded_and_says_what_is_not_in_it(tmp_path: Path) -> None:
    book = Book(tmp_path / "execs", limit=20_000)
    for number in range(500):
        book.write(lines.of_exec(an_exec(number)))
    book.write(lines.of_gap(0, "why", 7), kind=lines.GAP, lost=7)
    told = book.close(0)
    found = read(tmp_path / "execs")
    assert (tmp_path / "execs").stat().st_size <= 20_000
    assert [line["type"] for line in found][-3:] == ["limit", "gap", "end"]
    assert told["unwritten"] == 500 - sum(line["type"] == "exec" for line in found) > 0
    assert found[-1]["unwritten"] == told["unwritten"]


def test_what_the_disk_does_not_take_is_counted_and_told_once_it_takes_some_again(tmp_path: Path) -> None:
    path = tmp_path / "execs"
    book = Book(path)
    book.write(lines.of_exec(an_exec(1)))
    book.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, hard))
    try:
        book.write(lines.of_exec(an_exec(2)))
        assert not book.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, was)
    book.write(lines.of_exec(an_exec(3)))
    assert book.flush()
    told = book.close(0)
    found = read(path)
    assert [line.get("serial") for line in found if line["type"] == "exec"] == [1, 3]
    assert any(line["type"] == "gap" and "disk" in line["why"] for line in found)
    assert (told["unwritten"], told["gaps"]) == (1, 1) and agrees(path, told)


def test_a_file_has_one_writer_and_is_no_link(tmp_path: Path) -> None:
    book = Book(tmp_path / "execs")
    with pytest.raises(HostError, match="execs_busy"):
        Book(tmp_path / "execs")
    book.close(0)
    (tmp_path / "link").symlink_to(tmp_path / "execs")
    with pytest.raises(HostError, match="execs_unwritable"):
        Book(tmp_path / "link")


# Sorting


def sorting(tmp_path: Path, **more: Any) -> tuple[Sorting, Book]:
    found, book = Sorting(lambda mono: mono, **more), Book(tmp_path / "execs")
    found.follow("1", book, {UID: "jit-alice"})
    return found, book


def test_an_exec_is_its_grants_by_the_login_uid_and_its_end_is_of_its_last_exec(tmp_path: Path) -> None:
    found, book = sorting(tmp_path)
    found.exec(an_exec(1, pid=5), 0)
    found.exec(an_exec(2, pid=5), 0)
    found.exec(an_exec(3, pid=6, auid=70002), 0)
    found.exec(an_exec(4, pid=7, error=13), 0)
    for pid in (5, 6, 7, 8):
        found.exit(Exit(S, pid, 3 << 8))
    found.settle(2 * S)
    book.close(0)
    rows = read(tmp_path / "execs")
    assert [row["serial"] for row in rows if row["type"] == "exec"] == [1, 2, 4]
    assert [(row["pid"], row["serial"], row["status"]) for row in rows if row["type"] == "exit"] == [(5, 2, 3)]
    assert found.unknown == 1


def test_an_end_heard_of_before_its_exec_waits_and_one_of_a_number_given_anew_is_not_taken_for_it(tmp_path: Path) -> None:
    found, book = sorting(tmp_path)
    found.exit(Exit(5 * S, 5, 9))
    found.settle(5 * S)
    found.exec(an_exec(1, pid=5, at_ns=4 * S), 5 * S)
    found.exit(Exit(5 * S, 6, 0))
    found.exec(an_exec(2, pid=6, at_ns=5 * S + S // 2), 6 * S)
    found.settle(6 * S)
    book.close(0)
    assert [(row["pid"], row["signal"]) for row in read(tmp_path / "execs") if row["type"] == "exit"] == [(5, 9)]


def test_a_gap_is_in_every_grants_file(tmp_path: Path) -> None:
    found, book = sorting(tmp_path)
    other = Book(tmp_path / "other")
    found.follow("2", other, {70002: "jit-bob"})
    found.gap("why", 3, 0, first=4)
    for each in (book, other):
        each.close(0)
    for name in ("execs", "other"):
        assert [(row["why"], row["lost"], row["first"]) for row in read(tmp_path / name) if row["type"] == "gap"] == [("why", 3, 4)]


def test_a_storm_of_execs_becomes_few_events_and_all_of_it_is_written(tmp_path: Path) -> None:
    told: list[Exec] = []
    found, book = sorting(tmp_path, tell=lambda _key, each: told.append(each))
    for number in range(5000):
        found.exec(an_exec(number), number * S // 1000)
    assert TOLD_BURST <= len(told) <= TOLD_BURST + 5
    for number in range(10_000):
        found.exec(an_exec(number), 10 * number * S)
    assert len(told) == TOLD_MAX
    assert book.close(0)["execs"] == 15_000


# The reader, for real; the kernel's socket is another


class OtherKernel:
    """Two sockets instead of the kernel's."""

    def __init__(self) -> None:
        self.given_back = self.mended = 0
        self.records, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def probe(self) -> None: ...

    def take(self) -> tuple[socket.socket, socket.socket | None]:
        found = self._theirs.dup()
        found.setblocking(False)
        return found, None

    def mend(self) -> bool:
        self.mended += 1
        return True

    def limits(self) -> list[str]:
        return ["a rule"]

    def give_back(self) -> None:
        self.given_back += 1

    def ran(self, serial: int, word: str) -> None:
        """What the kernel says of an exec."""
        call = f'arch=c000003e syscall=59 success=yes exit=0 ppid=1 pid={serial} auid={UID} uid=0 euid=0 ses=3 exe="/bin/x"'
        for kind, text in ((SYSCALL, call), (EXECVE, f'argc=1 a0="{word}"'), (EOE, "")):
            self.say(kind, f"audit(1795324572.221:{serial}): {text}")

    def say(self, kind: int, text: str) -> None:
        self.records.send(netlink._HEADER.pack(0, kind, 0, 0, 0) + text.encode())

    def close(self) -> None:
        self.records.close()
        self._theirs.close()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherKernel]:
    found = OtherKernel()
    yield found
    found.close()


@pytest.fixture
def heard() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def capture(kernel: OtherKernel, heard: list[dict[str, Any]]) -> Iterator[Capture]:
    found = Capture(kernel, (70000, 99999), heard.append)
    found.ready()
    yield found
    found.stop()


def until(test: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


def test_what_is_read_is_written_told_and_summed_up(
    tmp_path: Path, kernel: OtherKernel, capture: Capture, heard: list[dict[str, Any]]
) -> None:
    path = tmp_path / "execs"
    capture.follow("1", path, {UID: "jit-alice"}, {"jti": "g-1"})
    for serial in range(50, 60):
        kernel.ran(serial, f"n{serial}")
    kernel.ran(62, "late")
    told: dict[str, Any] = capture.finish(["1", "unknown"])["1"]
    rows = read(path)
    assert rows[0]["type"] == "begin" and rows[0]["grant"] == {"jti": "g-1"}
    assert [row["argv"] for row in rows if row["type"] == "exec"] == [[f"n{serial}"] for serial in range(50, 60)] + [["late"]]
    assert [(row["first"], row["last"], row["lost"]) for row in rows if row["type"] == "gap"] == [(60, 61, 2)]
    assert (told["execs"], told["gaps"], told["lost"], told["file"]) == (11, 1, 2, "execs") and agrees(path, told)
    until(lambda: sum(len(said.get("execs", ())) for said in heard) == 11)
    assert kernel.given_back == 1


def test_a_reader_that_is_killed_loses_nothing_that_had_not_come_to_it_and_the_gap_is_told(
    tmp_path: Path, kernel: OtherKernel, capture: Capture
) -> None:
    path = tmp_path / "execs"
    capture.follow("1", path, {UID: "jit-alice"}, {})
    kernel.ran(1, "before")
    until(lambda: path.exists() and b"before" in path.read_bytes())
    running = capture._running
    assert running is not None
    os.kill(running._process.pid, signal.SIGSTOP)
    for serial in range(2, 8):
        kernel.ran(serial, f"n{serial}")
    os.kill(running._process.pid, signal.SIGKILL)
    told: dict[str, Any] = {}
    until(lambda: capture._running not in {None, running})
    told = capture.finish(["1"])["1"]
    rows = read(path)
    assert [row["argv"][0] for row in rows if row["type"] == "exec"] == ["before", *(f"n{serial}" for serial in range(2, 8))]
    assert [row["why"] for row in rows if row["type"] == "gap"] == ["nobody read until here since the last line"]
    assert told["execs"] == 7 and agrees(path, told)


def test_a_change_of_audits_rules_is_mended_and_told(tmp_path: Path, kernel: OtherKernel, capture: Capture) -> None:
    path = tmp_path / "execs"
    capture.follow("1", path, {UID: "jit-alice"}, {})
    kernel.say(1305, 'audit(1.000:7): op=remove_rule key="tidegate" list=4 res=1')
    until(lambda: kernel.mended and b"rules" in path.read_bytes())
    capture.finish(["1"])


# In the receipt


def test_where_nothing_is_captured_the_receipt_says_why_and_the_grant_goes_on(tmp_path: Path) -> None:
    clock = FakeClock()
    journal, ledger = Journal(tmp_path / "state.db"), Ledger(clock)
    trail = Trail(tmp_path, HostIdentity("h", "h", "0"), clock, tell=lambda *_: None)
    kernel = NoKernel("the kernel's audit is not to be had here: Operation not permitted")
    executions = Executions(kernel, tmp_path, (70000, 99999), clock, journal, ledger, trail)
    grant = live(clock)
    executions.ready()
    executions.begin(grant)
    shut = Shut(grant, clock.wall_ns(), clock.wall_ns())
    executions.finish([shut])
    found = receipt.claims(shut, host_id="h", receipt_id="r")["executions"]
    assert found == {"absent": "the kernel's audit is not to be had here: Operation not permitted"}
    assert executions.state()["absent"]
    executions.stop()
    journal.close()


def test_what_a_tenant_wrote_reaches_no_terminal_raw(tmp_path: Path) -> None:
    clock = FakeClock()
    events: list[Any] = []
    trail = Trail(tmp_path, HostIdentity("h", "h", "0"), clock, tell=lambda event, _ocsf: events.append(event))
    journal, ledger = Journal(tmp_path / "state.db"), Ledger(clock)
    executions = Executions(NoKernel("no"), tmp_path, (70000, 99999), clock, journal, ledger, trail)
    grant = live(clock)
    ledger.add(grant)
    row = {
        "key": str(grant.id),
        "at_ns": 5,
        "pid": 9,
        "auid": 70000,
        "command": "\x1b]0;x\x07\n\u202e",
        "path": "/x",
        "success": True,
    }
    executions._heard({"tell": "execs", "execs": [row]})
    executions._heard({"tell": "gap", "key": str(grant.id), "why": "w", "lost": 3})
    assert [event.kind for event in events] == [EventKind.PROCESS_LAUNCHED, EventKind.PROCESS_UNSEEN]
    text = json.dumps(to_ocsf(events[0], HostIdentity("h", "h", "0")), ensure_ascii=False)
    assert text.isprintable() and "\\\\x1b" in text
    journal.close()


def test_a_line_is_plain_ascii_whatever_is_in_it() -> None:
    text = lines.of_exec(an_exec(argv=("\x1b[2J", "\udcff", "é\u202e", "\n", '"')))
    assert text.count(b"\n") == 1 and all(32 <= byte < 127 for byte in text[:-1])
    assert json.loads(text)["argv"] == ["\x1b[2J", "\udcff", "é\u202e", "\n", '"']
    assert lines.kind_of(text) == "exec" and lines.kind_of(b"\xff") == ""
