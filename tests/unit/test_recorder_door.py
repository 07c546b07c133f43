"""Whoever connects to the recorder, with whatever, gets an answer or nothing; and the recorder goes on."""

import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sessions.recorder.loop import Loop
from agent.sessions.recorder.tenant import NotRecorded, parse
from agent.sessions.recorder.wire import what_is
from tests.unit.recorder_kit import Command, Rig, Terminal, rig, rights, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: terminals are hung up and reopened")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made
        assert made.alive()


def _ask(recorder: Rig, data: bytes, fds: list[int]) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        asked.settimeout(8)
        asked.connect(str(recorder.folder / "sock"))
        asked.sendmsg([data], rights(fds) if fds else [])
        answer, control, _, _ = asked.recvmsg(8192, socket.CMSG_LEN(40))
        for _, _, body in control:
            for (fd,) in struct.iter_unpack("i", body):
                os.close(fd)
        return answer


def _fds(recorder: Rig) -> int:
    return len(list(Path(f"/proc/{recorder.pid}/fd").iterdir()))


GOOD = b"1\0pipe\0id\0\0"


def test_a_malformed_question_is_refused_and_its_descriptors_are_closed(recorder: Rig) -> None:
    r, w = os.pipe()
    before = _fds(recorder)
    for data, fds in (
        (b"x", [r, r, r]),
        (b"2\0pipe\0id", [r, r, r]),
        (b"1\0tty\0id", [r, r, r]),
        (b"1\0pipe", [r, r, r]),
        (GOOD + b"\0\0\0", [r, r, r]),
        (GOOD, []),
        (GOOD, [r]),
        (GOOD, [r, r, r, w]),
        (GOOD, [r] * 200),
        (b"1\0pipe\0" + b"x" * 100_000, [r, r, r]),
        (os.urandom(1000), [r, r, r]),
    ):
        assert _ask(recorder, data, fds).startswith(b"NO\0"), data[:20]
    wait_for(lambda: _fds(recorder) <= before + 1)  # and its connection to tidegated
    assert not recorder.recordings()
    os.close(w)
    os.close(r)


def test_descriptors_of_every_wrong_kind_are_answered(recorder: Rig, tmp_path: Path) -> None:
    made = {
        "file": os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT),
        "folder": os.open(tmp_path, os.O_RDONLY),
        "path": os.open(tmp_path, os.O_PATH),
        "null": os.open("/dev/null", os.O_RDWR),
        "full": os.open("/dev/full", os.O_RDWR),
        "datagram": socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach(),
        "internet": socket.socket(socket.AF_INET).detach(),
        "listening": socket.socket(socket.AF_UNIX).detach(),
        "epoll": os.eventfd(0),
        "memory": os.memfd_create("x"),
        "ptmx": os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
        "pipe": os.pipe()[0],
    }
    before = _fds(recorder)
    for name, fd in made.items():
        assert _ask(recorder, b"1\0pty\0\0", [fd, fd, fd]).startswith(b"NO\0standard input is no terminal"), name
        assert _ask(recorder, GOOD, [fd, fd, fd])[:3] in (b"OK\0", b"NO\0"), name
    for fd in made.values():
        os.close(fd)
    wait_for(lambda: _fds(recorder) <= before + 1)  # and its connection to tidegated


def test_a_terminal_whose_other_side_is_gone_is_refused(recorder: Rig) -> None:
    master, slave = os.openpty()
    os.close(master)
    assert _ask(recorder, b"1\0pty\0\0", [slave] * 3).startswith(b"NO\0")
    os.close(slave)


def test_who_connects_and_says_nothing_is_hung_up_on_after_five_seconds_and_keeps_nobody_out(recorder: Rig) -> None:
    silent = []
    for _ in range(650):
        asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked.connect(str(recorder.folder / "sock"))
        silent.append(asked)
    started = time.monotonic()
    silent[-1].settimeout(8)
    assert silent[-1].recv(100).startswith(b"NO\0too many")
    silent[0].settimeout(8)
    assert silent[0].recv(100) == b""
    assert 4 < time.monotonic() - started < 7
    for asked in silent:
        asked.close()
    assert Command(recorder.argv("echo in")).talk() == (b"in\n", b"")


def test_five_hundred_sessions_started_at_once_all_run(recorder: Rig) -> None:
    commands = [Command(recorder.argv(f"echo {number}; cat")) for number in range(250)]
    terminals = [Terminal(recorder.argv(f"echo {number}; read x; exit 5")) for number in range(250)]
    for number, command in enumerate(commands):
        assert os.read(command.out, 100) == b"%d\n" % number
    for number, terminal in enumerate(terminals):
        terminal.until(f"{number}\r\n", 60)
        terminal.send("\r")
    for command in commands:
        assert command.talk() == (b"", b"")
        assert command.status() == 0
        os.close(command.out)
        os.close(command.err)
    for terminal in terminals:
        terminal.rest()
        assert terminal.status() == 5
        terminal.hang_up()
    wait_for(lambda: all(recorder.ended(path) for path in recorder.recordings()), 30)
    assert len(recorder.recordings()) == 500
    wait_for(lambda: _fds(recorder) < 30)


