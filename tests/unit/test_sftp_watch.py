"""What a recording says about files: read from real SFTP sessions in any pieces, and from hostile ones."""

import hashlib
import json
import os
import random
import select
import socket
import stat
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sessions.recorder.sftp import FILES_MAX, RUNS_MAX, SftpWatch
from tests.unit.sftp_kit import SERVER, Transcript, argv, cut, load, number, packet, string

pytestmark = pytest.mark.skipif(not os.access(SERVER, os.X_OK), reason=f"no {SERVER} on this machine")
Event = dict[str, Any]

INIT, OPEN, CLOSE, READ, WRITE, FSETSTAT, REMOVE, MKDIR = 1, 3, 4, 5, 6, 10, 13, 14
STATUS, HANDLE, DATA, EXTENDED = 101, 102, 103, 200
HELLO = [(True, packet(INIT, 3)), (False, packet(2, 3))]
OK = packet(STATUS, 7, 0, string(b""), string(b""))


def watched(transcript: Transcript, ended: bool = True) -> list[Event]:
    """The events of a session."""
    events: list[Event] = []
    watch = SftpWatch(events.append)
    for client, data in transcript:
        (watch.client if client else watch.server)(data)
    if ended:
        watch.end()
    return events


def answer(ident: int, code: int = 0) -> tuple[bool, bytes]:
    return False, packet(STATUS, ident, code, string(b""), string(b""))


def opened(ident: int = 1, path: bytes = b"x", flags: int = 0x1A, handle: bytes = b"h") -> Transcript:
    return [(True, packet(OPEN, ident, string(path), flags, 0)), (False, packet(HANDLE, ident, string(handle)))]


def write(ident: int, offset: int, data: bytes, handle: bytes = b"h") -> tuple[bool, bytes]:
    return True, packet(WRITE, ident, string(handle), number(offset), string(data))


def gaps(events: list[Event]) -> list[str]:
    return [event["why"] for event in events if event["type"] == "gap"]


class Named(socket.socket):
    """A socket with what paramiko asks of a channel."""

    def get_name(self) -> str:
        return "x"

    def recv_ready(self) -> bool:
        return bool(select.select([self], [], [], 0)[0])


@contextmanager
def session(folder: Path) -> Iterator[tuple[paramiko.SFTPClient, Path]]:
    """A paramiko client with a real server behind a listener; and where the transcript will be."""
    one, theirs = socket.socketpair()
    ours = Named(fileno=one.detach())
    with (
        theirs,
        subprocess.Popen(argv(folder / "heard"), stdin=theirs.fileno(), stdout=theirs.fileno(), cwd=folder) as listener,
        ours,
    ):
        theirs.close()
        client = paramiko.SFTPClient(ours)  # type: ignore[arg-type]  # it takes sockets too
        yield client, folder / "heard"
        client.close()
        ours.close()
        listener.wait(30)  # its transcript is whole then


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Transcript:
    """A session in which a little of everything happens."""
    folder = tmp_path_factory.mktemp("lively")
    with session(folder) as (client, heard):
        with client.open("a", "w") as file:
            file.write(b"hello")
        with client.open("a") as file:
            assert file.read() == b"hello"
        client.mkdir("d")
        client.rename("a", "d/b")
        client.posix_rename("d/b", "d/c")
        client.symlink("d/c", "link")
        client.chmod("d/c", 0o600)
        client.listdir("d")
        client.stat("d/c")
        client.remove("d/c")
        client.rmdir("d")
        with pytest.raises(FileNotFoundError):
            client.open("nothing")
        with pytest.raises(OSError, match="Failure"):
            client.mkdir("link")
    return load(heard)


def test_every_kind_of_change_is_told_with_its_answer(lively: Transcript) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()
    told = {"bytes": 5, "sha256": digest, "complete": True, "status": "ok"}
    assert watched(lively) == [
        {"type": "file", "op": "write", "path": "a", **told},
        {"type": "file", "op": "read", "path": "a", **told},
        {"type": "file", "op": "mkdir", "path": "d", "status": "ok"},
        {"type": "file", "op": "rename", "path": "a", "to": "d/b", "status": "ok"},
        {"type": "file", "op": "rename", "path": "d/b", "to": "d/c", "status": "ok"},
        {"type": "file", "op": "symlink", "path": "link", "target": "d/c", "status": "ok"},
        {"type": "file", "op": "setstat", "path": "d/c", "mode": "0600", "status": "ok"},
        {"type": "file", "op": "remove", "path": "d/c", "status": "ok"},
        {"type": "file", "op": "rmdir", "path": "d", "status": "ok"},
        {"type": "file", "op": "read", "path": "nothing", "bytes": 0, **nothing_read("no such file")},
        {"type": "file", "op": "mkdir", "path": "link", "status": "failure"},
    ]


