"""Finding a tenant's processes on a made-up /proc, and killing none but them."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host import command, killer
from agent.host.contract import CommandResult
from agent.host.lent import Lent
from agent.host.processes import Process, ProcProcesses

ALICE, BOB = 70001, 70002
TENANTS = {ALICE: "jit-alice", BOB: "jit-bob"}
UNSET = 0xFFFFFFFF


def put(
    proc: Path, pid: int, *, uids: tuple[int, ...] = (0, 0, 0, 0), state: str = "S", loginuid: int = UNSET, **files: bytes
) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    shown = "\t".join(map(str, uids))
    (folder / "status").write_bytes(f"Name:\tsh\nUmask:\t0022\nState:\t{state} (x)\nUid:\t{shown}\nGid:\t0\n".encode())
    (folder / "loginuid").write_bytes(str(loginuid).encode())
    (folder / "cgroup").write_bytes(files.pop("cgroup", b"12:pids:/x\n0::/user.slice\n"))
    for name in ("environ", "cmdline"):
        (folder / name).write_bytes(files.pop(name, b""))


def seen(pid: int) -> Process:
    return Process(pid, ALICE, "sh", "/", "uid", ALICE)


def found(proc: Path) -> dict[int, tuple[str, int]]:
    table = ProcProcesses(70000, 99999, proc)
    return {each.pid: (each.mark, each.tenant_uid) for each in table.of(TENANTS)}


@pytest.mark.parametrize("place", range(4))
def test_any_of_the_four_uids_makes_it_the_tenants(tmp_path: Path, place: int) -> None:
    uids = [0, 0, 0, 0]
    uids[place] = ALICE
    put(tmp_path, 20, uids=tuple(uids))
    assert found(tmp_path) == {20: ("uid", ALICE)}


def test_root_shells_are_found_by_login_uid_by_sudos_mark_and_by_sshds_title(tmp_path: Path) -> None:
    put(tmp_path, 20, loginuid=ALICE)
    put(tmp_path, 21, environ=b"PATH=/bin\0SUDO_UID=70002\0SUDO_USER=jit-bob\0")
    put(tmp_path, 22, cmdline=b"sshd: jit-alice [priv]\0\0\0")
    put(tmp_path, 23, cmdline=b"sshd-session: jit-bob [priv]")
    put(tmp_path, 24, cmdline=b"sshd: jit-bob [postauth]")
    assert found(tmp_path) == {
        **{20: ("loginuid", ALICE), 21: ("sudo", BOB), 22: ("sshd", ALICE), 23: ("sshd", BOB), 24: ("sshd", BOB)}
    }


def test_nobody_elses_process_is_found(tmp_path: Path) -> None:
    put(tmp_path, 20, uids=(1000,) * 4, environ=b"SUDO_UID=70001\0", cmdline=b"sshd: jit-alice [priv]")
    put(tmp_path, 21, cmdline=b"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups")
    put(tmp_path, 22, cmdline=b"sshd: jit-alicex [priv]")
    put(tmp_path, 23, cmdline=b"grep sshd: jit-alice [priv]")
    put(tmp_path, 24, cmdline=b"sshd: jit-alice is my friend")
    put(tmp_path, 25, environ=b"XSUDO_UID=70001\0SUDO_UID=\0SUDO_UID=-70001\0SUDO_UID=700010\0")
    put(tmp_path, 26, loginuid=UNSET)
    put(tmp_path, 27, uids=(7000,) * 4, loginuid=7000)
    assert found(tmp_path) == {}


def test_the_dead_init_and_this_process_are_left_out(tmp_path: Path) -> None:
    for state, pid in (("Z", 20), ("X", 21)):
        put(tmp_path, pid, uids=(ALICE,) * 4, state=state)
    put(tmp_path, 1, uids=(ALICE,) * 4)
    put(tmp_path, os.getpid() + (os.getpid() == 1), uids=(ALICE,) * 4)
    (tmp_path / "self").mkdir()
    (tmp_path / "30").mkdir()  # ended between the listing and the look
    assert found(tmp_path) == {}


def test_an_empty_login_names_nobody(tmp_path: Path) -> None:
    put(tmp_path, 20, cmdline=b"sshd: jit-alice [priv]")
    put(tmp_path, 21, cmdline=b"sshd:  [priv]")
    put(tmp_path, 22, uids=(ALICE,) * 4)
    assert [each.pid for each in ProcProcesses(70000, 99999, tmp_path).of({ALICE: ""})] == [22]


def test_a_cgroup_that_a_tenant_named_in_no_utf8_is_still_a_path_to_it(tmp_path: Path) -> None:
    put(tmp_path, 20, uids=(ALICE,) * 4, cgroup=b"3:x:/y\n0::/user.slice/\xff\n")
    (each,) = ProcProcesses(70000, 99999, tmp_path).of(TENANTS)
    assert os.fsencode(each.cgroup) == b"/user.slice/\xff"
    put(tmp_path, 21, uids=(ALICE,) * 4, cgroup=b"3:x:/y\n")
    assert {each.cgroup for each in ProcProcesses(70000, 99999, tmp_path).of(TENANTS)} == {each.cgroup, ""}


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "read", "listdir"])
def test_what_cant_be_looked_at_for_want_of_descriptors_or_memory_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    put(tmp_path, 20, uids=(ALICE,) * 4)

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(HostError) as caught:
        found(tmp_path)
    assert caught.value.code == "proc_unreadable"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESRCH, errno.EACCES])
def test_what_ended_while_it_was_looked_at_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    put(tmp_path, 20, uids=(ALICE,) * 4)

    def fail(*_: object) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "read", fail)
    assert found(tmp_path) == {}


# Killing: real children of this test, on a made-up /proc that says whose they are


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield started
    started.kill()
    started.wait()


def test_a_tenants_process_is_killed(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    put(tmp_path, child.pid, uids=(ALICE,) * 4)
    ProcProcesses(70000, 99999, tmp_path).kill(seen(child.pid), TENANTS)
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_a_number_that_is_anothers_by_now_is_spared(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    put(tmp_path, child.pid, uids=(1000,) * 4)
    ProcProcesses(70000, 99999, tmp_path).kill(seen(child.pid), TENANTS)
    time.sleep(0.05)
    assert child.poll() is None


def test_a_number_that_goes_to_another_between_the_look_and_the_signal_is_spared(
    tmp_path: Path, child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor was opened on a process that is dead by the time the number says 'tenant'."""
    dead = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    handle = os.pidfd_open(dead.pid)
    dead.communicate()
    put(tmp_path, child.pid, uids=(ALICE,) * 4)
    monkeypatch.setattr(os, "pidfd_open", lambda _: handle)
    ProcProcesses(70000, 99999, tmp_path).kill(seen(child.pid), TENANTS)
    time.sleep(0.05)
    assert child.poll() is None


