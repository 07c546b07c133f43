import io
import random
from pathlib import Path

import pytest

from agent.sessions.recording import Damage, Frame, Kind, Records, Seal, Writer, read, recover
from agent.sessions.recording.format import BLOCK_MAX, FRAME_MAX, PAYLOAD_MAX, unvarint, varint
from tests.unit.recording_kit import MS, Host, items, meta, pieces, small


def _frames(data: bytes) -> list[Frame]:
    found = items(data)
    assert not [item for item in found if isinstance(item, Damage)]
    return [item for item in found if isinstance(item, Frame)]


def test_what_was_written_is_read_with_its_times() -> None:
    found = items(small(Host()))
    assert [(item.kind.name, item.at_us) for item in found if isinstance(item, Frame)] == [
        ("META", 0), ("OUT", 5000), ("OUT", 25000), ("RESIZE", 26000), ("OUT", 50000), ("EVENT", 51000), ("END", 90000),
    ]  # fmt: skip
    assert [item.seq for item in found if isinstance(item, Seal)] == [1, 3]
    assert not [item for item in found if isinstance(item, Damage)]


def test_nothing_to_take_is_nothing_written() -> None:
    writer = Writer(meta(), 0)
    assert writer.take().startswith(b"TGREC\x01\n")
    assert (writer.closed, writer.take(), writer.seq) == (0, b"", 0)
    writer.frame(Kind.OUT, b"", MS)
    assert writer.take() == b""


def test_long_output_is_split_and_comes_back_whole() -> None:
    writer = Writer(meta(), 0)
    sent = random.Random(1).randbytes(3 * BLOCK_MAX + 12345)
    writer.frame(Kind.OUT, sent, MS)
    writer.frame(Kind.ERR, sent[:10], 2 * MS)
    data = writer.take()
    assert writer.size == len(data) and writer.seq >= 3
    assert b"".join(frame.data for frame in _frames(data) if frame.kind is Kind.OUT) == sent
    assert all(len(piece) < PAYLOAD_MAX for piece in pieces(data))


def test_a_seal_comes_after_what_was_closed_before_it() -> None:
    host, writer = Host(), Writer(meta(), 0)
    data = writer.take()
    jws = host.seal(writer)
    writer.frame(Kind.OUT, bytes(2 * BLOCK_MAX), MS)  # closes blocks that nobody has taken
    data += writer.seal(jws) + writer.take()
    assert not [item for item in items(data) if isinstance(item, Damage)]
    assert writer.size == len(data)


def test_a_clock_that_goes_back_is_no_time() -> None:
    writer = Writer(meta(), 10 * MS)
    writer.frame(Kind.OUT, b"a", 12 * MS)
    writer.frame(Kind.OUT, b"b", 3 * MS)
    assert [frame.at_us for frame in _frames(writer.take())] == [0, 2000, 2000]


def test_a_block_of_the_smallest_frames_with_the_longest_gaps_is_one_that_a_reader_takes() -> None:
    writer = Writer(meta(), 0)
    for number in range(2 * BLOCK_MAX // 9):
        writer.frame(Kind.OUT, b"a", number << 58)
    data = writer.take()
    assert all(len(piece) < PAYLOAD_MAX for piece in pieces(data))
    assert [frame.at_us for frame in _frames(data)][1:4] == [0, (1 << 58) // 1000, (2 << 58) // 1000]


def test_nothing_comes_after_the_end_and_no_json_is_split() -> None:
    writer = Writer(meta(), 0)
    with pytest.raises(ValueError, match="at most"):
        writer.event({"type": "x" * FRAME_MAX}, MS)
    writer.end("exit", MS)
    with pytest.raises(ValueError, match="ended"):
        writer.frame(Kind.OUT, b"a", MS)


@pytest.mark.parametrize("jws", ["", "a.b", "a.bm8.c", "a.eyJzZXEiOjl9.c", "a.e30.c", "a.W10.c", "a.eyJzZXEiOi0xfQ.c", "é.e30.c"])
def test_a_seal_of_no_block_that_is_there_is_not_written(jws: str) -> None:
    writer = Writer(meta(), 0)
    writer.take()
    before = writer.size
    with pytest.raises(ValueError):
        writer.seal(jws)
    assert writer.size == before


def test_fed_byte_by_byte_it_reads_the_same() -> None:
    data = small(Host())
    whole = list(Records().feed(data))
    parser = Records()
    assert [item for index in range(len(data)) for item in parser.feed(data[index : index + 1])] == whole
    assert list(parser.close()) == []


def test_a_number_is_read_as_written_and_a_cut_one_is_refused() -> None:
    for value in (0, 1, 127, 128, 300, 1 << 20, (1 << 63) - 1):
        assert unvarint(varint(value), 0) == (value, len(varint(value)))
    for bad in (b"", b"\x80", b"\xff" * 9 + b"\x01"):
        with pytest.raises(ValueError):
            unvarint(bad, 0)


def test_a_huge_length_is_not_waited_for() -> None:
    data = small(Host())
    parser = Records()
    bad = data[:7] + b"B" + bytes(4) + b"\xff\xff\xff\xff"
    assert [item.code for item in parser.feed(bad) if isinstance(item, Damage)] == ["structure"]
    assert list(parser.feed(bytes(1 << 20))) == [] and len(parser._buffer) == 0


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_after_a_crash_the_recording_goes_on_where_it_is_whole(tmp_path: Path, cut: int) -> None:
    """Cut anywhere, and again with the end's bytes lost but not its length, as after a power loss."""
    whole = small(Host(), final=False)
    for left in (whole[: len(whole) - cut], whole[: len(whole) - cut] + bytes(cut)):
        path = tmp_path / "x.tgr"
        path.write_bytes(left)
        writer, size = recover(path, 1000 * MS, away_us=5_000_000)
        assert size <= len(left) and whole[:size] in [b"".join(pieces(whole)[:n]) for n in range(2, 8)]
        assert writer.size == size
        if not writer.ended:
            writer.event({"type": "gap"}, 1000 * MS)
            writer.end("exit", 1001 * MS)
        path.write_bytes(left[:size] + writer.take())
        with path.open("rb") as file:
            again = list(read(file))
        assert not [item for item in again if isinstance(item, Damage)]
        times = [item.at_us for item in again if isinstance(item, Frame)]
        assert times == sorted(times)


def test_time_goes_on_from_the_last_frame_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.tgr"
    host, writer = Host(), Writer(meta(), 7 * MS)
    writer.frame(Kind.OUT, b"a", 17 * MS)
    data = writer.take()
    path.write_bytes(data + writer.seal(host.seal(writer)) + b"B\0\0")
    again, size = recover(path, 5 * MS, away_us=2_000_000)
    assert (again.seq, again.sealed, again.head, size) == (0, 0, writer.head, path.stat().st_size - 3)
    again.frame(Kind.OUT, b"b", 6 * MS)
    assert _frames(path.read_bytes()[:size] + again.take())[-1].at_us == 10_000 + 2_000_000 + 1_000


def test_a_recording_without_a_first_block_is_not_gone_on_with(tmp_path: Path) -> None:
    whole = small(Host())
    path = tmp_path / "x.tgr"
    for left in (b"", whole[:5], whole[:7], whole[:40], b"something else entirely"):
        path.write_bytes(left)
        with pytest.raises(ValueError, match="first block"):
            recover(path, 0)


def test_arbitrary_bytes_are_damage_and_no_error() -> None:
    chance = random.Random(4)
    whole = small(Host())
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.randrange(1, 30)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        assert all(isinstance(item, Frame | Seal | Damage) for item in read(io.BytesIO(bytes(changed))))