def test_with_no_descriptor_left_a_session_is_refused_and_the_others_go_on(recorder: Rig) -> None:
    import resource

    terminal = Terminal(recorder.argv(None))
    terminal.until("INC-1\r\n")
    resource.prlimit(recorder.pid, resource.RLIMIT_NOFILE, (_fds(recorder) + 16, 64))
    refused = [Command(recorder.argv("echo in; sleep 1")) for _ in range(6)]
    said = [command.talk() for command in refused]
    assert any(b"can't be" in err and not out for out, err in said), said
    terminal.send("echo he''re\r")
    terminal.until("here")
    assert Command(recorder.argv("echo in")).talk()[0] == b"in\n"


def test_another_users_session_is_not_recorded_as_somebody_elses(recorder: Rig) -> None:
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            recorder.folder.chmod(0o755)
            for folder in recorder.folder.parents:  # up to /tmp
                if folder.stat().st_mode & 0o005 != 0o005:
                    folder.chmod(0o755)
            os.setresuid(65533, 65533, 65533)
            code = 0 if _ask(recorder, GOOD, [r, w, w]).startswith(b"NO\0") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(r)
    os.close(w)


def test_the_flag_that_a_tenant_takes_away_makes_nobody_wait(recorder: Rig) -> None:
    """The old descriptors are shared with whoever passed them: O_NONBLOCK, cleared there, must not block the recorder."""
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asked:
        asked.connect(str(recorder.folder / "sock"))
        asked.sendmsg([GOOD], rights([theirs.fileno()] * 3))
        _, control, _, _ = asked.recvmsg(8192, socket.CMSG_LEN(12))
        new = socket.socket(fileno=struct.unpack("3i", control[0][2])[1])
        theirs.setblocking(True)
        new.setblocking(False)
        sent = 0
        for _ in range(200):
            try:
                sent += new.send(bytes(65536))
            except BlockingIOError:
                time.sleep(0.002)
        assert sent > 200_000
        assert Command(recorder.argv("echo in")).talk(seconds=5) == (b"in\n", b"")
        for fd in struct.unpack("3i", control[0][2]):
            if fd != new.fileno():
                os.close(fd)
        new.close()


def test_what_a_descriptor_is_is_found_without_asking_its_file_system() -> None:
    master, slave = os.openpty()
    ours, theirs = socket.socketpair()
    r, w = os.pipe()
    kinds = [what_is(fd).kind for fd in (master, slave, ours.fileno(), r, w)]
    assert kinds == ["other", "terminal", "socket", "pipe", "pipe"]
    number = struct.unpack("I", fcntl.ioctl(master, termios.TIOCGPTN, bytes(4)))[0] if hasattr(termios, "TIOCGPTN") else None
    assert what_is(slave).key[1] == os.fstat(slave).st_rdev
    assert number is None or os.minor(os.fstat(slave).st_rdev) == number
    assert what_is(r).key == what_is(w).key == (os.fstat(r).st_dev, os.fstat(r).st_ino)
    for fd in (master, slave, r, w):
        os.close(fd)
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{" * 10000,
        b'{"login":"a","uid":1}',
        b'{"login":"b","uid":1,"recording":{}}',
        b'{"login":"a","uid":2,"recording":{}}',
        b'{"login":"a","uid":1,"recording":[]}',
        b'{"login":"a","uid":1,"recording":{"limit":-1}}',
        b'{"login":"a","uid":1,"recording":{"limit":"1"}}',
        b'{"login":"a","uid":1,"recording":{"limit":NaN}}',
    ],
)
def test_a_tenant_file_that_is_not_right_is_no_recording(data: bytes) -> None:
    with pytest.raises(NotRecorded):
        parse(data, "a", 1)


def test_a_tenant_file_that_says_nothing_of_it_requires_the_recording_and_closes() -> None:
    tenant = parse(b'{"login":"a","uid":1,"recording":{"pause_s":9},"grant":{"reason":"x\\u001b[2J"}}', "a", 1)
    assert (tenant.required, tenant.input, tenant.limit, tenant.pause_s) == (True, False, 0, 0)
    assert tenant.banner(0) == "tidegate: this session is recorded\ntidegate: reason: x\\x1b[2J\n"


def test_a_callback_that_fails_ends_neither_the_loop_nor_the_others() -> None:
    loop, called = Loop(), []
    r, w = os.pipe()
    os.write(w, b"x")

    def fails(_events: int) -> None:
        raise RuntimeError("a bug")

    loop.watch(r, 1, fails)
    loop.after(0, lambda: called.append(1))
    loop.turn(0)
    loop.turn(0)
    assert called == [1]
    os.close(r)
    os.close(w)
