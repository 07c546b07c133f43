"""Whatever is done to a recording is told, with where."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sessions.recording import Kind, Verdict, Writer, verify
from agent.sessions.recording.sealing import seal_key
from tests.unit.recording_kit import IDENT, MS, Host, meta, pieces, small

_HOST = Host()


@pytest.fixture
def judged(tmp_path: Path) -> Callable[[bytes], Verdict]:
    path, key = tmp_path / "x.tgr", seal_key(_HOST.ring)

    def judge(data: bytes) -> Verdict:
        path.write_bytes(data)
        return verify(path, key, ident=IDENT)

    return judge


def _record_of(whole: bytes, offset: int) -> tuple[int, int]:
    """First byte of the record that this byte belongs to, and of the one after."""
    ends = list(itertools.accumulate(len(piece) for piece in pieces(whole)))
    return max([0, *(end for end in ends if end <= offset)]), min(end for end in ends if end > offset)


def test_a_whole_recording_is_sound(judged: Callable[[bytes], Verdict]) -> None:
    whole = small(_HOST)
    found = judged(whole)
    assert (found.ok, found.problems, found.blocks, found.seals, found.sealed_through) == (True, (), 4, 2, 3)
    assert (found.ended, found.unfinished, found.lasted_us, found.size, found.meta["id"]) == (True, False, 90000, len(whole), IDENT)
    assert found.sealed_bytes == len(whole) - len(pieces(whole)[-1])


def test_any_altered_byte_is_told_at_its_record(judged: Callable[[bytes], Verdict]) -> None:
    whole = small(_HOST)
    for offset in range(len(whole)):
        altered = bytearray(whole)
        altered[offset] ^= (0x01, 0x80, 0xFF)[offset % 3]
        found = judged(bytes(altered))
        begin, _end = _record_of(whole, offset)
        assert not found.ok and not found.unfinished, offset
        assert found.problems[0].offset == begin, (offset, found.problems)


def test_a_byte_more_or_less_anywhere_is_told(judged: Callable[[bytes], Verdict]) -> None:
    whole = small(_HOST)
    for offset in range(len(whole)):
        begin, end = _record_of(whole, offset)
        without, with_one = judged(whole[:offset] + whole[offset + 1 :]), judged(whole[:offset] + b"B" + whole[offset:])
        assert not without.ok and begin <= without.problems[0].offset <= end, offset
        assert not with_one.ok and begin <= with_one.problems[0].offset <= end, offset


def test_a_cut_anywhere_is_told_with_its_byte(judged: Callable[[bytes], Verdict]) -> None:
    whole = small(_HOST)
    last = len(whole) - len(pieces(whole)[-1])
    for cut in range(len(whole)):
        found = judged(whole[:cut])
        assert not found.ok
        between = cut in set(itertools.accumulate(len(piece) for piece in pieces(whole)))
        if cut == last:  # all but the final seal
            assert [problem.code for problem in found.problems] == ["unsealed"] and found.ended
        elif between and cut > 7:
            assert found.unfinished and [(problem.code, problem.offset) for problem in found.problems] == [("no_end", cut)]
        elif cut not in (0, 7):
            assert found.problems[0].code == "cut" and f"byte {cut}," in found.problems[0].what and not found.unfinished


def test_records_in_another_order_are_told(judged: Callable[[bytes], Verdict]) -> None:
    head, *found = pieces(small(_HOST))
    assert len(found) == 6
    for one, other in itertools.combinations(range(len(found)), 2):
        changed = list(found)
        changed[one], changed[other] = changed[other], changed[one]
        begin = len(head) + sum(map(len, found[:one]))
        verdict = judged(head + b"".join(changed))
        assert not verdict.ok and not verdict.unfinished
        assert begin <= verdict.problems[0].offset <= begin + len(changed[one]), (one, other)


def test_a_record_left_out_or_twice_is_told(judged: Callable[[bytes], Verdict]) -> None:
    head, *found = pieces(small(_HOST))
    for index in range(len(found)):
        begin = len(head) + sum(map(len, found[:index]))
        without = judged(head + b"".join(found[:index] + found[index + 1 :]))
        assert not without.ok and not without.unfinished
        if index < len(found) - 1:
            assert begin <= without.problems[0].offset <= begin + len(found[index + 1])
        for place in range(index + 1, len(found) + 1):
            twice = judged(head + b"".join([*found[:place], found[index], *found[place:]]))
            assert not twice.ok, (index, place)


def test_a_recording_made_anew_under_its_name_is_told(judged: Callable[[bytes], Verdict]) -> None:
    """All hashes are right, and no seal is this host's."""
    found = judged(small(Host()))
    assert [problem.code for problem in found.problems] == ["seal", "seal", "unsealed"] and found.sealed_through is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recording": "r-20261122T051500-ffffffff"}, "another recording"),
        ({"jti": "g-2"}, "another grant"),
        ({"head": "00" * 32}, "other bytes"),
        ({"bytes": 5}, "5 bytes"),
        ({"bytes": 1 << 40}, "bytes"),
        ({"iss": "urn:tidegate:other"}, "does not hold"),
        ({"final": True}, "no END"),
    ],
)
def test_a_seal_that_says_something_else_is_told(judged: Callable[[bytes], Verdict], change: dict[str, object], said: str) -> None:
    writer = Writer(meta(), 0)
    writer.frame(Kind.OUT, b"a", MS)
    data = writer.take()
    data += writer.seal(_HOST.seal(writer, **change))
    found = judged(data)
    assert not found.unfinished and said in found.problems[0].what
    assert (found.problems[0].code, found.problems[0].offset) == ("seal", data.index(b"S\0\0\0\0"))