def test_what_is_gone_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(os, "pidfd_open", gone)
    ProcProcesses(70000, 99999, tmp_path).kill(seen(4_000_000), TENANTS)


@pytest.mark.parametrize("pid", [-1, 0, 1, pytest.param(os.getpid(), id="this process")])
def test_init_groups_and_this_process_are_never_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    monkeypatch.setattr(os, "pidfd_open", _never)
    with pytest.raises(HostError) as caught:
        ProcProcesses(70000, 99999, tmp_path).kill(seen(pid), TENANTS)
    assert caught.value.code == "kill_refused"


def test_a_signal_that_cant_be_sent_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(HostError) as caught:
        ProcProcesses(70000, 99999, tmp_path).kill(seen(20), TENANTS)
    assert caught.value.code == "kill_failed"


def _never(*_: object) -> int:
    raise AssertionError("nothing may be forked, become anybody, or be signalled here")


@pytest.fixture
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in these tests could signal anyone."""
    for name in ("fork", "setresuid", "setresgid", "setgroups", "kill"):
        monkeypatch.setattr(os, name, _never)


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("uid", [-1, 0, 1, 1000, 65534, 69999, 100000, 2**32 - 1, 2**32 + 70001])
def test_a_uid_outside_the_tenants_range_is_never_killed_from(uid: int) -> None:
    assert list(ProcProcesses(0, 2**40).kill_all_of([uid])) == [uid]
    assert list(ProcProcesses(70000, 99999).kill_all_of([uid, *range(10)])) == [uid, *(n for n in range(10) if n != uid)]
    assert "range" in killer.kill_as(uid)


@pytest.mark.usefixtures("harmless")
def test_root_is_never_killed_from_though_the_range_were_to_hold_it() -> None:
    assert list(ProcProcesses(0, 99999).kill_all_of([0])) == [0]


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize(("status", "good"), [(0, True), (1 << 8, False), (signal.SIGKILL, False)])
def test_only_a_child_that_says_so_has_signalled_everyone(monkeypatch: pytest.MonkeyPatch, status: int, good: bool) -> None:
    """SIGKILL included: from the moment the child is the uid its tenant may kill it, before it has killed anyone."""
    masks: list[set[signal.Signals]] = []

    def fork() -> int:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))  # type: ignore[arg-type]
        return 4_000_000

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, "waitpid", lambda pid, _: (pid, status))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    table = ProcProcesses(70000, 99999)
    assert bool(table.kill_all_of([ALICE])) != good
    assert signal.SIGTERM in masks[0], "no handler of ours runs in the child"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.usefixtures("harmless")
def test_a_fork_that_fails_is_an_error_and_the_signals_come_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", fail)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert list(ProcProcesses(70000, 99999).kill_all_of([ALICE])) == [ALICE]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_child_that_the_tenant_stopped_does_not_hold_up_the_teardown() -> None:
    """As _exit_code sees it: a real child, stopped; no uid is changed and nobody else is signalled."""
    stopped = subprocess.Popen([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"])
    try:
        began = time.monotonic()
        assert killer._exit_code(stopped.pid, 0.3) == -signal.SIGKILL
        assert time.monotonic() - began < 5
    finally:
        stopped.returncode = -signal.SIGKILL  # it was waited for there


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("became", [(ALICE, ALICE, 0), (0, 0, 0), (ALICE, 0, ALICE)])
def test_a_child_that_is_not_wholly_the_uid_signals_nobody(monkeypatch: pytest.MonkeyPatch, became: tuple[int, int, int]) -> None:
    class ExitError(BaseException):
        pass

    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise ExitError

    for name in ("setresuid", "setresgid", "setgroups"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "getresuid", lambda: became)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(ExitError):
        killer._become_and_kill(ALICE)
    assert codes == [1]


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("call", ["setresuid", "setresgid", "setgroups"])
def test_a_child_that_could_not_drop_its_rights_signals_nobody(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    class ExitError(BaseException):
        pass

    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise ExitError

    def fail(*_: object) -> None:
        raise PermissionError

    for name in ("setresuid", "setresgid", "setgroups"):
        monkeypatch.setattr(os, name, fail if name == call else lambda *_: None)
    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(ExitError):
        killer._become_and_kill(ALICE)
    assert codes == [1]


_IN_A_NAMESPACE = """
import os, time
from agent.host.processes import Process, ProcProcesses

