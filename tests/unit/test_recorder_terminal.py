"""A session on a terminal is what it would be without the recorder, and all that was shown is in the recording."""

import contextlib
import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sessions.recording import Kind
from tests.unit.recorder_kit import Rig, Terminal, rig, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: terminals are hung up and reopened")


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


def _shell(recorder: Rig, **env: str) -> Terminal:
    terminal = Terminal(recorder.argv(None), env)
    terminal.until("INC-1\r\n")
    terminal.send("PS1='@''@ '; bind 'set enable-bracketed-paste off'\r")
    terminal.until("@@ ")
    return terminal


def test_the_session_has_another_terminal_and_all_shown_is_recorded(recorder: Rig) -> None:
    terminal = _shell(recorder)
    terminal.send("tty; echo $SSH_TTY; ls /proc/self/fd | tr '\\n' ' '\r")
    shown = terminal.until("@@ ").decode()
    new = re.findall(r"/dev/pts/\d+", shown)
    assert len(new) == 2
    assert new[0] == new[1] != terminal.old
    assert re.search(r"^0 1 2 3 \S*@@ ", shown.splitlines()[-1]), shown  # 3 is ls's own
    terminal.send("exit 7\r")
    terminal.rest()
    assert terminal.status() == 7
    wait_for(lambda: recorder.ended() == "the session ended")
    recorded = recorder.bytes_of(Kind.OUT)
    assert new[0].encode() in recorded
    assert recorded.endswith(b"exit 7\r\nlogout\r\n")
    wait_for(lambda: recorder.port.seals and recorder.port.seals[-1]["final"])


def test_nothing_typed_is_recorded_unless_asked_for_and_no_password_even_then(recorder: Rig) -> None:
    def typed() -> bytes:
        terminal = _shell(recorder)
        terminal.send("read -rs -p 'Pass''word: ' secret\r")
        terminal.until("Password: ")
        time.sleep(0.05)
        for letter in "hunter2\r":
            terminal.send(letter)
            time.sleep(0.01)
        terminal.until("@@ ")
        terminal.send("echo ${#secret}\r")
        terminal.until("7\r\n")
        terminal.send("exit\r")
        terminal.rest()
        terminal.status()
        path = recorder.recordings()[-1]
        wait_for(lambda: recorder.ended(path))
        assert b"hunter2" not in path.read_bytes()
        return recorder.bytes_of(Kind.INPUT, path)

    assert typed() == b""
    recorder.tenant(input=True)
    time.sleep(1.1)  # ids begin with the second
    said = typed()
    assert b"read -rs" in said
    assert b"echo ${#secret}\r" in said
    assert {"type": "masked"} in recorder.events(recorder.recordings()[-1])


def test_job_control_works(recorder: Rig) -> None:
    terminal = _shell(recorder)
    terminal.send("sleep 300\r")
    terminal.until("sleep 300\r\n")
    time.sleep(0.2)
    terminal.send("\x03")
    terminal.until("^C")
    terminal.until("@@ ")
    terminal.send("echo $?; cat\r")
    terminal.until("130\r\n")
    time.sleep(0.2)
    terminal.send("\x1a")
    terminal.until("Stopped")
    terminal.until("@@ ")
    terminal.send("jobs; fg\r")
    terminal.until("cat\r\n")
    time.sleep(0.2)
    terminal.send("hello\r")
    terminal.until("hello\r\nhello\r\n")
    terminal.send("\x1a")
    terminal.until("Stopped")
    # bash's bare "wait" passes over a job that the terminal has stopped again, and "exit" then finds it there
    # still if the kernel has not yet got round to killing it; "-f" waits until it is dead.
    terminal.send("bg; kill -KILL %1; wait -f %1; echo d''one; exit\r")
    terminal.until("done\r\n")
    terminal.rest()
    assert terminal.status() == 0


