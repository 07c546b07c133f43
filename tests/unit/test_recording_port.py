"""The recorder's door to root: a terminal is out of its user's reach whoever held it, only tenants are served, seals are kept."""

import array
import contextlib
import json
import os
import socket
import stat
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.control.port import Port
from agent.errors import HostError
from agent.expiry import recordings
from agent.expiry.ledger import Ledger
from agent.expiry.recordings import Recordings
from agent.host import recorder, terminal
from agent.host.clock import FakeClock
from agent.journal import Journal
from agent.trust import HostKey, generate_key
from tests.unit.expiry_kit import live

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives terminals to other users")
UID = 70001
IDENT = "r-20261122T051500-0123abcd"
SEAL: dict[str, object] = {
    "op": "seal", "recording": IDENT, "jti": "grant-1", "uid": UID, "pid": 7, "seq": 2, "head": "ab" * 32, "bytes": 900,
    "final": False,
}  # fmt: skip


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    """sshd's: master, and the slave that is the tenant's."""
    master, slave = os.openpty()
    os.fchown(slave, UID, -1)
    yield master, slave
    os.close(master)


@pytest.fixture
def new() -> Iterator[int]:
    master, slave = os.openpty()
    yield slave
    os.close(master)


@as_root
def test_whoever_held_the_old_terminal_holds_nothing_and_sshd_goes_on(pty: tuple[int, int], new: int) -> None:
    master, old = pty
    name = os.ttyname(old)
    thief = os.open(name, os.O_RDWR | os.O_NOCTTY)
    ours, theirs = socket.socketpair()
    socket.send_fds(theirs, [b"x"], [thief])  # on its way, where no look at /proc finds it
    taken = terminal.take(old, new, UID, os.getuid())
    anew = taken.anew
    assert taken.theirs
    _, (parked,), _, _ = socket.recv_fds(ours, 1, 1)
    for stolen in (thief, parked, old):
        with pytest.raises(OSError, match="Input/output"):
            os.write(stolen, b"x")
        assert os.read(stolen, 10) == b""
    found = Path(name).stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0)
    os.set_blocking(anew, True)
    os.write(anew, b"out\n")
    assert os.read(master, 100) == b"out\r\n"
    os.write(master, b"in\n")
    assert os.read(anew, 100) == b"in\n"
    assert (os.fstat(new).st_uid, stat.S_IMODE(os.fstat(new).st_mode)) == (UID, 0o620)
    for fd in (thief, parked, anew, old, new):
        os.close(fd)
    ours.close()
    theirs.close()


def answers(master: int) -> bytes:
    """What the terminal has shown."""
    os.set_blocking(master, False)
    try:
        return os.read(master, 4096)
    except BlockingIOError:
        return b""


def reads(slave: int, times: int) -> list[bytes]:
    """What a program reads there, a line each; it waits for none."""
    os.set_blocking(slave, False)
    return [os.read(slave, 4096) for _ in range(times)]


@as_root
def test_what_was_typed_before_the_terminal_was_taken_is_typed_into_the_new_one_and_shown_once(pty: tuple[int, int]) -> None:
    master, old = pty
    new_master, new = os.openpty()
    os.write(master, b"frist\x15first\rse\x16\x03cond\n\x04part")
    time.sleep(0.05)
    assert b"first" in answers(master)
    taken = terminal.take(old, new, UID, os.getuid())
    assert reads(new, 3) == [b"first\n", b"se\x03cond\n", b""]
    assert answers(new_master) == b""
    os.write(new_master, b"ial\x7fs\n")
    time.sleep(0.05)
    assert reads(new, 1) == [b"partias\n"]
    assert taken.typed_ahead == len(b"first\nse\x03cond\npart")
    for fd in (taken.anew, old, new, new_master):
        os.close(fd)


@as_root
def test_what_was_typed_into_a_terminal_without_lines_is_there_as_it_was(pty: tuple[int, int]) -> None:
    master, old = pty
    new_master, new = os.openpty()
    for fd in (old, new):
        tty.setraw(fd)
    every = bytes(range(256)) * 4
    os.write(master, every)
    time.sleep(0.05)
    taken = terminal.take(old, new, UID, os.getuid())
    assert reads(new, 1) == [every]
    for fd in (taken.anew, old, new, new_master):
        os.close(fd)