assert os.getpid() == 1, "only in a pid namespace of its own may anything be signalled for real"
tenants = {70001: "jit-alice"}

def start(uid, forks):
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        for _ in range(forks):
            os.fork()
        while True:
            time.sleep(60)
    return child

theirs, other = [start(70001, 0), start(70001, 3)], start(70002, 0)
table = ProcProcesses(70000, 99999)
while len(table.of(tenants)) < 9 or len(table.of({70002: ""})) < 1:
    time.sleep(0.01)
assert table.kill_all_of([70001]) == {}
while table.of(tenants):
    time.sleep(0.01)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in theirs] == [-9, -9]
assert os.waitpid(other, os.WNOHANG) == (0, 0), "another tenant's process was signalled"
print("all of them and nobody else", flush=True)
os._exit(0)
"""


def test_for_real_in_a_pid_namespace_a_uid_is_killed_whole_and_no_other() -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare(1)")
    root = Path(__file__).parents[2]
    argv = [unshare, "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", _IN_A_NAMESPACE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=root, env={"PYTHONPATH": str(root)}, check=False)
    if "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"no pid namespace here: {done.stderr.strip()}")
    assert (done.stdout, done.stderr, done.returncode) == ("all of them and nobody else\n", "", 0)


@pytest.mark.usefixtures("harmless")
def test_many_uids_go_to_one_helper_and_whom_it_could_not_signal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def helper(argv: list[str], *, timeout_s: float) -> CommandResult:
        asked.append(argv)
        assert timeout_s > 10
        return CommandResult(tuple(argv), 0, "70002\n", "")

    monkeypatch.setattr(command, "run", helper)
    errors = ProcProcesses(70000, 99999).kill_all_of([0, *range(70000, 70004)])
    assert list(errors) == [0, 70002]
    assert asked[0][1:3] == ["-I", "-S"] and asked[0][-4:] == ["70000", "70001", "70002", "70003"]


@pytest.mark.usefixtures("harmless")
def test_of_many_uids_several_are_signalled_at_once_and_each_from_a_child_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[int] = []
    numbers = itertools.count(4_000_001)

    def fork() -> int:
        log.append(child := next(numbers))
        return child

    def waitpid(child: int, _: int) -> tuple[int, int]:
        log.append(-child)
        return child, signal.SIGKILL if child == 4_000_002 else 0

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, "waitpid", waitpid)
    assert killer.kill_as_each([ALICE, 0, BOB, *range(70010, 70016)]) == [0, BOB], "the second's tenant killed its child"
    assert sorted(map(abs, log)) == sorted([*range(4_000_001, 4_000_009)] * 2), "each child is waited for"
    assert [number > 0 for number in log[: killer.AT_ONCE + 1]] == [True] * killer.AT_ONCE + [False]


def test_a_walk_leaves_out_whom_it_is_told_to_and_a_look_is_at_those_alone(tmp_path: Path) -> None:
    for pid in (20, 21, 22):
        put(tmp_path, pid, uids=(ALICE,) * 4)
    table = ProcProcesses(70000, 99999, tmp_path)
    assert [each.pid for each in table.of(TENANTS, without={20, 22})] == [21]
    assert [each.pid for each in table.among([20, 23, 22], TENANTS)] == [20, 22]


@pytest.mark.usefixtures("harmless")
@pytest.mark.parametrize("late", [True, False])
def test_a_helper_that_is_late_or_fails_has_signalled_nobody_for_certain(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    def helper(argv: list[str], *, timeout_s: float) -> CommandResult:
        if late:
            raise HostError("tool_late", f"{timeout_s}")
        return CommandResult(tuple(argv), 1, "", "Traceback")

    monkeypatch.setattr(command, "run", helper)
    assert list(ProcProcesses(70000, 99999).kill_all_of(range(70000, 70010))) == list(range(70000, 70010))


def status(proc: Path, pid: int, text: bytes) -> None:
    put(proc, pid)
    (proc / str(pid) / "status").write_bytes(text)


def test_a_name_that_says_it_is_dead_hides_nobody(tmp_path: Path) -> None:
    """The kernel escapes newlines in a name, and no other end of a line: prctl(PR_SET_NAME) takes a carriage return."""
    for pid, end in enumerate((b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x85"), 30):
        status(tmp_path, pid, b"Name:\ta" + end + b"State:\tZ\nState:\tS (sleeping)\nUid:\t70001\t0\t0\t0\nThreads:\t1\n")
    assert set(found(tmp_path)) == set(range(30, 35))


def test_a_first_thread_that_has_ended_does_not_hide_the_others(tmp_path: Path) -> None:
    status(tmp_path, 40, b"Name:\tx\nState:\tZ (zombie)\nUid:\t70001\t0\t0\t0\nThreads:\t2\n")
    status(tmp_path, 41, b"Name:\tx\nState:\tZ (zombie)\nUid:\t70001\t0\t0\t0\nThreads:\t1\n")
    assert set(found(tmp_path)) == {40}


@pytest.mark.usefixtures("harmless")
def test_a_fork_that_fails_for_want_of_room_is_tried_until_one_comes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([BlockingIOError(errno.EAGAIN, "no room")] * 5)

    def fork() -> int:
        for error in tries:
            raise error
        return 4_000_000

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(os, "waitpid", lambda pid, _: (pid, 0))
    assert killer.kill_as(ALICE) == ""


@pytest.mark.usefixtures("harmless")
def test_where_the_helper_cant_be_started_each_uid_is_signalled_from_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_: list[str], *, timeout_s: float) -> CommandResult:
        raise HostError("tool_failed", f"could not be started in {timeout_s}")

    asked: list[int] = []

    def kill_as(uid: int) -> str:
        asked.append(uid)
        return "odd" if uid == 70001 else ""

    monkeypatch.setattr(command, "run", no_room)
    monkeypatch.setattr(killer, "kill_as", kill_as)
    assert ProcProcesses(70000, 99999).kill_all_of(range(70000, 70005)) == {70001: "odd"}
    assert asked == list(range(70000, 70005))


def test_the_number_given_out_last_is_read_where_it_stands(tmp_path: Path) -> None:
    table = ProcProcesses(70000, 99999, tmp_path)
    assert table.newest() == -1
    (tmp_path / "loadavg").write_text("0.41 0.18 0.37 2/129 109\n")
    assert table.newest() == 109
    assert ProcProcesses(70000, 99999).newest() > 0


def lent_row(proc: Path, pid: int, groups: str, *, uid: int = 1000, started: int = 500) -> None:
    put(proc, pid)
    shown = f"Name:\tsh\nState:\tS\nPPid:\t1\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t7\t7\t7\t7\nGroups:\t{groups}\nThreads:\t1\n"
    (proc / str(pid) / "status").write_text(shown)
    fields = " ".join(["S", "1", *["0"] * 17, str(started), "0"])
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b) {fields}\n")


def test_what_holds_a_lent_group_is_found_by_its_groups_and_told_by_its_start(tmp_path: Path) -> None:
    lent_row(tmp_path, 20, "7 60")
    lent_row(tmp_path, 21, "7")
    lent_row(tmp_path, 22, "60", uid=1001)
    table = ProcProcesses(70000, 99999, tmp_path)
    (each,) = table.of({}, [Lent("deploy", 1000, gids=frozenset({60}))])
    ticks = os.sysconf("SC_CLK_TCK")
    assert (each.pid, each.mark, each.tenant_uid, each.started_ns) == (20, "group", 1000, 500 * 1_000_000_000 // ticks)


def test_of_a_lent_groups_holder_only_the_process_that_was_seen_is_killed(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    lent_row(tmp_path, child.pid, "60", started=500)
    table = ProcProcesses(70000, 99999, tmp_path)
    (each,) = table.of({}, [Lent("deploy", 1000, gids=frozenset({60}))])
    table.kill(replace(each, started_ns=each.started_ns + 1), {})
    time.sleep(0.05)
    assert child.poll() is None, "the number is another's by now"
    table.kill(each, {})
    assert child.wait(timeout=10) == -signal.SIGKILL


def test_a_sudo_rules_command_is_found_by_its_environment_in_proc(tmp_path: Path) -> None:
    lent_row(tmp_path, 20, "0", uid=5)
    (tmp_path / "20/environ").write_bytes(b"A=1\0SUDO_UID=1000\0SUDO_COMMAND=/usr/bin/id -u\0")
    rule = Lent("deploy", 1000, rules=frozenset({(5, "/usr/bin/id -u")}))
    assert [each.mark for each in ProcProcesses(70000, 99999, tmp_path).of({}, [rule])] == ["rule"]