def test_every_size_of_a_storm_ends_in_the_last(recorder: Rig) -> None:
    terminal = _shell(recorder)
    terminal.send("trap 'echo W' WINCH; echo rea''dy\r")
    terminal.until("ready")
    for step in range(300):
        terminal.resize(20 + step % 50, 80 + step % 70)
        if step % 10 == 0:
            time.sleep(0.002)
    terminal.resize(33, 111)
    terminal.until("W\r\n")
    wait_for(lambda: [f.data for f in recorder.frames() if f.kind is Kind.RESIZE][-1:] == [b"\0\x6f\0\x21"])
    terminal.send("\rstty size; echo $COLUMNS; exit\r")
    assert b"33 111\r\n111\r\n" in terminal.rest()
    assert terminal.status() == 0


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "HUP", "PIPE"])
def test_a_signal_that_ends_the_shell_is_what_sshd_sees(recorder: Rig, name: str) -> None:
    terminal = Terminal(recorder.argv(f"ulimit -c 0; kill -{name} $$"))
    terminal.rest()
    assert terminal.status() == -signal.Signals[f"SIG{name}"]


def there(terminal: Terminal) -> bytes:
    """What is there to be read at this moment."""
    os.set_blocking(terminal.master, False)
    found = b""
    with contextlib.suppress(OSError):
        while data := os.read(terminal.master, 4096):
            found += data
    return found


@pytest.mark.parametrize("dash", ["/bin/dash", "/nonexistent"])
def test_it_ends_for_sshd_as_it_ended_and_only_when_the_last_of_it_is_there(recorder: Rig, dash: str) -> None:
    """sshd looks for output once when its child has ended, and closes where there is none."""
    recorder.shell.write_text(recorder.shell.read_text().replace('"/bin/dash"', repr(dash)))
    for ending, status in (("exit 130", 130), ("kill -INT $$", -2), ("kill -KILL $$", -9), ("kill -TERM $$", -15), ("exit 0", 0)):
        terminal = Terminal(recorder.argv(f"printf be''gun; read x; echo la''st; {ending}"))
        terminal.until("begun")
        os.kill(recorder.pid, signal.SIGSTOP)
        terminal.send("\n")
        time.sleep(0.3)
        assert os.waitpid(terminal.pid, os.WNOHANG) == (0, 0), "sshd would have closed"
        os.kill(recorder.pid, signal.SIGCONT)
        assert terminal.status() == status, ending
        assert b"last\r\n" in there(terminal)
        os.close(terminal.master)


