"""The commands over recordings, as a person runs them; those that need a terminal on a real one."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main, recordings
from agent.sessions.recording import Kind, Writer
from tests.unit.recording_kit import IDENT, MS, Host, meta, pieces, small

Run = Callable[..., tuple[int, str, str]]
_ROOT = Path(__file__).resolve().parents[2]
_OTHER = "r-20261123T000000-00000000"


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def config(tmp_path: Path, host: Host) -> Path:
    """A configuration whose recordings are in ``tmp_path/s``, with one sound one."""
    (tmp_path / "s").mkdir()
    path = tmp_path / "tidegate.yaml"
    path.write_text(f"paths:\n  sessions: {tmp_path}/s\n  control_socket: {tmp_path}/none.sock\n  host_key: {tmp_path}/host.jwk\n")
    path.chmod(0o644)
    (tmp_path / "s" / f"{IDENT}.tgr").write_bytes(small(host))
    (tmp_path / "host.jwks").write_text(json.dumps({"keys": [host.key.public_jwk(host.host_id)]}))
    return path


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["--config", str(config), "sessions", *arguments])
        said = capsys.readouterr()
        assert isinstance(done.value.code, int)
        return done.value.code, said.out, said.err

    return call


class Terminal:
    """The command on a terminal of its own; what it says is collected with the moment it came."""

    def __init__(self, config: Path, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        code = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from agent.cli import main; main(sys.argv[1:])"
        argv = [sys.executable, "-c", code, "--config", str(config), "sessions", *arguments]
        self.before = termios.tcgetattr(slave)
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True)
        self._slave = slave  # kept: its settings are looked at afterwards
        self.said = b""
        self.seen: list[tuple[float, bytes]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self.master, 65536):
                self.seen.append((time.monotonic(), data))
                self.said += data
        except OSError:  # the other end is closed
            return

    def until(self, wanted: bytes, timeout_s: float = 20) -> float:
        """When it was said."""
        end = time.monotonic() + timeout_s
        while wanted not in self.said:
            assert time.monotonic() < end, self.said
            time.sleep(0.002)
        return self.seen[-1][0]

    def done(self) -> int:
        status = self.process.wait(30)
        time.sleep(0.1)  # for what is still in the terminal
        assert termios.tcgetattr(self._slave) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)  # ends the reader
        self._reader.join(5)
        os.close(self.master)


@pytest.fixture
def terminal(config: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(config, *arguments))
        return opened[-1]

    yield start
    for found in opened:
        found.close()


def _key(config: Path) -> tuple[str, str]:
    return "--key", str(config.parent / "host.jwks")


def _write(config: Path, data: bytes, ident: str = IDENT) -> Path:
    path = config.parent / "s" / f"{ident}.tgr"
    path.write_bytes(data)
    return path


def test_the_list_says_whose_each_recording_is_and_whether_it_goes_on(config: Path, host: Host, run: Run) -> None:
    unfinished = Writer(meta(id=_OTHER, sub="\x1b[6n\u202ebob", began="2026-11-23T00:00:00Z"), 0)
    unfinished.frame(Kind.OUT, b"x", 2_500 * MS)
    path = _write(config, unfinished.take(), _OTHER)
    _write(config, b"garbage", "r-20261121T000000-00000001")
    (config.parent / "s" / "r-20261121T000000-00000002.tgr.part").write_bytes(b"")
    with path.open("ab"):
        status, said, _ = run("list", "--recorded", "--json")
    found = {entry["id"]: entry for entry in json.loads(said)["recordings"]}
    assert status == 0 and list(found) == sorted(found, reverse=True) and len(found) == 3
    assert (found[_OTHER]["state"], found[_OTHER]["lasted_s"]) == ("running", 2.5)
    assert found[IDENT] == {
        "id": IDENT, "login": "jit-alice", "subject": "alice@example.com", "jti": "g-1", "from": "192.0.2.7", "kind": "pty",
        "command": "", "began": "2026-11-22T05:15:00.000000Z", "lasted_s": 0.09, "size": len(small(host)), "state": "ended",
        "end": {"why": "exit", "status": 0},
    }  # fmt: skip
    _status, said, _ = run("list", "--recorded")
    assert all(line.isprintable() for line in said.splitlines())
    states = {line.split()[0]: line.split()[-1] for line in said.splitlines()[1:]}
    assert states == {_OTHER: "cut", IDENT: "ended", "r-20261121T000000-00000001": "unreadable"}


def test_a_link_in_the_folder_is_not_followed(config: Path, run: Run) -> None:
    (config.parent / "s" / f"{_OTHER}.tgr").symlink_to(config.parent / "s" / f"{IDENT}.tgr")
    for command in (("export",), ("verify", *_key(config))):
        status, _said, told = run(*command, _OTHER)
        assert status == 1 and "file_unreadable" in told


@pytest.mark.parametrize(
    ("ident", "code"),
    [
        ("r-1999", "recording_not_found"),
        ("r-2026", "recording_ambiguous"),
        ("../x", "recording_not_found"),
        ("\x1b[6n", "recording_not_found"),
    ],
)
def test_an_id_that_names_none_or_several_is_told(config: Path, host: Host, run: Run, ident: str, code: str) -> None:
    _write(config, small(host), _OTHER)
    for command in ("export", "play", "watch"):
        status, said, told = run(command, ident)
        assert (status, said) == (1, "") and code in told and told.rstrip("\n").isprintable()
    status, said, _ = run("export", "--json", "--output", str(config.parent / "out"), ident)
    assert status == 1 and json.loads(said)["code"] == code and not (config.parent / "out").exists()


def test_verify_is_sound_and_tells_what_is_not(config: Path, host: Host, run: Run) -> None:
    status, said, _ = run("verify", *_key(config), "r-20261122")
    assert status == 0 and said.startswith(f"sound: {IDENT} of jit-alice (alice@example.com)")
    whole = small(host)
    path = _write(config, whole[:200] + bytes((whole[200] ^ 1,)) + whole[201:])
    status, said, _ = run("verify", *_key(config), str(path))
    assert status == 1 and said.startswith("DAMAGED") and "byte 7: " in said
    status, said, _ = run("verify", *_key(config), "--json", IDENT)
    found = json.loads(said)
    assert (status, found["ok"], found["code"], found["problems"][0]["offset"]) == (1, False, "recording_damaged", 7)


def test_verify_of_one_that_goes_on_is_no_damage_and_of_one_that_was_cut_is_no_success(config: Path, host: Host, run: Run) -> None:
    head, *records = pieces(small(host))
    path = _write(config, head + b"".join(records[:4]))
    with path.open("ab"):
        status, said, _ = run("verify", *_key(config), IDENT)
        assert status == 0 and said.startswith("sound so far") and "still being written" in said
        path.write_bytes(path.read_bytes() + records[4][:9])  # a record on its way
        assert run("verify", *_key(config), IDENT)[0] == 0
    path.write_bytes(head + b"".join(records[:4]))
    status, said, _ = run("verify", *_key(config), IDENT)
    assert status == 1 and said.startswith("NOT WHOLE") and f"cut at byte {path.stat().st_size}" in said
    assert json.loads(run("verify", *_key(config), "--json", IDENT)[1])["code"] == "recording_unfinished"


def test_verify_takes_a_file_anywhere_and_its_name_for_its_id_where_it_is_one(config: Path, host: Host, run: Run) -> None:
    elsewhere = config.parent / "copy.tgr"
    elsewhere.write_bytes(small(host))
    assert run("verify", *_key(config), str(elsewhere))[0] == 0
    _write(config, small(host), _OTHER)
    status, said, _ = run("verify", *_key(config), _OTHER)
    assert status == 1 and "[identity]" in said
    assert run("verify", str(elsewhere))[0] == 1  # no daemon to ask for the key, and none on disk


def test_verify_uses_the_hosts_key_on_disk_where_no_daemon_answers(config: Path, run: Run) -> None:
    from agent import trust

    key = trust.HostKey.load_or_create(config.parent / "host.jwk")
    host = Host(key.host_id)
    host.key = key
    _write(config, small(host))
    assert run("verify", IDENT)[0] == 0


def test_export_goes_to_stdout_or_into_a_private_file(config: Path, run: Run) -> None:
    status, said, _ = run("export", IDENT)
    assert status == 0 and json.loads(said.splitlines()[0])["version"] == 2
    out = config.parent / "out.txt"
    status, said, _ = run("export", "--format", "text", "--output", str(out), "--json", IDENT)
    assert json.loads(said) == {"id": IDENT, "format": "text", "file": str(out), "lines": 1, "running": False}
    assert out.read_text() == "$ gr\u00fcn\n" and out.stat().st_mode & 0o777 == 0o600
    assert run("export", "--json", IDENT)[0] == 2
    assert run("export", "--output", "/proc/none", IDENT)[0] == 1


def test_export_of_a_damaged_one_gives_what_there_is_and_fails(config: Path, host: Host, run: Run) -> None:
    whole = small(host)
    _write(config, whole[:200] + bytes((whole[200] ^ 1,)) + whole[201:])
    status, said, told = run("export", "--format", "text", IDENT)
    assert status == 1 and "damaged at byte 7" in said and "gr\u00fcn" in said and "recording_damaged" in told
    path = _write(config, whole[:-5])
    assert run("export", IDENT)[0] == 1
    with path.open("ab"):  # its end is on its way
        assert run("export", IDENT)[0] == 0


def test_a_search_says_when_each_line_was_shown(run: Run) -> None:
    status, said, _ = run("play", "--search", "GR\u00dcN", "--json", IDENT)
    assert status == 0 and json.loads(said)["matches"] == [{"at_s": 0.05, "line": "$ gr\u00fcn"}]
    assert "recording_text_not_found" in run("play", "--search", "nothing", IDENT)[2]


def test_what_a_terminal_was_told_goes_to_no_file(run: Run) -> None:
    for command in ("play", "watch"):
        status, said, told = run(command, IDENT)
        assert (status, said) == (1, "") and "recording_needs_terminal" in told


def _evil(host: Host) -> bytes:
    writer = Writer(meta(), 0)
    writer.frame(Kind.OUT, b"\x1b[?1049h\x1b[?1000hbegin\x1b]52;c;YQ", 10 * MS)
    writer.frame(Kind.OUT, b"==\x07\x1b[6", 300 * MS)
    writer.frame(Kind.OUT, b"nmiddle", 600 * MS)
    writer.frame(Kind.OUT, b"late", 60_000 * MS)
    writer.end("exit", 60_001 * MS, 0)
    data = writer.take()
    return data + writer.seal(host.seal(writer, final=True))


def test_play_shows_it_at_its_times_and_leaves_the_terminal_as_it_was(
    config: Path, host: Host, terminal: Callable[..., Terminal]
) -> None:
    _write(config, _evil(host))
    shown = terminal("play", "--idle-limit", "0.5", IDENT)
    assert shown.done() == 0, shown.said
    assert b"\x1b[?1049hbegin" in shown.said and b"late" in shown.said
    assert b"]52" not in shown.said and b"\x1b[6n" not in shown.said and b"1000h" not in shown.said
    assert b"\x1b[?1049l" in shown.said.split(b"late")[1] and b"\x1b[?25h" in shown.said
    times = {word: next(at for at, data in shown.seen if word in data) for word in (b"begin", b"middle", b"late")}
    assert 0.4 < times[b"middle"] - times[b"begin"] < 1.5 and 0.4 < times[b"late"] - times[b"middle"] < 1.5


def test_play_is_as_fast_as_asked_and_ctrl_c_leaves_a_clean_terminal(
    config: Path, host: Host, terminal: Callable[..., Terminal]
) -> None:
    _write(config, _evil(host))
    began = time.monotonic()
    shown = terminal("play", "--speed", "1000", IDENT)
    assert shown.done() == 0 and time.monotonic() - began < 15
    shown = terminal("play", IDENT)
    shown.until(b"middle")
    shown.process.send_signal(signal.SIGINT)
    assert shown.done() == 130 and b"\x1b[?1049l" in shown.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_is_brought_back_however_play_is_ended(config: Path, terminal: Callable[..., Terminal], number: int) -> None:
    writer = Writer(meta(), 0)
    writer.frame(Kind.OUT, b"\x1b[?1049hthere", MS)
    writer.frame(Kind.OUT, b"an hour later", 3_600_000 * MS)
    _write(config, writer.take())
    shown = terminal("play", IDENT)
    shown.until(b"there")
    shown.process.send_signal(number)
    assert shown.done() == 128 + number and b"\x1b[?1049l" in shown.said


def test_watch_shows_the_screen_so_far_then_what_comes_and_ends_with_the_session(
    config: Path, terminal: Callable[..., Terminal]
) -> None:
    writer = Writer(meta(), 0)
    writer.frame(Kind.OUT, b"before\x1b[2Jscreen", MS)
    late = []
    with _write(config, b"").open("ab", buffering=0) as file:
        file.write(writer.take())
        shown = terminal("watch", IDENT)
        shown.until(b"screen")
        assert b"before" in shown.said  # the whole is short enough to be drawn
        for index in range(20):
            word = f"word{index:02}".encode()
            writer.frame(Kind.OUT, word, (index + 2) * MS)
            sent = time.monotonic()
            file.write(writer.take())
            late.append(shown.until(word) - sent)
        writer.end("exit", 100 * MS)
        file.write(writer.take())
        assert shown.done() == 0
    assert b"*** exit ***" in shown.said
    assert sorted(late)[len(late) // 2] < 0.1, late


def test_watch_begins_near_the_end_of_a_long_session(config: Path, terminal: Callable[..., Terminal]) -> None:
    writer = Writer(meta(), 0)
    with _write(config, b"").open("ab", buffering=0) as file:
        for index in range(2000):
            writer.frame(Kind.OUT, b"old %05d\r\n" % index + b"x" * 1000, index * MS)
            file.write(writer.take())
        writer.frame(Kind.OUT, b"\x1b[H\x1b[2Jfresh", 3000 * MS)
        file.write(writer.take())
        shown = terminal("watch", IDENT)
        shown.until(b"fresh")
        assert b"old" not in shown.said and b"damaged" not in shown.said
        writer.frame(Kind.OUT, b"next", 3001 * MS)
        file.write(writer.take())
        shown.until(b"next")
        shown.process.send_signal(signal.SIGINT)
        assert shown.done() == 0 and b"the session goes on" in shown.said and b"damaged" not in shown.said


def test_watch_ends_when_whoever_recorded_is_gone(config: Path, terminal: Callable[..., Terminal]) -> None:
    writer = Writer(meta(), 0)
    writer.frame(Kind.OUT, b"there", MS)
    with _write(config, b"").open("ab", buffering=0) as file:
        file.write(writer.take())
        shown = terminal("watch", IDENT)
        shown.until(b"there")
    assert shown.done() == 0 and b"cut here" in shown.said


def test_watch_with_json_waits_for_the_end(config: Path, terminal: Callable[..., Terminal]) -> None:
    writer = Writer(meta(), 0)
    with _write(config, b"").open("ab", buffering=0) as file:
        file.write(writer.take())
        shown = terminal("watch", "--json", IDENT)
        time.sleep(0.5)
        assert shown.process.poll() is None
        writer.end("expired", 5 * MS)
        file.write(writer.take())
        assert shown.done() == 0
    found: Any = json.loads(shown.said)
    assert found == {"id": IDENT, "ended": True, "end": {"why": "expired"}}


def test_reading_takes_no_more_memory_for_a_long_recording(config: Path, host: Host) -> None:
    """64 MB of recording, exported and verified, within 40 MB more than a short one."""
    writer = Writer(meta(), 0)
    with _write(config, b"", _OTHER).open("ab") as file:
        for index in range(1000):
            writer.frame(Kind.OUT, os.urandom(32) * 2048, index * MS)
            file.write(writer.take())
    code = (
        "import resource, sys; from agent.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )

    def peak(*arguments: str) -> int:
        argv = [sys.executable, "-c", code, "--config", str(config), "sessions", *arguments]
        done = subprocess.run(argv, capture_output=True, env={**os.environ, "PYTHONPATH": str(_ROOT)}, timeout=300, check=False)
        return int(done.stderr.split()[-1])

    for command in (("export", "--format", "asciicast-v2", "--output", "/dev/null"), ("verify", *_key(config))):
        assert peak(*command, _OTHER) - peak(*command, IDENT) < 40 * 1024, command


def test_an_amount_reads_well() -> None:
    assert [recordings._bytes(size) for size in (5, 2048, 3 << 20, 5 << 30)] == ["5 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
