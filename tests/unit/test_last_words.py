"""What a terminal was told has left the host before its sshd is killed; what never sends holds nothing up for long."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.sessions import last_words
from agent.sessions.last_words import PATIENCE_S, UNSURE_S, LastWords

ALICE, BOB = 70000, 70001


class Host:
    """Terminals by their numbers and owners, and a /proc of files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.pts = folder / "proc", folder / "pts"
        self.owners: dict[str, int] = {}
        self.pids: dict[int, list[int]] = {}
        self.naps: list[float] = []
        self.now = 0.0
        self.meanwhile: Callable[[], object] = lambda: None
        real = Path.lstat
        monkeypatch.setattr(Path, "lstat", lambda path: self._status(path) if path.parent == self.pts else real(path))
        monkeypatch.setattr(Path, "iterdir", lambda _: (self.pts / name for name in self.owners))
        monkeypatch.setattr(last_words, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))

    def terminal(self, number: int, uid: int = ALICE) -> None:
        self.owners[str(number)] = uid

    def process(self, pid: int, name: str = "sshd", sleeps: int = 7, state: str = "S", uid: int = ALICE, of: int = ALICE) -> None:
        folder = self.proc / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        lines = {
            **{"Name": name, "Umask": "0022", "State": f"{state} (as it is)", "Uid": f"{uid}\t{uid}\t{uid}\t{uid}"},
            **{"voluntary_ctxt_switches": f"{sleeps}", "nonvoluntary_ctxt_switches": "99"},
        }
        (folder / "status").write_text("".join(f"{key}:\t{value}\n" for key, value in lines.items()))
        if pid not in self.pids.setdefault(of, []):
            self.pids[of].append(pid)

    def gone(self, pid: int) -> None:
        (self.proc / str(pid) / "status").unlink()

    def words(self, uids: Iterable[int] = (ALICE, BOB)) -> LastWords:
        return LastWords(set(uids), lambda uid: self.pids.get(uid, []), pts=self.pts, proc=self.proc)

    def waited(self, words: LastWords) -> float:
        began = self.now
        words.wait()
        return self.now - began

    def _status(self, path: Path) -> os.stat_result:
        return os.stat_result((0o20620, 0, 0, 1, self.owners[path.name], 5, 0, 0, 0, 0))

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_who_has_no_terminal_is_not_waited_for(host: Host) -> None:
    host.process(10)
    assert host.waited(host.words()) == 0


@pytest.mark.parametrize("name", ["sshd", "sshd-session"], ids=["", "since 9.8"])
def test_an_sshd_that_has_slept_again_has_sent_it(host: Host, name: str) -> None:
    host.terminal(3)
    host.process(8, name, uid=0)  # the privileged half, which sends nothing
    host.process(9, "bash")
    host.process(10, name)
    words = host.words()
    host.meanwhile = lambda: host.process(10, name, sleeps=8) if host.now > 0.004 else None
    assert 0.004 < host.waited(words) < 0.006


def test_one_that_was_awake_has_slept_over_something_else_first(host: Host) -> None:
    host.terminal(3)
    host.process(10, sleeps=7, state="R")
    words = host.words()
    host.process(10, sleeps=8)
    host.meanwhile = lambda: host.process(10, sleeps=9) if host.now > 0.01 else None
    assert 0.01 < host.waited(words) < 0.012


@pytest.mark.parametrize("state", ["S", "T", "R"])
def test_one_that_never_sends_holds_nothing_up_for_longer_than_the_patience(host: Host, state: str) -> None:
    host.terminal(3)
    host.process(10, state=state)
    assert PATIENCE_S <= host.waited(host.words()) < PATIENCE_S + 0.002


def test_nor_does_a_dead_one(host: Host) -> None:
    host.terminal(3)
    host.terminal(4)
    host.process(10)
    host.process(11)
    words = host.words()
    host.gone(10)
    host.process(11, state="Z")
    assert host.waited(words) == 0


def test_of_three_sessions_with_two_terminals_two_are_waited_for_and_a_fixed_time_at_least(host: Host) -> None:
    host.terminal(3)
    host.terminal(4)
    for pid in (10, 11, 12):
        host.process(pid)
    words, early = host.words(), host.words()
    host.process(12, sleeps=8)
    host.meanwhile = lambda: host.process(10, sleeps=8) if host.now > 0.02 else None
    assert 0.02 < host.waited(words) < 0.022
    assert UNSURE_S <= host.waited(early) < UNSURE_S + 0.002


def test_one_sshd_has_sent_for_all_its_terminals(host: Host) -> None:
    host.terminal(3)
    host.terminal(4)
    host.process(10)
    words = host.words()
    host.process(10, sleeps=8)
    assert host.waited(words) == 0


def test_who_has_a_terminal_and_no_sshd_has_a_fixed_time(host: Host) -> None:
    host.terminal(3)
    host.terminal(4, BOB)
    host.process(10)
    host.process(11, "tmux: server", uid=BOB, of=BOB)
    words = host.words()
    host.process(10, sleeps=8)
    assert UNSURE_S <= host.waited(words) < UNSURE_S + 0.002


def test_of_several_tenants_the_slowest_is_waited_for(host: Host) -> None:
    host.terminal(3)
    host.terminal(4, BOB)
    host.process(10)
    host.process(11, uid=BOB, of=BOB)
    words = host.words()
    host.process(10, sleeps=8)
    host.meanwhile = lambda: host.process(11, sleeps=8, uid=BOB, of=BOB) if host.now > 0.02 else None
    assert 0.02 < host.waited(words) < 0.022


def test_finding_them_is_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    real = LastWords._status

    def status(words: LastWords, pid: int) -> object:
        looked.append(pid)
        host.now += 0.001
        return real(words, pid)

    monkeypatch.setattr(LastWords, "_status", status)
    host.terminal(3)
    for pid in range(100, 400):
        host.process(pid, "bash")
    host.process(500)
    words = host.words()
    assert len(looked) < 10
    assert UNSURE_S <= host.waited(words) < UNSURE_S + 0.002


@pytest.mark.parametrize("name", ["sshd-agent", "xsshd", "bash", ""])
def test_what_has_another_name_is_no_sshd(host: Host, name: str) -> None:
    host.terminal(3)
    host.process(10, name)
    assert UNSURE_S <= host.waited(host.words()) < UNSURE_S + 0.002


def test_the_real_counter_counts_a_sleep() -> None:
    words = LastWords(set(), lambda _: [])
    first = words._status(os.getpid())
    time.sleep(0.01)
    second = words._status(os.getpid())
    assert first and second
    assert (first.state, first.uid) == (b"R", os.getuid())
    assert second.sleeps > first.sleeps
    assert words._status(2**22) is None