def nothing_read(status: str) -> Event:
    return {"sha256": hashlib.sha256().hexdigest(), "complete": False, "status": status}


def test_any_pieces_give_the_same_events(lively: Transcript) -> None:
    whole = watched(lively)
    assert watched(cut(lively, iter(lambda: 1, 0))) == whole

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(1, 300), max_size=400))
    def property_(sizes: list[int]) -> None:
        assert watched(cut(lively, sizes)) == whole

    property_()


def test_a_session_cut_anywhere_is_told_up_to_there_and_raises_nothing(lively: Transcript) -> None:
    whole = watched(lively, ended=False)
    pieces = cut(lively, iter(lambda: 7, 0))
    for end in range(len(pieces)):
        events = watched(pieces[:end], ended=False)
        assert events == whole[: len(events)]
        late = watched(pieces[:end])[len(events) :]
        assert all(event["status"] == "unanswered" or event["complete"] is False for event in late)


def test_openssh_client_and_large_files(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(3_000_001)
    (tmp_path / "big").write_bytes(data)
    (tmp_path / "empty").write_bytes(b"")
    batch = """
        put big up\nget up down\nput empty e2\nget empty e3\nln up hard\nrename hard hard2\nchmod 640 hard2\nrm hard2
        cp up copy\n"""
    listener = tmp_path / "listener"
    listener.write_text(f"#!/bin/sh\nexec {' '.join(argv(tmp_path / 'heard'))}\n")
    listener.chmod(0o755)
    done = subprocess.run(
        ["sftp", "-b", "-", "-D", str(listener)], input=batch, text=True, capture_output=True, cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 0 or "cp" in done.stderr or "Invalid command" in done.stderr, done.stderr
    assert (tmp_path / "down").read_bytes() == data
    events = watched(load(tmp_path / "heard"))
    digest = hashlib.sha256(data).hexdigest()
    moved = [
        (e["op"], Path(e["path"]).name, e["bytes"], e["sha256"], e["complete"]) for e in events if e["op"] in ("read", "write")
    ]
    none = hashlib.sha256().hexdigest()
    assert moved[:4] == [
        ("write", "up", len(data), digest, True),
        ("read", "up", len(data), digest, True),
        ("write", "e2", 0, none, True),
        ("read", "empty", 0, none, True),
    ]
    ops = [event["op"] for event in events]
    assert not gaps(events) and {"link", "rename", "setstat", "remove"} <= set(ops)
    assert next(e for e in events if e["op"] == "setstat" and e["path"].endswith("hard2"))["mode"] == "0640"


def test_a_file_read_far_ahead_is_one_run_of_requests() -> None:
    asked = [(True, packet(READ, 2 + i, string(b"h"), number(i * 100), 100)) for i in range(5 * RUNS_MAX)]
    given_ = [(False, packet(DATA, 2 + i, string(b"x" * 100))) for i in range(5 * RUNS_MAX)]
    events = watched([*HELLO, *opened(flags=1), *asked, *given_])
    data = b"x" * 500 * RUNS_MAX
    assert [(e["op"], e["bytes"], e["sha256"]) for e in events] == [("read", len(data), hashlib.sha256(data).hexdigest())]


def test_paramikos_way_with_large_files(tmp_path: Path) -> None:
    data = os.urandom(200) * 32768  # 6.5 MB: 200 requests that it sends at once
    (tmp_path / "big").write_bytes(data)
    with session(tmp_path) as (client, heard):
        client.get("big", str(tmp_path / "got"))
        client.put(str(tmp_path / "got"), "back")
    read, write = watched(load(heard))
    once = len(data), hashlib.sha256(data).hexdigest()
    assert [(e["op"], e["status"], e["complete"]) for e in (read, write)] == [("read", "ok", True), ("write", "ok", True)]
    assert (write["bytes"], write["sha256"]) == once
    # On a busy machine paramiko asks for the rest again before what it asked for ahead has come: more bytes, and no order in them.
    assert (read["bytes"], read["sha256"]) == once or (int(str(read["bytes"])) > len(data) and read["sha256"] is None)


def test_bytes_out_of_order_have_no_hash_but_are_counted(tmp_path: Path) -> None:
    with session(tmp_path) as (client, heard):
        with client.open("a", "w") as file:
            file.write(b"one")
            file.seek(100)
            file.write(b"two")
        with client.open("a") as file:
            file.seek(50)
            file.read(10)
        with client.open("a", "a") as file:
            file.write(b"three")
    events = watched(load(heard))
    assert [(e["op"], e["bytes"], e["sha256"], e["ranges"]) for e in events[:2]] == [("write", 6, None, 2), ("read", 10, None, 1)]
    assert events[2]["append"] is True


def test_a_file_without_room_is_told_as_failed() -> None:
    events = watched([*HELLO, *opened(), write(2, 0, b"abc"), answer(2, 4), (True, packet(CLOSE, 3, string(b"h"))), answer(3)])
    assert [(e["op"], e["status"], e["complete"]) for e in events] == [("write", "failure", True)]


def test_what_is_open_at_the_end_is_told_as_incomplete() -> None:
    events = watched([*HELLO, *opened(), write(2, 0, b"abc"), answer(2), write(3, 3, b"de")])
    assert [(e["bytes"], e["status"], e["complete"]) for e in events] == [(5, "unanswered", False)]
    half = write(3, 3, b"d" * 1000)[1][:500]
    events = watched([*HELLO, *opened(), write(2, 0, b"abc"), answer(2), (True, half)])
    assert [(e["bytes"], e["sha256"], e["complete"]) for e in events] == [(3, None, False)]


def test_copy_data_is_told_and_its_target_has_no_hash() -> None:
    copy = packet(EXTENDED, 3, string(b"copy-data"), string(b"h"), number(0), number(0), string(b"i"), number(0))
    close = [(True, packet(CLOSE, 4, string(b"i"))), answer(4)]
    events = watched([*HELLO, *opened(), *opened(2, b"y", handle=b"i"), (True, copy), answer(3), *close], ended=False)
    assert events[0] == {"type": "file", "op": "copy", "path": "x", "to": "y", "bytes": None, "status": "ok"}
    assert (events[1]["path"], events[1]["sha256"], events[1]["ranges"]) == ("y", None, 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        (b"a\nb", "a\\x0ab"),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("\u202egpj".encode(), "\\u202egpj"),
        (b"a\\b", "a\\\\b"),
        ("grün".encode(), "grün"),
    ],
)
def test_no_path_reaches_a_terminal_raw(name: bytes, shown: str) -> None:
    events = watched([*HELLO, (True, packet(REMOVE, 1, string(name))), answer(1)])
    assert events[0]["path"] == shown


def test_paths_are_bounded() -> None:
    events = watched([*HELLO, (True, packet(MKDIR, 1, string(b"\x01" * 15000), 0)), answer(1, 4)])
    assert 4000 < len(events[0]["path"]) <= 4096


READ_X = packet(READ, 2, string(b"0"), number(0), 100)
HOSTILE: dict[str, tuple[Transcript, str]] = {
    "no SFTP": ([(True, b"SSH-2.0-x\r\n")], "bytes"),
    "no beginning": ([(True, packet(REMOVE, 1, string(b"x")))], "begin"),
    "longer than any packet": ([*HELLO, (True, b"\x7f\xff\xff\xff\x06")], "a packet of 2147483647 bytes"),
    "shorter than any packet": ([*HELLO, (True, b"\0\0\0\0\x06")], "a packet of 0 bytes"),
    "a field longer than its packet": ([*HELLO, (True, packet(REMOVE, 1, 99, b"x"))], "field"),
    "data longer than its packet": (
        [*HELLO, *opened(), (True, packet(WRITE, 2, string(b"h"), number(0), 99, b"x"))],
        "data longer than its packet",
    ),
    "a handle guessed, then written to": ([*HELLO, write(1, 0, b"x"), answer(1)], "before it was given"),
    "a handle guessed, then read from": (
        [*HELLO, (True, READ_X), (False, packet(DATA, 2, string(b"secret")))],
        "before it was given",
    ),
    "a handle guessed, then changed": ([*HELLO, (True, packet(FSETSTAT, 1, string(b"h"), 0)), answer(1)], "before it was given"),
    "a handle guessed, and gone": ([*HELLO, write(1, 0, b"x")], "never came"),
    "answers to nothing": ([*HELLO, answer(1)], "no request"),
    "answers out of order": (
        [*HELLO, *[(True, packet(REMOVE, i, string(b"x"))) for i in (1, 2)], answer(2)],
        "out of order",
    ),
    "another kind of answer": ([*HELLO, (True, packet(REMOVE, 1, string(b"x"))), (False, packet(HANDLE, 1, string(b"h")))], "type"),
    "a handle given twice": ([*HELLO, *opened(), *opened(2)], "given twice"),
    "too many open files": (
        [*HELLO, *[step for i in range(FILES_MAX + 1) for step in opened(i, handle=b"%d" % i)]],
        "too many open files",
    ),
    "too many requests": (
        [*HELLO, *[(True, packet(REMOVE, i, string(b"x"))) for i in range(RUNS_MAX + 1)]],
        "too many requests",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_stream_that_cannot_be_followed_is_one_gap(name: str) -> None:
    transcript, why = HOSTILE[name]
    more = [*opened(99, b"later", handle=b"late")] if name != "a handle guessed, and gone" else []
    events = watched([*transcript, *more])
    assert len(gaps(events)) == 1 and why in gaps(events)[0]
    assert not any(event.get("path") == "later" for event in events)
    assert watched(cut(transcript, iter(lambda: 1, 0))) == watched(transcript)


def test_the_same_request_id_twice_hides_nothing() -> None:
    both = [(True, packet(REMOVE, 5, string(name))) for name in (b"a", b"b")]
    events = watched([*HELLO, *both, answer(5, 2), answer(5)])
    assert [(e["path"], e["status"]) for e in events] == [("a", "no such file"), ("b", "ok")]


def test_a_handle_given_again_at_once_is_the_new_file() -> None:
    steps: Callable[[int], Transcript] = lambda n: [write(n, 0, b"x" * n), (True, packet(CLOSE, n + 1, string(b"h")))]  # noqa: E731
    pipelined = [*opened(), *steps(2), (True, packet(OPEN, 4, string(b"second"), 0x1A, 0)), answer(2), answer(3)]
    events = watched([*HELLO, *pipelined, (False, packet(HANDLE, 4, string(b"h"))), *steps(5), answer(5), answer(6)])
    assert [(e["path"], e["bytes"]) for e in events] == [("x", 2), ("second", 5)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=20))
def test_noise_raises_nothing(noise: Transcript) -> None:
    for transcript in (noise, [*HELLO, *noise], [*HELLO, *opened(), *noise]):
        assert len(gaps(watched(transcript))) <= 2


def test_a_real_session_with_any_byte_changed_raises_nothing(lively: Transcript) -> None:
    chance = random.Random(2)
    for _ in range(1500):
        changed = [(client, bytearray(data)) for client, data in lively]
        for _ in range(chance.randint(1, 3)):
            data = chance.choice(changed)[1]
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        events = watched([(client, bytes(data)) for client, data in changed])
        assert json.dumps(events) and all(str(e.get("path", "")).isprintable() for e in events)
        assert not any("while reading it" in why for why in gaps(events)), events


def test_nothing_of_a_files_data_is_kept_and_little_else() -> None:
    piece = write(2, 0, bytes(200_000))[1]
    watch = SftpWatch(lambda _: None)
    for client, data in [*HELLO, *opened()]:
        (watch.client if client else watch.server)(data)
    tracemalloc.start()
    for _ in range(200):
        watch.client(piece)
    for i in range(100_000):
        watch.client(packet(OPEN, i, string(b"x" * 4000), 1, 0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_it_is_faster_than_any_disk() -> None:
    pieces = [write(i, i * 32768, bytes(32768))[1] for i in range(2000)]
    watch = SftpWatch(lambda _: None)
    for client, data in [*HELLO, *opened()]:
        (watch.client if client else watch.server)(data)
    began = time.process_time()
    for data in pieces:
        watch.client(data)
    assert 2000 * 32768 / (time.process_time() - began) > 100e6  # bytes a second; measured 1.0e9


def test_modes_are_those_of_the_files(tmp_path: Path) -> None:
    with session(tmp_path) as (client, heard):
        client.open("a", "w").close()
        client.chmod("a", stat.S_IFREG | 0o4755)
        client.truncate("a", 77)
        client.utime("a", (5, 6))
    events = watched(load(heard))
    assert [{k: v for k, v in e.items() if k in ("mode", "size", "atime", "mtime")} for e in events] == [
        {},
        {"mode": "4755"},
        {"size": 77},
        {"atime": 5, "mtime": 6},
    ]