@as_root
def test_a_terminal_whose_client_has_gone_is_taken_too(new: int) -> None:
    master, old = os.openpty()
    os.fchown(old, UID, -1)
    os.close(master)
    with contextlib.suppress(HostError):
        os.close(terminal.take(old, new, UID, os.getuid()).anew)
    os.close(old)


@as_root
def test_a_terminal_of_another_user_stays_as_it_is(pty: tuple[int, int], new: int) -> None:
    """An admin's, with `su` to the tenant on it."""
    master, old = pty
    taken = terminal.take(old, new, UID + 1, os.getuid())
    anew = taken.anew
    assert not taken.theirs
    for fd in (old, anew):
        os.set_blocking(fd, True)
        os.write(fd, b"still\n")
        assert os.read(master, 100) == b"still\r\n"
    os.close(anew)
    assert os.fstat(old).st_uid == UID


@as_root
def test_nobody_gets_more_of_a_terminal_than_they_had(pty: tuple[int, int], new: int) -> None:
    _, old = pty
    listening = os.open(os.ttyname(old), os.O_RDONLY | os.O_NOCTTY)
    with pytest.raises(HostError, match="reading and writing"):
        terminal.take(listening, new, UID + 1, os.getuid())
    os.close(listening)


@as_root
def test_a_terminal_that_was_not_the_recorders_is_not_given_away(pty: tuple[int, int], new: int) -> None:
    """An admin's, with `su` on it, that a recorder in the wrong hands would have typed into."""
    _, old = pty
    with pytest.raises(HostError, match="recorder's own"):
        terminal.take(old, new, UID, UID - 1)
    assert (os.fstat(old).st_uid, os.fstat(new).st_uid) == (UID, os.getuid())