def test_what_goes_on_in_the_background_does_not_keep_the_session(recorder: Rig) -> None:
    terminal = Terminal(recorder.argv("trap '' HUP; (while echo more; do :; done) 2>/dev/null & sleep 0.3; exit 3"))
    for _ in terminal.pieces():
        if os.waitid(os.P_PID, terminal.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
    assert terminal.status() == 3
    os.close(terminal.master)
    wait_for(recorder.ended)


def test_who_lets_go_of_the_terminal_before_the_end_ends_with_its_own_status(recorder: Rig) -> None:
    terminal = Terminal(recorder.argv("trap '' HUP; exec </dev/null >/dev/null 2>&1; sleep 0.5; exit 5"))
    terminal.rest()
    wait_for(lambda: recorder.ended() == "the session ended")
    assert terminal.status() == 5


def test_signals_that_were_ignored_are_and_those_of_the_waiter_are_not(recorder: Rig) -> None:
    told = "grep SigIgn /proc/$$/status"
    for ignored, mask in ((set(), 0), ({signal.SIGQUIT, signal.SIGTERM}, 1 << 2 | 1 << 14)):
        before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
        try:
            terminal = Terminal(recorder.argv(told))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        found = re.search(r"SigIgn:\t([0-9a-f]+)", terminal.rest().decode())
        assert found and int(found[1], 16) & 0x7FFF == mask
        assert terminal.status() == 0
        os.close(terminal.master)


def test_a_client_that_goes_hangs_up_the_session(recorder: Rig, tmp_path: Path) -> None:
    mark = tmp_path / "hung-up"
    terminal = _shell(recorder)
    terminal.send(f"(trap 'echo hup >{mark}; exit' HUP; echo rea''dy; sleep 60 & wait)\r")
    terminal.until("ready")
    terminal.hang_up()
    wait_for(mark.exists)
    assert terminal.status() in (-signal.SIGHUP, 129)
    wait_for(lambda: recorder.ended() == "the client has gone")


def test_a_hundred_megabytes_through_a_terminal_arrive_as_they_are(recorder: Rig) -> None:
    size = 100_000_000
    source = f"{sys.executable} -c 'import sys; sys.stdout.buffer.write((bytes(range(256)) * 4096)[:1000000] * 100)'"
    terminal = Terminal(recorder.argv(f"stty raw -echo; {source}"))
    found, seen = hashlib.sha256(), 0
    for data in terminal.pieces():
        found.update(data)
        seen += len(data)
    assert terminal.status() == 0
    expected = hashlib.sha256((bytes(range(256)) * 4096)[:1000000] * 100)
    assert (seen, found.hexdigest()) == (size, expected.hexdigest())
    wait_for(recorder.ended, 30)
    recorded = hashlib.sha256(recorder.bytes_of(Kind.OUT))
    assert recorded.hexdigest() == expected.hexdigest()


def test_what_is_typed_faster_than_read_waits_and_arrives(recorder: Rig) -> None:
    terminal = Terminal(recorder.argv("stty raw -echo; echo ready; sleep 1; head -c 300000 | sha256sum"))
    terminal.until("ready")
    data = os.urandom(300000)
    pid = os.fork()
    if pid == 0:
        view = memoryview(data)
        while view:
            view = view[os.write(terminal.master, view) :]
        os._exit(0)
    assert hashlib.sha256(data).hexdigest().encode() in terminal.rest(30)
    os.waitpid(pid, 0)
    assert terminal.status() == 0


def test_a_client_that_does_not_read_stops_the_program_and_nobody_else(recorder: Rig) -> None:
    slow = Terminal(recorder.argv("stty raw; head -c 3000000 /dev/zero; echo end"))
    time.sleep(0.5)
    other = Terminal(recorder.argv("echo quick"))
    assert b"quick\r\n" in other.rest(5)
    assert other.status() == 0
    shown = slow.rest(20)
    assert shown.count(b"\0") == 3000000
    assert shown.rstrip().endswith(b"end")
    assert slow.status() == 0


def test_a_terminal_that_is_not_taken_is_left_as_it_was(recorder: Rig) -> None:
    recorder.port.takes = False
    terminal = Terminal(recorder.argv("tty; stty -a"))
    assert b"/dev/pts/" in terminal.rest()
    assert terminal.status() == 0
    wait_for(recorder.ended)


def test_without_tidegated_nobody_gets_in_where_recording_is_required(recorder: Rig) -> None:
    recorder.port.close()
    terminal = Terminal(recorder.argv("echo in"))
    shown = terminal.rest()
    assert b"this session must be recorded, and can't be: the terminal can't be taken over" in shown
    assert b"in\r\n" not in shown.splitlines(keepends=True)
    assert terminal.status() == 1
    assert not recorder.recordings()
    recorder.tenant(required=False)
    terminal = Terminal(recorder.argv("echo in"))
    assert terminal.rest() == b"in\r\n"
    assert terminal.status() == 0


def test_a_shell_inside_a_recorded_session_is_not_recorded_again(recorder: Rig) -> None:
    terminal = Terminal(recorder.argv(" ".join(recorder.argv("'tty; exit 4'"))))
    assert b"/dev/pts/" in terminal.rest()
    assert terminal.status() == 4
    assert len(recorder.recordings()) == 1
