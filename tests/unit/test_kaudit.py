"""What the kernel's audit says is read as it is meant, whatever a tenant wrote into it; and what never came is noticed."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.host.kaudit import exits, netlink, rules
from agent.host.kaudit.records import ARGV_MAX, CWD, EOE, EXECVE, PATH, SYSCALL, Assembler, Exec
from agent.host.kaudit.serials import Serials

S = 1_000_000_000
# Records as Linux 6.1 sent them on the group of audit's readers (x86-64).
CALL = (
    b"arch=c000003e syscall=59 success=yes exit=0 a0=7fd284a989e0 a1=7fd28472a2d0 a2=2fadf400 a3=7fd284b846a0 items=3 ppid=563 "
    b'pid=564 auid=70001 uid=1000 gid=0 euid=1000 suid=1000 fsuid=1000 egid=0 sgid=0 fsgid=0 tty=(none) ses=1 comm="sh" '
    b'exe="/usr/bin/dash" subj=unconfined key="tidegate"'
)
REFUSED = CALL.replace(b"success=yes exit=0", b"success=no exit=-13")
FILE = b'item=0 name="/bin/sh" inode=590 dev=fe:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0 cap_frootid=0'
LOADER = b'item=2 name="/lib64/ld-linux-x86-64.so.2" inode=5267 dev=fe:00 mode=0100755 ouid=0 ogid=0 nametype=NORMAL'
TITLE = b"proctitle=2F62696E2F7368002D6300657869742037"
PROCTITLE, LOGIN = 1327, 1006


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples are of this one."""
    rules.exec_calls.cache_clear()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def taken(*records: tuple[int, bytes], serial: int = 6) -> list[Exec]:
    assembler = Assembler(70000, 99999)
    found = [assembler.take(kind, b"audit(1795324572.221:%d): %b" % (serial, text), 0)[1] for kind, text in records]
    return [each for each in found if each is not None]


def run(arguments: bytes, *more: bytes, call: bytes = CALL) -> Exec:
    (found,) = taken((SYSCALL, call), *((EXECVE, text) for text in (arguments, *more)), (CWD, b'cwd="/"'), (PATH, FILE), (EOE, b""))
    return found


def test_the_records_of_an_exec_become_one_value() -> None:
    records = [(EXECVE, b'argc=3 a0="/bin/sh" a1="-c" a2=657869742037'), (CWD, b'cwd="/"'), (PATH, FILE), (PATH, LOADER)]
    (found,) = taken((SYSCALL, CALL), *records, (PROCTITLE, TITLE), (EOE, b""))
    assert found == Exec(
        1795324572221000000, 6, 1, 70001, 1000, 1000, 564, 563, "/usr/bin/dash", "/bin/sh", "/",
        ("/bin/sh", "-c", "exit 7"), 3, False, 0,
    )  # fmt: skip
    assert found.success


def test_one_that_failed_says_what_was_asked_for_and_why_it_was_refused() -> None:
    (found,) = taken((SYSCALL, REFUSED), (CWD, b'cwd="/"'), (PATH, FILE), (EOE, b""))
    assert (found.success, found.error, found.file, found.argv, found.cut) == (False, 13, "/bin/sh", (), False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (b'"plain"', "plain"),
        (b"6120620A226322", 'a b\n"c"'),
        (b"6B65793D22746964656761746522", 'key="tidegate"'),
        (b"61303D343120617567643D30", "a0=41 augd=0"),
        (b"FF41", "\udcffA"),
        (b'""', ""),
        (b"(null)", ""),
        (b'"(null)"', "(null)"),
        (b'"6162"', "6162"),
        (b'"a0=41"', "a0=41"),
    ],
)
def test_an_argument_is_what_it_was_and_no_field_of_its_own(written: bytes, meant: str) -> None:
    found = run(b"argc=2 a0=" + written + b' a1="end"')
    assert found.argv == (meant, "end") and not found.cut
    assert found.auid == 70001


def test_a_long_argument_in_parts_over_several_records_is_one() -> None:
    found = run(b'argc=3 a0="x" a1_len=24 a1[0]=6120 a1[1]="bc"', b' a1[2]=6420 a2="end"')
    assert found.argv == ("x", "a bcd ", "end") and found.argc == 3 and not found.cut


def test_two_megabytes_of_arguments_are_bounded_and_the_cut_is_told() -> None:
    parts = [b" a1[%d]=%b" % (number, b"78" * 3700) for number in range(1, 600)]
    found = run(b'argc=3 a0="x" a1_len=4440000 a1[0]=7878', *parts, b' a2="end"')
    assert found.cut and found.argc == 3
    assert ARGV_MAX // 2 < sum(map(len, found.argv)) <= ARGV_MAX


def test_many_arguments_are_bounded_and_counted() -> None:
    found = run(b"argc=20000 " + b" ".join(b'a%d="z"' % number for number in range(1000)))
    assert found.cut and found.argc == 20000 and len(found.argv) <= 512


def test_arguments_that_never_came_are_told_as_cut() -> None:
    (found,) = taken((SYSCALL, CALL), (EOE, b""))
    assert found.cut and found.argv == ()


@pytest.mark.parametrize(
    "call",
    [
        CALL.replace(b"auid=70001", b"auid=4294967295"),
        CALL.replace(b"auid=70001", b"auid=0"),
        CALL.replace(b"auid=70001", b"auid=100000"),
        CALL.replace(b"syscall=59", b"syscall=44"),
        CALL.replace(b"arch=c000003e syscall=59", b"arch=40000003 syscall=59"),
    ],
)
def test_what_is_no_exec_of_a_tenant_is_left_out(call: bytes) -> None:
    assert taken((SYSCALL, call), (EXECVE, b'argc=1 a0="x"'), (EOE, b"")) == []