def test_another_recording_in_its_place_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.tgr"
    path.write_bytes(small(_HOST))
    found = verify(path, seal_key(_HOST.ring), ident="r-20261122T051500-ffffffff")
    assert [(problem.code, problem.offset) for problem in found.problems] == [("identity", 7)]


def test_another_token_of_the_hosts_is_no_seal(judged: Callable[[bytes], Verdict]) -> None:
    writer = Writer(meta(), 0)
    data = writer.take()
    claims = {"iss": _HOST.host_id, "recording": IDENT, "jti": "g-1", "iat": 1, "final": False, **writer.claims()}
    data += writer.seal(_HOST.key.sign("teardown-receipt+jwt", claims))
    assert judged(data).problems[0].code == "seal"


def test_a_recording_that_goes_on_is_unfinished_and_not_damaged(judged: Callable[[bytes], Verdict]) -> None:
    writer = Writer(meta(), 0)
    data = writer.take()
    found = judged(data)
    assert (found.ok, found.unfinished, found.sealed_through, [problem.code for problem in found.problems]) == (
        False, True, None, ["no_end"],
    )  # fmt: skip
    data += writer.seal(_HOST.seal(writer))
    writer.event({"type": "gap"}, 5 * MS)
    found = judged(data + writer.take())
    assert (found.unfinished, found.sealed_through, found.sealed_bytes, found.gaps) == (True, 0, len(pieces(data)[1]) + 7, 1)


def test_what_comes_after_the_end_is_told(judged: Callable[[bytes], Verdict]) -> None:
    whole = small(_HOST)
    for tail in (b"x", whole, pieces(whole)[1], pieces(whole)[-1]):
        found = judged(whole + tail)
        assert not found.ok and found.problems[0].offset == len(whole)


def test_a_final_seal_made_twice_is_no_damage_and_a_copy_of_it_is(judged: Callable[[bytes], Verdict]) -> None:
    """The disk was full at the first, which came through later: the recorder asked for another."""
    writer = Writer(meta(), 0)
    writer.end("exit", MS)
    data = writer.take()
    data += writer.seal(_HOST.seal(writer, final=True))
    again = data + writer.seal(_HOST.seal(writer, final=True))
    assert judged(again).ok
    assert [problem.offset for problem in judged(data + pieces(data)[-1]).problems] == [len(data)]


def test_a_flood_of_problems_is_bounded_and_counted(judged: Callable[[bytes], Verdict]) -> None:
    head, *found = pieces(small(_HOST))
    verdict = judged(head + b"".join(found[:2] * 200))
    assert len(verdict.problems) <= 101 and verdict.unlisted > 100


def test_a_long_recording_takes_time_by_its_length(tmp_path: Path) -> None:
    """A seal that never comes does not make it quadratic, and seals that come do not either."""
    writer, path = Writer(meta(), 0), tmp_path / "x.tgr"
    parts = [writer.take()]
    for index in range(20_000):
        writer.frame(Kind.OUT, b"x", index * MS)
        parts.append(writer.take())
        if index % 500 == 499:
            parts.append(writer.seal(_HOST.seal(writer)))
    path.write_bytes(b"".join(parts))
    began = time.process_time()
    assert verify(path, seal_key(_HOST.ring)).unfinished
    assert time.process_time() - began < 10
