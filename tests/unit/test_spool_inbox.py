"""Whatever lies in the inbox, looking at it is bounded, blocks on nothing, and leads nowhere else."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import HostError, UntrustedError
from agent.spool import Inbox
from agent.spool.entries import is_being_written, shown


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def put_symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def put_dangling(path: Path) -> None:
    path.symlink_to("/nowhere")


def put_folder(path: Path) -> None:
    path.mkdir()


def put_full_folder(path: Path) -> None:
    (path / "a" / "b").mkdir(parents=True)


def put_hard_link(path: Path) -> None:
    (path.parent / ".other").write_bytes(b"x")
    path.hardlink_to(path.parent / ".other")


def put_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)


def put_long(path: Path) -> None:
    path.write_bytes(b"x" * 65)


def put_empty(path: Path) -> None:
    path.touch()


HOSTILE: list[tuple[Callable[[Path], None], str]] = [
    (put_fifo, "file_not_regular"),
    (put_socket, "file_not_regular"),
    (put_symlink, "file_not_regular"),
    (put_dangling, "file_not_regular"),
    (put_folder, "file_not_regular"),
    (put_full_folder, "file_not_regular"),
    (put_hard_link, "file_linked"),
    (put_sparse, "file_too_large"),
    (put_long, "file_too_large"),
    (put_empty, "file_empty"),
]


def refusal(inbox: Inbox, name: str) -> str:
    with pytest.raises(UntrustedError) as caught:
        inbox.take(name)
    return caught.value.code


@pytest.mark.parametrize(("put", "code"), HOSTILE, ids=[put.__name__ for put, _ in HOSTILE])
def test_a_hostile_file_is_refused_by_its_code_and_gone_after(tmp_path: Path, put: Callable[[Path], None], code: str) -> None:
    inbox = Inbox(tmp_path, max_bytes=64)
    put(tmp_path / "g")
    before = len(list(Path("/proc/self/fd").iterdir()))
    started = time.monotonic()
    assert inbox.names() == ["g"]
    assert refusal(inbox, "g") == code
    assert inbox.discard("g") is True
    assert inbox.names() == []
    assert time.monotonic() - started < 0.5
    assert Path("/etc/passwd").stat().st_size > 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert inbox.discard("g") is True


def test_a_good_file_is_taken_whole_up_to_the_very_bound(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, max_bytes=64)
    for size in (1, 63, 64):
        (tmp_path / "g").write_bytes(b"y" * size)
        assert inbox.take("g") == b"y" * size
        assert inbox.discard("g") is True
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_hidden_once_with_what_is_in_it(tmp_path: Path) -> None:
    put_full_folder(tmp_path / "g")
    Inbox(tmp_path).discard("g")
    hidden = list(tmp_path.iterdir())
    assert len(hidden) == 1
    assert hidden[0].name.startswith(".")
    assert (hidden[0] / "a" / "b").is_dir()
    assert Inbox(tmp_path).names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b"])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    inbox = Inbox(tmp_path / "in")
    assert refusal(inbox, name) == "file_unreadable"
    assert inbox.discard(name) is True
    assert (tmp_path / "x").exists()


def test_an_absent_file_has_a_code_of_its_own(tmp_path: Path) -> None:
    assert refusal(Inbox(tmp_path), "g") == "file_absent"


def test_a_folder_replaced_by_a_link_is_not_the_inbox(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "passwd").write_bytes(b"x")
    (tmp_path / "in").symlink_to(tmp_path / "victim")
    inbox = Inbox(tmp_path / "in")
    with pytest.raises(HostError):
        inbox.names()
    assert refusal(inbox, "passwd") == "file_unreadable"
    with pytest.raises(HostError):
        inbox.discard("passwd")
    assert (tmp_path / "victim" / "passwd").exists()


def test_names_come_oldest_first_and_leave_out_what_is_not_meant_yet(tmp_path: Path) -> None:
    for age, name in enumerate(["c", "a", "b", ".hidden", "x.tmp", "y.part"]):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (1000 + age // 2, 1000 + age // 2))
    assert Inbox(tmp_path).names() == ["a", "c", "b"]


def test_names_are_bounded_and_the_rest_comes_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.spool.inbox._SCAN_MAX", 1024)
    for number in range(1500):
        (tmp_path / f"{number:04}").touch()
    inbox = Inbox(tmp_path)
    first = inbox.names()
    assert len(first) == 1024
    for name in first:
        inbox.discard(name)
    assert len(inbox.names()) == 476


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"new\nline", b"\x1b[2J", b"-rf", "\u202egpj.exe".encode(), b"a" * 255, "é".encode()])
def test_any_name_is_taken_discarded_and_shown_safely(tmp_path: Path, raw: bytes) -> None:
    with (tmp_path / os.fsdecode(raw)).open("wb") as file:
        file.write(b"x")
    inbox = Inbox(tmp_path)
    (name,) = inbox.names()
    assert inbox.take(name) == b"x"
    assert shown(name).isprintable()
    assert shown(name).encode("utf-8")
    assert inbox.discard(name) is True
    assert inbox.names() == []


def test_two_names_are_never_shown_alike() -> None:
    names = ["\udcff", "\\xff", "\n", "\\n", "\x0a\\", "\\\\n", "a\u202eb", "a\\u202eb"]
    assert len({shown(name) for name in names}) == len(set(names))
    assert shown("\udcff\n") == "\\xff\\x0a"
    assert len(shown("\x1b" * 1000)) <= 255


def test_a_file_put_under_the_same_name_meanwhile_is_not_lost(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (tmp_path / "g").write_bytes(b"grant")
    assert inbox.take("g") == b"grant"
    (tmp_path / ".new").write_bytes(b"revocation")
    (tmp_path / ".new").rename(tmp_path / "g")
    assert inbox.discard("g") is False
    assert inbox.take("g") == b"revocation"
    assert inbox.discard("g") is True
    assert list(tmp_path.iterdir()) == []


def test_a_file_rewritten_in_place_meanwhile_is_not_lost(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    (tmp_path / "g").write_bytes(b"one")
    inbox.take("g")
    time.sleep(0.01)
    (tmp_path / "g").write_bytes(b"two")
    assert inbox.discard("g") is False
    assert inbox.take("g") == b"two"


def test_a_file_moved_in_at_the_last_moment_comes_back_under_a_visible_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = Inbox(tmp_path)
    (tmp_path / "g").write_bytes(b"grant")
    inbox.take("g")
    rename = os.rename

    def late(source: str, target: str, **fds: int) -> None:
        if source == "g":
            (tmp_path / ".new").write_bytes(b"revocation")
            rename(tmp_path / ".new", tmp_path / "g")
        rename(source, target, **fds)

    monkeypatch.setattr(os, "rename", late)
    assert inbox.discard("g") is False
    (name,) = inbox.names()
    assert name.startswith("returned-")
    assert inbox.take(name) == b"revocation"


def test_what_a_crash_left_hidden_comes_back_to_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / ".taken-0123456789abcdef").write_bytes(b"a revocation, say")
    (tmp_path / ".taken-fedcba9876543210").mkdir()
    (tmp_path / ".being-written").write_bytes(b"x")
    inbox = Inbox(tmp_path)
    inbox.bring_back()
    (name,) = inbox.names()
    assert inbox.take(name) == b"a revocation, say"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".being-written", ".taken-fedcba9876543210", name]


def test_a_file_swapped_for_something_else_between_look_and_open_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = os.lstat
    for put, code in HOSTILE:
        target = tmp_path / "g"
        Inbox(tmp_path).discard("g")
        target.write_bytes(b"x")

        def swap(name: str, put: Callable[[Path], None] = put, target: Path = target, **fds: int) -> os.stat_result:
            found = lstat(name, **fds)
            target.unlink()
            (target.parent / ".other").unlink(missing_ok=True)
            put(target)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", swap)
            assert refusal(Inbox(tmp_path, max_bytes=64), "g") == code, put.__name__


def test_a_file_that_grows_while_it_is_read_stays_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g"
    path.write_bytes(b"x" * 10)
    fstat = os.fstat

    def grow(fd: int) -> os.stat_result:
        found = fstat(fd)
        os.truncate(path, 1 << 40)
        return found

    monkeypatch.setattr(os, "fstat", grow)
    assert refusal(Inbox(tmp_path, max_bytes=64), "g") == "file_too_large"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone who may not read")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"x")
    (tmp_path / "g").chmod(0)
    tmp_path.chmod(0o755)
    folder = os.open(tmp_path, os.O_RDONLY)
    os.seteuid(65534)
    try:
        assert refusal(Inbox(Path(f"/proc/self/fd/{folder}/.")), "g") == "file_unreadable"
    finally:
        os.seteuid(0)
        os.close(folder)


def test_an_undeletable_file_is_said_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g").write_bytes(b"x")

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(HostError) as caught:
        Inbox(tmp_path).discard("g")
    assert caught.value.code == "inbox_discard_failed"
    assert (tmp_path / "g").exists()


def test_a_file_with_a_writer_is_known_by_the_kernel_not_by_its_age(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    path = tmp_path / "g"
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        os.utime(path, (1, 1))
        assert inbox.busy("g") is True
    assert inbox.busy("g") is False
    assert inbox.busy("absent") is False
    os.mkfifo(tmp_path / "fifo")
    assert inbox.busy("fifo") is False


WRITERS = """
import os, sys
while True:
    os.close(os.open(sys.argv[1], os.O_WRONLY))
"""


def test_asking_for_writers_survives_a_writer_opening_in_that_moment(tmp_path: Path) -> None:
    path = tmp_path / "g"
    path.write_bytes(b"x")
    folder = os.open(tmp_path, os.O_RDONLY)
    with subprocess.Popen([sys.executable, "-c", WRITERS, str(path)]) as writer:
        try:
            seen = {is_being_written("g", folder) for _ in range(20_000)}
        finally:
            writer.kill()
    os.close(folder)
    assert True in seen
