"""The recorder is killed, restarted and stopped, and no session ends by it where systemd keeps its descriptors."""

import functools
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from agent.sessions.recording import Kind
from tests.unit.recorder_kit import Command, Rig, Terminal, rig, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: terminals are hung up and reopened")


def _again(recorder: Rig, number: int) -> None:
    status = recorder.stop(number)
    assert os.waitstatus_to_exitcode(status) == (0 if number == signal.SIGTERM else -number)
    recorder.start()


def _over(recorder: Rig, path: Path) -> bool:
    return recorder.ended(path) == "the session ended"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_sessions_go_on_after_a_restart_and_say_so(tmp_path: Path, number: int) -> None:
    with rig(tmp_path, store=True) as recorder:
        assert recorder.fdstore
        terminal = Terminal(recorder.argv(None))
        terminal.until("INC-1\r\n")
        terminal.send("PS1='@''@ '\r")
        terminal.until("@@ ")
        command = Command(recorder.argv("cat; exit 9"))
        os.write(command.to, b"before")
        assert os.read(command.out, 100) == b"before"
        time.sleep(0.5)
        for size in (40, 41):
            _again(recorder, number)
            terminal.resize(size, 99)
            time.sleep(0.2)
            terminal.send(f"stty size; echo still h''ere {size}\r")
            assert f"{size} 99\r\n".encode() in terminal.until(f"still here {size}")
            os.write(command.to, b"after")
            assert os.read(command.out, 100) == b"after"
        terminal.send("exit 6\r")
        terminal.rest()
        assert terminal.status() == 6
        command.no_more_input()
        assert os.read(command.out, 100) == b""
        assert command.status() == 9
        for path in recorder.recordings():
            wait_for(functools.partial(_over, recorder, path))
            gaps = [event["why"] for event in recorder.events(path) if event["type"] == "gap"]
            assert gaps == ["the recorder was restarted"] * 2
        wait_for(lambda: [name for name, _ in recorder.fdstore.kept] == ["listen"])  # type: ignore[union-attr]


def test_nothing_is_lost_in_a_restart_amid_a_flood(tmp_path: Path) -> None:
    with rig(tmp_path, store=True) as recorder:
        terminal = Terminal(recorder.argv("stty raw -echo; seq -f %07.0f 1500000; echo end"))
        found, expected = hashlib.sha256(), hashlib.sha256()
        for number in range(1, 1500001):
            expected.update(b"%07d\n" % number)
        expected.update(b"end\n")
        seen, rounds = 0, 0
        for data in terminal.pieces():
            found.update(data)
            seen += len(data)
            if rounds < 3 and seen > (rounds + 1) * 3_000_000:
                rounds += 1
                _again(recorder, signal.SIGTERM)
        assert rounds == 3
        assert (seen, found.hexdigest()) == (12000004, expected.hexdigest())
        assert terminal.status() == 0
        wait_for(recorder.ended)
        assert hashlib.sha256(recorder.bytes_of(Kind.OUT)).hexdigest() == expected.hexdigest()


def test_a_client_that_does_not_read_gets_what_was_held_for_it_before_a_kill(tmp_path: Path) -> None:
    with rig(tmp_path, store=True) as recorder:
        data = os.urandom(3_000_000)
        (tmp_path / "data").write_bytes(data)
        command = Command(recorder.argv(f"cat {tmp_path}/data"))
        time.sleep(1.0)  # its buffers are full, and the recorder holds some
        _again(recorder, signal.SIGKILL)
        assert command.talk() == (data, b"")
        assert command.status() == 0


def test_a_session_that_ended_while_nobody_looked_is_ended_on_paper(tmp_path: Path) -> None:
    with rig(tmp_path, store=True) as recorder:
        terminal = Terminal(recorder.argv("sleep 1; echo last words"))
        time.sleep(0.6)
        recorder.stop(signal.SIGKILL)
        time.sleep(1)  # its shell ends
        recorder.start()
        assert b"last words" in terminal.rest()
        assert terminal.status() == 0
        wait_for(lambda: recorder.ended() == "the session ended")
        assert b"last words" in recorder.bytes_of(Kind.OUT)


def test_without_anybody_to_keep_them_sessions_end_with_the_recorder_and_say_why(tmp_path: Path) -> None:
    with rig(tmp_path) as recorder:
        terminal = Terminal(recorder.argv("echo ready; sleep 60"))
        terminal.until("ready")
        assert os.waitstatus_to_exitcode(recorder.stop()) == 0
        assert b"the recorder stops" in terminal.rest()
        assert terminal.status() != 0
        assert recorder.ended() == "the recorder was stopped"
        recorder.start()
        wait_for(lambda: recorder.port.seals and recorder.port.seals[-1]["final"])


def test_a_recording_cut_by_a_kill_is_ended_and_sealed_by_the_next_start(tmp_path: Path) -> None:
    with rig(tmp_path) as recorder:
        terminal = Terminal(recorder.argv("echo ready; sleep 60"))
        terminal.until("ready")
        time.sleep(0.1)
        recorder.stop(signal.SIGKILL)
        terminal.rest()
        terminal.status()
        with recorder.recordings()[0].open("ab") as file:
            file.write(b"B\0\0\0\7torn")
        recorder.start()
        wait_for(lambda: recorder.ended() == "the recorder or the host stopped")
        assert recorder.bytes_of(Kind.OUT) == b"ready\r\n"
        wait_for(lambda: recorder.port.seals and recorder.port.seals[-1]["final"])
        wait_for(lambda: not list(recorder.sessions.glob("*.open")))
