"""A command without a terminal: its bytes and its ends are what they would be without the recorder, and they are recorded."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sessions.recording import Kind
from tests.unit.recorder_kit import Command, Rig, rig, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the tenant file must be root's")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


@pytest.mark.parametrize("pipes", [False, True])
def test_each_stream_arrives_and_is_recorded_as_itself(recorder: Rig, pipes: bool) -> None:
    command = Command(recorder.argv("tr a-z A-Z; echo wrong >&2; exit 3"), pipes=pipes)
    assert command.talk(b"hello") == (b"HELLO", b"wrong\n")
    assert command.status() == 3
    wait_for(lambda: recorder.ended() == "the session ended")
    found = [recorder.bytes_of(kind) for kind in (Kind.STDIN, Kind.OUT, Kind.ERR)]
    assert found == [b"hello", b"HELLO", b"wrong\n"]
    meta = recorder.frames()[0].data
    assert b'"remote":"192.0.2.7"' in meta
    assert b'"command":"tr a-z A-Z; echo wrong >&2; exit 3"' in meta


@pytest.mark.parametrize("pipes", [False, True])
def test_what_the_streams_are_stays_the_same(recorder: Rig, pipes: bool) -> None:
    script = "for n in 0 1 2; do [ -p /proc/self/fd/$n ] && echo pipe; [ -S /proc/self/fd/$n ] && echo socket; done"
    script += "; [ /proc/self/fd/0 -ef /proc/self/fd/1 ] && echo same; :"
    with_it, without = (Command(argv, pipes=pipes) for argv in (recorder.argv(script), ["/bin/bash", "-c", script]))
    assert with_it.talk() == without.talk()
    assert with_it.status() == without.status() == 0
    assert Command(recorder.argv("ls /proc/self/fd | tr '\\n' ' '"), pipes=pipes).talk()[0] == b"0 1 2 3 "  # 3 is ls's own


@pytest.mark.parametrize("pipes", [False, True])
def test_a_hundred_megabytes_each_way_arrive_and_the_limit_is_told(recorder: Rig, pipes: bool) -> None:
    data = os.urandom(1 << 20) * 100
    command = Command(recorder.argv("cat"), pipes=pipes)
    out, err = command.talk(data)
    assert (out == data, err) == (True, b"")
    assert command.status() == 0
    wait_for(recorder.ended)
    assert recorder.bytes_of(Kind.OUT) == recorder.bytes_of(Kind.STDIN) == data[: 1 << 20]
    limits = [event for event in recorder.events() if event["type"] == "limit"]
    assert sorted(str(event["stream"]) for event in limits) == ["stdin", "stdout"]


def test_a_command_that_ends_leaves_nothing_waiting_for_input(recorder: Rig) -> None:
    command = Command(recorder.argv("head -c 5 >/dev/null; echo seen"))
    os.write(command.to, b"hello")
    assert os.read(command.out, 100) == b"seen\n"
    assert os.read(command.out, 100) == b""
    assert command.status() == 0
    with pytest.raises(BrokenPipeError):
        for _ in range(100):
            os.write(command.to, b"x")
            time.sleep(0.01)
    wait_for(lambda: recorder.ended() == "the session ended")


def test_a_client_that_goes_is_felt_by_the_command(recorder: Rig) -> None:
    command = Command(recorder.argv("exec yes"))
    assert os.read(command.out, 4).startswith(b"y\n")
    command.hang_up()
    # A socket whose other end closes on unread bytes may answer ECONNRESET instead, which is no signal (unix(7)); sshd's does too.
    assert command.status() in {-signal.SIGPIPE, 1}
    wait_for(lambda: recorder.ended() == "the client has gone")


def test_output_that_closes_before_the_command_ends_is_seen_as_closed(recorder: Rig) -> None:
    command = Command(recorder.argv("echo one; exec >&- <&- 2>&-; exec sleep 1"), pipes=True)
    started = time.monotonic()
    assert command.talk() == (b"one\n", b"")
    assert time.monotonic() - started < 1
    assert command.status() == 0


def test_a_command_that_reads_nothing_stops_the_sender(recorder: Rig) -> None:
    command = Command(recorder.argv("sleep 1; wc -c"))
    os.set_blocking(command.to, False)
    sent = 0
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        try:
            sent += os.write(command.to, bytes(65536))
        except BlockingIOError:
            time.sleep(0.01)
    assert sent < 4 << 20
    os.set_blocking(command.to, True)
    command.no_more_input()
    assert os.read(command.out, 100) == f"{sent}\n".encode()
    assert command.status() == 0


def test_files_and_devices_stay_the_tenants_and_are_named(recorder: Rig, tmp_path: Path) -> None:
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    null = os.open("/dev/null", os.O_RDONLY)
    argv = recorder.argv("echo into the file; readlink /proc/self/fd/0")
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((null, out, out))]
    pid = os.posix_spawn(argv[0], argv, {"PATH": os.environ["PATH"]}, file_actions=actions)
    os.close(out)
    os.close(null)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (tmp_path / "out").read_text() == "into the file\n/dev/null\n"
    wait_for(recorder.ended)
    assert [event["stream"] for event in recorder.events()] == ["stdin", "stdout", "stderr"]


def test_a_command_started_inside_a_session_is_not_recorded_again(recorder: Rig) -> None:
    command = Command(recorder.argv(" ".join(recorder.argv("'cat; exit 5'"))))
    assert command.talk(b"x") == (b"x", b"")
    assert command.status() == 5
    assert len(recorder.recordings()) == 1
