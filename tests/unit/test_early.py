"""The first milliseconds of a backstop: whom it kills before anything else is known, and whom it leaves to a daemon that lives."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import early
from agent.host import killer, lock
from agent.host.clock import NS
from agent.journal import Journal
from tests.unit import journal_kit

REPOSITORY = Path(__file__).resolve().parents[2]
EXP, BOOT = 1_800_000_000, ("boot-1", 50 * NS)


@pytest.fixture
def alive(tmp_path: Path) -> Path:
    return tmp_path / lock.ALIVE


@pytest.fixture
def daemon(alive: Path) -> Iterator[lock.Lock]:
    held = lock.Lock(alive)
    assert held.take()
    yield held
    held.release()


def answering(path: Path, answer: bytes) -> threading.Thread:
    """A control socket that gives one answer."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            assert json.loads(connection.recv(4096)) == {"op": "overdue"}
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_lock_is_free_at_once_when_its_holder_dies(alive: Path) -> None:
    code = f"import fcntl, os; f = open({str(alive)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert not early.is_free(str(alive), 0.01)
        threading.Timer(0.05, holder.kill).start()
        assert early.is_free(str(alive), 30)  # no timer of ours ends this wait


def test_backstops_that_ask_at_once_take_none_of_them_for_a_daemon(alive: Path) -> None:
    with alive.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert early.is_free(str(alive), 0.01)


def test_where_a_daemon_lives_and_nothing_is_over_nothing_more_is_started(
    daemon: lock.Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "WAIT_S", 0.01)
    serving = answering(tmp_path / "s", b'{"ok":true,"result":{"grants":[]}}\n')
    with pytest.raises(SystemExit) as ended:
        early.begin(str(daemon.path), str(tmp_path / "no journal"), str(tmp_path / "s"), [])
    assert ended.value.code == 0
    serving.join()


def test_a_daemon_that_is_at_it_is_for_the_whole_program(
    daemon: lock.Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "WAIT_S", 0.01)
    serving = answering(tmp_path / "s", b'{"ok":true,"result":{"grants":["a"]}}\n')
    begun = early.begin(str(daemon.path), str(tmp_path / "no journal"), str(tmp_path / "s"), [])
    assert (begun.gone, begun.trouble) == (False, "")
    serving.join()