def test_events_that_come_mixed_are_told_apart_and_one_without_its_end_comes_a_second_later() -> None:
    assembler = Assembler(70000, 99999)
    for serial in (7, 8):
        assembler.take(SYSCALL, b"audit(1.000:%d): %b" % (serial, CALL), 0)
    for serial in (8, 7):
        assembler.take(EXECVE, b'audit(1.000:%d): argc=1 a0="n%d"' % (serial, serial), 0)
    _, found = assembler.take(EOE, b"audit(1.000:8): ", 0)
    assert found is not None and found.argv == ("n8",)
    assert list(assembler.late(S - 1)) == []
    assert [late.argv for late in assembler.late(S)] == [("n7",)] and not assembler.waiting


def test_events_that_never_end_take_bounded_room() -> None:
    assembler = Assembler(70000, 99999)
    for serial in range(10_000):
        assembler.take(SYSCALL, b"audit(1.000:%d): %b" % (serial, CALL), 0)
    assert assembler.waiting <= 4096 and assembler.dropped == 10_000 - assembler.waiting


_PIECES = st.sampled_from(
    [CALL, REFUSED, FILE, b'argc=2 a0="x" a1=61', b" a1[3]=6", b' a2="', b"a99999999=1", b'cwd="', b"argc=-1",
     b"argc=99999999999999999999",
     b"arch=zz syscall=", b"pid=\xff", b"name=0", b"a0=" + b"F" * 9001, b"exe=\"\x00\"", b"success=no exit=-99999999999999999999"]
)  # fmt: skip
_TEXTS = st.one_of(st.binary(max_size=200), st.lists(st.one_of(_PIECES, st.binary(max_size=20)), max_size=4).map(b" ".join))
_HEADS = st.one_of(
    st.integers(0, 3).map(lambda serial: b"audit(1.000:%d): " % serial),
    st.sampled_from([b"", b"audit(", b"audit(1.1:1): ", b"audit(99999999999999.000:1): ", b"audit(1.000:" + b"9" * 30 + b"): "]),
)


@given(st.lists(st.tuples(st.sampled_from([SYSCALL, EXECVE, CWD, PATH, EOE, PROCTITLE, 0]), _HEADS, _TEXTS), max_size=30))
def test_whatever_comes_nothing_is_raised_and_all_is_bounded(records: list[tuple[int, bytes, bytes]]) -> None:
    assembler = Assembler(70000, 99999)
    found = [assembler.take(kind, head + text, 0)[1] for kind, head, text in records]
    for each in [*found, *assembler.late(2 * S)]:
        if each is not None:
            assert 70000 <= each.auid <= 99999
            assert sum(map(len, each.argv)) <= ARGV_MAX and len(each.exe) <= 4096 and len(each.file) <= 4096


@given(st.binary(max_size=300))
def test_no_datagram_breaks_what_reads_it(data: bytes) -> None:
    netlink.record(data)
    list(netlink.messages(data))
    exits.read(data)
    rules.read(data)


def test_a_number_left_out_is_lost_after_two_seconds_and_one_that_comes_late_is_not() -> None:
    serials = Serials()
    for serial in (10, 11, 11, 14, 13, 20):
        serials.see(serial, 0)
    assert serials.lost(2 * S - 1) == []
    serials.see(16, S)
    assert serials.lost(2 * S) == [(12, 12), (15, 15), (17, 19)]
    assert serials.lost(9 * S) == [] and not serials.waiting


@given(st.lists(st.integers(0, 60), max_size=80))
def test_all_that_never_came_between_the_first_and_the_last_is_told_once(seen: list[int]) -> None:
    serials = Serials()
    for serial in seen:
        serials.see(serial, 0)
    lost = [number for first, last in serials.lost(0, wait=False) for number in range(first, last + 1)]
    wanted = set(range(seen[0], max(seen) + 1)) - {*seen} if seen else set()
    assert sorted(lost) == sorted(wanted)


def test_a_rule_is_read_as_it_was_made_and_names_execs_of_tenants_alone() -> None:
    made = rules.ours(70000, 99999, "x86_64")
    assert len(made) == 2  # programs of 64 bits, and of 32
    for rule in made:
        assert rules.read(rule) == rules.Rule(4, 2, b"tidegate")
    numbers = struct.unpack_from("=3I64I64I64I64II", made[0])
    assert [call for call in range(2048) if numbers[3 + call // 32] >> call % 32 & 1] == [59, 322]
    assert numbers[131:135] == (0xC000003E, 70000, 99999, 0xFFFFFFFE)  # arch, from, to, and not ENOENT
    assert rules.ours(70000, 99999, "vax") == []


def test_how_a_process_ended_is_its_status_or_its_signal_and_threads_are_no_processes() -> None:
    def said(what: int, pid: int, tgid: int, code: int) -> exits.Exit | None:
        return exits.read(bytes(36) + struct.pack("=IIQIIII", what, 0, 5, pid, tgid, code, 17))

    ended, killed = said(0x80000000, 7, 7, 7 << 8), said(0x80000000, 7, 7, 9)
    assert ended is not None and (ended.status, ended.signal) == (7, None)
    assert killed is not None and (killed.status, killed.signal) == (None, 9)
    assert said(0x80000000, 8, 7, 0) is None
    assert said(2, 7, 7, 0) is None
