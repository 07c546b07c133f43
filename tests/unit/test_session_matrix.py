"""The matrices' own judgement: what counts as a difference, and that nothing is passed over."""

from collections import Counter

import pytest

from tests.bypass.__main__ import ATTACKS
from tests.sessions.__main__ import CASES
from tests.sessions.case import Case, Outcome, after_go, chain, differences, escapes_only, ordinals, squeezed, usual


def case(**seen: object) -> tuple[Case, Outcome]:
    return Case("x", lambda _: seen), seen


def test_every_case_and_attack_has_a_name_of_its_own() -> None:
    for names in ([each.name for each in CASES], [each.name for each in ATTACKS]):
        assert not [name for name, count in Counter(names).items() if count > 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [({"status": 0}, {"status": 1}), ({"out": b"a\n"}, {"out": b"a"}), ({"out": b""}, {}), ({"n": (1, 2)}, {"n": (1, 3)})],
)
def test_whatever_differs_is_told(one: Outcome, other: Outcome) -> None:
    told = differences(case()[0], one, other)
    assert len(told) == 1 and next(iter(one)) in told[0]
    assert not differences(case()[0], one, dict(one))


def test_a_difference_in_bytes_is_told_with_its_place() -> None:
    told = differences(case()[0], {"out": b"a" * 500 + b"b"}, {"out": b"a" * 500 + b"c"})
    assert "at byte 500" in told[0]


def test_what_belongs_to_one_login_only_is_no_difference() -> None:
    one = b"USER=jit-rec-a\nSSH_TTY=/dev/pts/0\nSSH_CLIENT=198.18.0.1 4711 22\nuid=70000(jit-rec-a)\nXDG_SESSION_ID=4\n"
    other = b"USER=jit-off-a\nSSH_TTY=/dev/pts/3\nSSH_CLIENT=198.18.0.1 4890 22\nuid=70001(jit-off-a)\nXDG_SESSION_ID=c17\n"
    assert usual(one) == usual(other)
    assert usual(one + b"UMASK=22") != usual(other)


def test_the_hosts_own_word_before_a_command_is_left_out() -> None:
    assert after_go(b"access until 12:00\r\n<GO>out") == b"out"
    assert after_go(b"no such word") == b"no such word"


def test_processes_are_compared_by_their_shape() -> None:
    assert ordinals(b"1201 1201 1202") == ordinals(b"870 870 999") != ordinals(b"870 871 999")
    assert ordinals(b"7 7") == b"7 7"


def test_other_ways_of_leaving_out_keep_the_rest() -> None:
    assert squeezed(b"a  b \r\nc") == b"a b\r\nc"
    assert escapes_only(b"\x1b[12;3Hx\x1b[1;1Hy\x1b[?25l") == b"\x1b[?Nl\n\x1b[N;NH"
    assert chain(after_go, squeezed)(b"x<GO>a  b") == b"a b"