@pytest.mark.parametrize("answer", [b'{"ok":false}\n', b"[]\n", b'{"result":3}\n', b"", b"nonsense\n", None])
def test_a_daemon_that_lives_and_gives_no_answer_counts_as_dead(
    daemon: lock.Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    """None: nobody listens."""
    monkeypatch.setattr(early, "WAIT_S", 0.01)
    monkeypatch.setattr(early, "kill", lambda uids: {uid: {5: "sh"} for uid in uids})
    serving = answering(tmp_path / "s", answer) if answer is not None else None
    begun = early.begin(str(daemon.path), str(journaled(tmp_path, {70001: 5})), str(tmp_path / "s"), [])
    assert (begun.gone, begun.seen, begun.trouble) == (True, {70001: {5: "sh"}}, "")
    if serving:
        serving.join()


@pytest.mark.parametrize("argument", ["--boot", "--check"])
def test_it_waits_for_nobody_and_kills_nobody_where_no_timer_started_it(daemon: lock.Lock, argument: str) -> None:
    assert early.begin(str(daemon.path), "no journal", "no socket", [argument]).seen == {}


def test_a_daemon_with_a_list_longer_than_any_answer_is_at_work(tmp_path: Path) -> None:
    answer = json.dumps({"ok": True, "result": {"grants": ["0" * 64] * 2000}}).encode() + b"\n"
    thread = answering(tmp_path / "sock", answer)
    assert early.ask(str(tmp_path / "sock")) is True
    thread.join()


def test_without_a_daemon_the_killing_comes_first(alive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[list[int]] = []
    monkeypatch.setattr(early, "kill", killed.append)
    journal = journaled(tmp_path, {70007: EXP})
    assert early.begin(str(alive), str(journal), "no socket", []).trouble == ""
    assert killed == [[]]
    journaled(tmp_path, {70008: 5})
    early.begin(str(alive), str(journal), "no socket", [])
    assert killed == [[], [70008]]


def test_a_journal_that_cannot_be_read_is_trouble_and_no_new_file(alive: Path, tmp_path: Path) -> None:
    begun = early.begin(str(alive), str(tmp_path / "gone.db"), "no socket", [])
    assert "nobody was killed early" in begun.trouble
    assert not (tmp_path / "gone.db").exists()


def journaled(tmp_path: Path, uids: dict[int, int]) -> Path:
    """A journal with a grant for each UID and its ``exp``."""
    path = tmp_path / "what? 100%.db"
    journal = Journal(path)
    for number, (uid, exp) in enumerate(uids.items()):
        jti, login = f"g{uid}-{number}", f"jit-{uid}"
        asked, plan = journal_kit.grant(jti, exp=exp, login=login), journal_kit.plan(jti, uids={login: uid})
        record = journal.accept(asked, token=b"t", summary="", rule="r", received_ns=1, boot=BOOT, plan=plan)
        journal.opened(record.id, 2)
    journal.close()
    return path


def test_only_who_is_past_the_deadline_on_either_clock_is_killed(tmp_path: Path) -> None:
    path = str(journaled(tmp_path, {70001: EXP, 70002: EXP + 1}))
    assert early.past(path, EXP * NS - 1, 0, "boot-1")[1] == []
    assert early.past(path, EXP * NS, 0, "boot-1")[1] == [70001]
    assert early.past(path, 0, 50 * NS, "boot-1")[1] == [70001, 70002]  # the wall clock was set back
    assert early.past(path, 0, 50 * NS, "boot-2")[1] == []


def test_the_range_is_that_of_all_killing() -> None:
    assert (early.UID_FIRST, early.UID_LAST) == (killer.UID_FIRST, killer.UID_LAST)


def test_what_is_ended_or_outside_the_tenants_range_is_left_alone(tmp_path: Path) -> None:
    path = journaled(tmp_path, {70001: EXP, 1000: EXP})
    assert early.past(str(path), EXP * NS, 0, "")[1] == [70001]
    journal = Journal(path)
    journal.ended(journal.live()[0].id, 3, residue=0, receipt=("r", "jws"))
    journal.close()
    assert early.past(str(path), EXP * NS, 0, "")[1] == []


def test_the_slice_goes_first_and_who_has_none_is_signalled_as_himself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "user-70001.slice").mkdir()
    (tmp_path / "user-70001.slice" / "cgroup.kill").write_text("")
    signalled: list[int] = []
    monkeypatch.setattr(early, "_SLICES", (str(tmp_path / "none"), str(tmp_path)))
    walked: list[list[int]] = []

    def running(uids: list[int]) -> early.Seen:
        walked.append(uids)
        return {70002: {6: "sh"}}

    monkeypatch.setattr(early, "_running", running)
    monkeypatch.setattr(early, "_owner", lambda pid: 70001 if pid < 1000 else 0)
    monkeypatch.setattr(early, "_name", lambda pid: f"sh{pid}")
    monkeypatch.setattr(killer, "kill_as", signalled.append)
    inner = tmp_path / "user-70001.slice" / "session-1.scope"
    inner.mkdir()
    (inner / "cgroup.procs").write_text("5\n6\n2000\n")
    assert early.kill([70001, 70002, 70003]) == {70001: {5: "sh5", 6: "sh6"}, 70002: {6: "sh"}}
    assert (tmp_path / "user-70001.slice" / "cgroup.kill").read_text() == "1"
    assert signalled == [70002]
    assert walked == [[70002, 70003]], "whose slice was killed needs no walk"


def test_a_slice_of_very_many_groups_is_listed_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "_owner", lambda _pid: 70001)
    for number in range(300):
        (tmp_path / f"g{number}").mkdir()
        (tmp_path / f"g{number}" / "cgroup.procs").write_text(f"{number + 10_000_000}\n")
    found = early._listed(str(tmp_path), 70001)
    assert len(found) == 255
    assert sum(name == "?" for name in found.values()) >= 255 - 64


def test_who_has_died_is_told_and_who_lives_is_left_for_the_teardown_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "_owner", lambda pid: 70001 if pid == 7 else -1)
    begun = early.Begun(seen={70001: {5: "sh", 6: "sleep", 7: "stuck"}})
    assert begun.killed(70001) == (2, ["sh[5] uid=70001 by=uid", "sleep[6] uid=70001 by=uid"])
    assert begun.killed(70002) == (0, [])


def test_running_processes_are_seen_by_their_owner() -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        assert early._running([os.geteuid()])[os.geteuid()][process.pid] == "sleep"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert early._owner(process.pid) == -1  # a zombie is dead


def test_nothing_large_is_imported_before_the_kill() -> None:
    """Each module more is a millisecond more in which a tenant goes on."""
    code = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from agent import early; "
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('agent', 'json', 'sqlite3', 'socket', 're', 'enum',"
        " 'site', 'signal', 'logging', 'pathlib', 'dataclasses', 'typing', 'subprocess', 'yaml')))"
    )
    said = subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["agent", "agent.early"]