@as_root
def test_what_is_no_terminal_is_refused(new: int) -> None:
    with Path("/dev/null").open() as null, pytest.raises(HostError, match="pseudo-terminal"):
        terminal.take(null.fileno(), new, UID, os.getuid())


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Kit:
    """A port over a real socket, with one live grant."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock()
        self.journal = Journal(path / "state.db")
        self.ledger = Ledger(self.clock)
        self.live = live(self.clock, 1, uids={"jit-a": UID})
        self.ledger.add(self.live)
        self.noted: list[object] = []
        self.journal.note = lambda _id, _name, value: self.noted.append(value)  # type: ignore[method-assign,assignment]
        self.key = HostKey(generate_key("host", ["host"])[0], "host")
        self.recordings = Recordings("urn:tidegate:x", self.clock, self.key, self.journal, self.ledger)
        config = SimpleNamespace(paths=SimpleNamespace(run_dir=path))
        pipeline = SimpleNamespace(config=config, ledger=self.ledger, recordings=self.recordings, sessions=None)
        self.port = Port(cast(Any, pipeline))
        self.path = path / "port.sock"
        self.client: socket.socket | None = None

    def ask(self, request: object, fds: tuple[int, ...] = ()) -> tuple[dict[str, Any], list[int]]:
        """On one connection, as the recorder has it."""
        if self.client is None:
            self.client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.client.connect(str(self.path))
        data = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
        answer, given, _, _ = socket.recv_fds(self.client, 65536, 4)
        return json.loads(answer), list(given)


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    monkeypatch.setattr(recorder, "ACCOUNT", "nobody")
    made = Kit(tmp_path)
    assert made.port.start() == ""
    yield made
    if made.client is not None:
        made.client.close()
    made.port.close()
    assert not made.path.exists()


@as_root
def test_a_seal_is_signed_and_stands_in_the_receipt(kit: Kit) -> None:
    answer, _ = kit.ask(SEAL)
    assert answer["ok"] and answer["jws"].count(".") == 2
    assert recordings.listed(kit.live) == [{"recording": IDENT, "blocks": 3, "head": "ab" * 32, "bytes": 900, "whole": False}]
    kit.ask({**SEAL, "seq": 5, "bytes": 2000, "final": True})
    (found,) = recordings.listed(kit.live)
    assert isinstance(found, dict) and (found["blocks"], found["whole"]) == (6, True)
    assert len(kit.noted) == 2
    assert kit.noted[-1] == kit.live.notes["recordings"]


@as_root
@pytest.mark.parametrize(
    "request_",
    [
        b"[", b"[]", b"1", b"\xff", b"[" * 3000, {}, {"op": "open"}, {**SEAL, "uid": True}, {**SEAL, "head": "x"},
        {**SEAL, "recording": "../../etc/passwd"}, {**SEAL, "seq": -1}, {**SEAL, "uid": 0}, {**SEAL, "uid": UID + 1},
        {"op": "take", "uid": UID}, {"op": "take", "uid": 0}, {"op": "cut", "uid": 0, "pid": 1},
    ],
)  # fmt: skip
def test_nothing_but_what_a_recorder_asks_for_a_tenant_is_answered(kit: Kit, request_: object) -> None:
    kit.ask(SEAL)
    before = descriptors()
    answer, given = kit.ask(request_, fds=(0,))
    assert answer["ok"] is False and answer["code"] in {"bad_request", "no_grant"}
    assert given == []
    assert kit.ask(SEAL)[0]["ok"]
    end = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert descriptors() <= before


@as_root
def test_a_terminal_is_taken_over_the_socket(kit: Kit, pty: tuple[int, int], new: int) -> None:
    master, old = pty
    answer, (anew,) = kit.ask({"op": "take", "uid": UID, "pid": 1}, fds=(old, new))
    assert answer == {"ok": True, "taken": True, "typed_ahead": 0}
    os.write(anew, b"hello")
    assert os.read(master, 10) == b"hello"
    os.close(anew)


@as_root
def test_pipes_are_given_to_their_tenant_and_nothing_else_is(kit: Kit, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    assert kit.ask({"op": "own", "uid": UID}, fds=(reading, writing))[0]["ok"]
    assert os.fstat(writing).st_uid == UID
    secret = tmp_path / "shadow"
    secret.write_text("x")
    with secret.open() as file:
        answer, _ = kit.ask({"op": "own", "uid": UID}, fds=(file.fileno(),))
    assert (answer["ok"], secret.stat().st_uid) == (False, 0)
    assert not kit.ask({"op": "own", "uid": UID + 1}, fds=(reading,))[0]["ok"]
    os.close(reading)
    os.close(writing)


@as_root
def test_the_receipt_waits_for_the_last_seal_and_takes_one_that_is_late(kit: Kit) -> None:
    kit.ask(SEAL)
    last = threading.Timer(0.2, lambda: kit.ask({**SEAL, "seq": 9, "final": True}))
    last.start()
    kit.recordings.settle([kit.live])
    last.join()
    (found,) = recordings.listed(kit.live)
    assert isinstance(found, dict) and found["whole"] is True
    kit.ledger.ended(kit.live)
    assert kit.ask({**SEAL, "recording": IDENT[:-1] + "e"})[0]["ok"]


def guarded(tmp_path: Path, first: str) -> Any:
    shell = tmp_path / "tidegate-shell"
    shell.write_text(f"{first}\n")
    return SimpleNamespace(paths=SimpleNamespace(tenant_shell=shell))


@as_root
def test_the_interpreter_of_the_tenants_shell_is_a_copy_that_nobody_may_read(tmp_path: Path) -> None:
    config = guarded(tmp_path, f"#!{tmp_path}/tenant-python -ISE")
    python = tmp_path / "python3"
    python.write_bytes(b"first")
    assert "missing" in recorder.look(config).why or "no account" in recorder.look(config).why
    assert recorder.guard(config, python) == ""
    copy = tmp_path / "tenant-python"
    assert (copy.read_bytes(), stat.S_IMODE(copy.stat().st_mode)) == (b"first", 0o711)
    made = copy.stat().st_ino
    assert recorder.guard(config, python) == ""
    assert copy.stat().st_ino == made
    python.write_bytes(b"an upgrade")
    assert recorder.guard(config, python) == ""
    assert copy.read_bytes() == b"an upgrade"


@as_root
@pytest.mark.parametrize(("first", "mode", "says"), [("#!/usr/bin/python3 -ISE", 0o711, "not run by"), ("", 0o755, "readable")])
def test_a_shell_that_could_be_looked_into_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, mode: int, says: str
) -> None:
    monkeypatch.setattr(recorder, "ACCOUNT", "nobody")
    config = guarded(tmp_path, first or f"#!{tmp_path}/tenant-python -ISE")
    (tmp_path / "tenant-python").write_bytes(b"x")
    (tmp_path / "tenant-python").chmod(mode)
    assert says in recorder.look(config).why
