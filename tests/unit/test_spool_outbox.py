"""What goes out is whole, bounded, and never a way to write elsewhere; what had to go is told."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.host.clock import FakeClock
from agent.spool import Outbox

Dropped = list[tuple[str, str]]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sign(typ: str, claims: Mapping[str, object]) -> str:
    return f"{typ}:{json.dumps(claims, sort_keys=True)}"


def outbox(folder: Path, dropped: Dropped | None = None, clock: FakeClock | None = None, **bounds: int) -> Outbox:
    gone: Dropped = [] if dropped is None else dropped
    return Outbox(folder, clock or FakeClock(), sign, on_drop=gone.extend, **bounds)


def test_an_answer_says_all_and_signs_all_of_it(tmp_path: Path) -> None:
    subject = outbox(tmp_path)
    name = subject.answer(
        "refused", "evil\n\udcff.jwt", code="text_unprintable", reason="not\x1b[2J printable", field="sub", jti="g-1"
    )
    assert name == "20270115T080000.000000000Z-answer-g-1.json"
    value = json.loads((tmp_path / name).read_text())
    assert value["source"] == "evil\\x0a\\xff.jwt"
    assert value["reason"] == "not\\x1b[2J printable"
    assert value["at"] == "2027-01-15T08:00:00.000Z"
    typ, _, claims = value.pop("jws").partition(":")
    assert typ == "grant-answer+jwt"
    assert json.loads(claims) == value
    assert set(value) == {"verdict", "source", "code", "reason", "field", "jti", "at"}
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_an_answer_that_cannot_be_signed_is_still_given(tmp_path: Path) -> None:
    def no_key(_typ: str, _claims: Mapping[str, object]) -> str:
        raise HostError("key_unreadable", "host.jwk")

    name = Outbox(tmp_path, FakeClock(), no_key).answer("accepted", "g")
    assert json.loads((tmp_path / name).read_text())["jws"] == ""


def test_a_receipt_is_the_jws_and_nothing_else(tmp_path: Path) -> None:
    name = outbox(tmp_path).receipt("g-1", "a.b.c")
    assert (tmp_path / name).read_text() == "a.b.c\n"
    assert name.endswith("-receipt-g-1.jws")


def test_names_sort_by_time_even_when_the_clock_is_set_back(tmp_path: Path) -> None:
    clock = FakeClock()
    subject = outbox(tmp_path, clock=clock)
    names = [subject.receipt("g", "x") for _ in range(3)]
    clock.step(-3600)
    names += [subject.receipt("g", "x") for _ in range(3)]
    clock.advance(7200)
    names.append(subject.receipt("g", "x"))
    assert names == sorted(names)
    assert len(set(names)) == 7


@pytest.mark.parametrize("ident", ["../../etc/passwd", "/etc/passwd", ".hidden", "", "a\nb", "\udcff", "x" * 5000, "a\0b", ".."])
def test_no_identifier_leads_out_of_the_folder(tmp_path: Path, ident: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    name = outbox(folder).put("answer", ident, b"x", ".json")
    assert listing(folder) == [name]
    assert listing(tmp_path) == ["out"]
    assert name.isascii()
    assert name.isprintable()


def test_the_oldest_answers_go_first_and_receipts_only_when_no_answer_is_left(tmp_path: Path) -> None:
    dropped: Dropped = []
    subject = outbox(tmp_path, dropped, max_files=4)
    receipts = [subject.receipt(f"r{number}", "x") for number in range(2)]
    answers = [subject.answer("accepted", f"a{number}") for number in range(4)]
    assert dropped == [("answer", answers[0]), ("answer", answers[1])]
    later = [subject.receipt(f"s{number}", "x") for number in range(3)]
    assert dropped[2:] == [("answer", answers[2]), ("answer", answers[3]), ("receipt", receipts[0])]
    assert listing(tmp_path) == sorted([receipts[1], *later])


def test_bytes_are_bounded_over_restarts_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_bytes(b"x" * 5000)
    dropped: Dropped = []
    for _ in range(5):
        subject = outbox(tmp_path, dropped, max_bytes=1000)
        for _ in range(5):
            subject.put("answer", "a", b"x" * 300, ".json")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.pop("events.ndjson") == 5000
    assert sum(sizes.values()) <= 1000
    assert len(sizes) + len(dropped) == 25


def test_what_the_courier_carried_away_makes_room(tmp_path: Path) -> None:
    dropped: Dropped = []
    subject = outbox(tmp_path, dropped, max_files=3)
    for _ in range(10):
        (tmp_path / subject.receipt("g", "x")).unlink()
    kept = [subject.receipt("g", "x") for _ in range(3)]
    assert dropped == []
    assert listing(tmp_path) == kept


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_what_another_puts_there_pushes_nothing_of_ours_out(tmp_path: Path) -> None:
    dropped: Dropped = []
    subject = outbox(tmp_path, dropped, max_files=3)
    kept = [subject.receipt("g", "x")]
    for number in range(20):
        planted = tmp_path / f"20991231T235959.{number:09d}Z-receipt-junk.jws"
        planted.write_bytes(b"x")
        os.chown(planted, 65533, 65533)
    kept += [subject.receipt("g", "x") for _ in range(2)]
    assert dropped == []
    assert set(kept) <= set(listing(tmp_path))


def test_more_than_the_whole_bound_is_refused_and_drops_nothing(tmp_path: Path) -> None:
    subject = outbox(tmp_path, max_bytes=100)
    kept = subject.put("receipt", "g", b"x", ".jws")
    with pytest.raises(HostError) as caught:
        subject.put("receipt", "g", b"x" * 101, ".jws")
    assert caught.value.code == "outbox_too_large"
    assert listing(tmp_path) == [kept]


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("v")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "20270115T080000.000000000Z-receipt-g.jws").symlink_to(victim)
    outbox(folder).receipt("g", "x")
    assert victim.read_text() == "v"


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_nothing_half_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    subject = outbox(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(HostError) as caught:
            subject.receipt("g", "x")
    assert caught.value.code == "write_failed"
    assert listing(tmp_path) == []
    subject.receipt("g", "x")


def test_an_outbox_that_is_no_folder_of_ours_is_said(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(HostError) as caught:
        outbox(tmp_path / "out").receipt("g", "x")
    assert caught.value.code == "outbox_unwritable"
    assert listing(tmp_path / "victim") == []


def test_temporary_files_of_a_crash_are_removed_at_start(tmp_path: Path) -> None:
    (tmp_path / ".tidegate-0011").write_bytes(b"half")
    (tmp_path / ".other").write_bytes(b"x")
    outbox(tmp_path).clean()
    assert listing(tmp_path) == [".other"]
