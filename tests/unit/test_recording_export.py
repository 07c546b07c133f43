import io
import json
import random
from collections.abc import Iterable
from typing import Any

from agent.sessions.recording import Damage, Frame, Kind, Seal, Writer, read
from agent.sessions.recording.export import FORMATS, asciicast_v2, asciicast_v3, ndjson, text
from tests.unit.recording_kit import MS, Host, items, meta, pieces, small


def _json(lines: Iterable[str]) -> list[Any]:
    return [json.loads(line) for line in lines]


def test_asciicast_v2_has_header_and_events_in_seconds() -> None:
    header, *events = _json(asciicast_v2(items(small(Host()))))
    assert header == {
        "version": 2, "width": 80, "height": 24, "timestamp": 1795324500, "env": {"TERM": "xterm-256color"},
        "title": "jit-alice (alice@example.com), r-20261122T051500-0a1b2c3d",
    }  # fmt: skip
    assert events == [[0.005, "o", "$ "], [0.025, "o", "gr"], [0.026, "r", "100x30"], [0.05, "o", "\u00fcn\r\n"]]


def test_asciicast_v3_has_intervals_and_the_exit_status() -> None:
    header, *events = _json(asciicast_v3(items(small(Host()))))
    assert header["version"] == 3 and header["term"] == {"cols": 80, "rows": 24, "type": "xterm-256color"}
    assert events == [[0.005, "o", "$ "], [0.02, "o", "gr"], [0.001, "r", "100x30"], [0.024, "o", "\u00fcn\r\n"], [0.04, "x", "0"]]


def _recorded(*frames: tuple[Kind, bytes], **changes: Any) -> list[Any]:
    writer = Writer(meta(**changes), 0)
    for index, (kind, data) in enumerate(frames, 1):
        writer.frame(kind, data, index * MS)
    return list(read(io.BytesIO(writer.take())))


def test_a_character_split_over_reads_is_put_together_though_another_stream_comes_between() -> None:
    euro = "\u20ac".encode()
    found = _recorded(
        (Kind.OUT, euro[:1]), (Kind.ERR, b"!"), (Kind.OUT, euro[1:2]), (Kind.OUT, euro[2:] + b"\xf0\x9f"), kind="pipe"
    )
    assert "".join(event[2] for event in _json(asciicast_v2(found))[1:]) == "!\u20ac\ufffd"


def test_without_a_terminal_stdout_and_stderr_come_in_order_with_line_ends_for_a_terminal() -> None:
    found = _recorded(
        (Kind.STDIN, b"secret"), (Kind.OUT, b"a\n"), (Kind.ERR, b"b\n"), (Kind.OUT, b"c\n"), kind="pipe", cols=0, rows=0
    )
    header, *events = _json(asciicast_v2(found))
    assert (header["width"], header["height"]) == (80, 24)
    assert [event[2] for event in events] == ["a\r\n", "b\r\n", "c\r\n"]
    assert list(text(found)) == ["a", "b", "c"]


def test_no_export_has_a_raw_control_or_unseen_character() -> None:
    bad = "\x1b]52;c;aa\x07\u009b6n\u202e\x00\x05".encode()
    event = json.dumps({"type": "warning", "why": "\x1b[6n\u202e"}).encode()
    found = _recorded((Kind.OUT, bad), (Kind.EVENT, event), login="\x1b[6n\u202e", command="\x1b]0;x\x07")
    for name, export in FORMATS.items():
        for line in export(found):
            assert line.isprintable(), (name, line)


def test_events_are_ndjson_and_what_was_shown_is_not() -> None:
    found = _json(ndjson(items(small(Host()))))
    assert [entry["kind"] for entry in found] == ["meta", "resize", "event", "end"]
    assert found[2] == {"kind": "event", "at_us": 51000, "data": {"type": "exec", "argv": ["id"]}}
    assert found[3]["data"] == {"why": "exit", "status": 0}


def test_an_event_that_is_no_object_harms_no_export() -> None:
    deep = b"[" * 60000
    for data in (b"", b"[]", b"{", b"\xff", deep):
        found = _recorded((Kind.EVENT, data), (Kind.RESIZE, b"\0"), (Kind.END, data))
        counts = {name: len(list(export(found))) for name, export in FORMATS.items()}
        assert counts == {"asciicast-v2": 1, "asciicast-v3": 2, "text": 0, "ndjson": 3}


def test_damage_and_gaps_stay_visible_in_every_form() -> None:
    head, *records = pieces(small(Host()))
    broken = items(head + b"".join(records[:1] + records[2:]))
    assert any(isinstance(item, Damage) for item in broken)
    for name, export in FORMATS.items():
        assert any("damage" in line for line in export(broken)), name
    gap = _recorded((Kind.EVENT, b'{"type":"gap","lost_us":5}'))
    for name, export in FORMATS.items():
        assert any("gap" in line for line in export(gap)), name


def test_a_recording_whose_begin_is_lost_is_still_exported() -> None:
    found: list[Frame | Seal | Damage] = [Damage(7, "hash", "x"), Frame(Kind.OUT, 5, b"a")]
    for name, export in FORMATS.items():
        assert list(export(found)), name
    assert _json(asciicast_v2([]))[0]["version"] == 2


def test_ten_minutes_with_resizes_and_characters_cut_anywhere_come_out_byte_for_byte() -> None:
    """What asciinema's own player writes to its terminal is exactly the events' text."""
    chance, writer, at_ms, sizes, sent = random.Random(3), Writer(meta(), 0), 0, [], b""
    waiting = b""
    while at_ms < 600_000:
        at_ms += chance.randrange(1, 400)
        if chance.random() < 0.05:
            sizes.append((chance.randrange(20, 250), chance.randrange(5, 80)))
            writer.resize(*sizes[-1], at_ms * MS)
        waiting += "\x1b[32mgr\u00fcn \u20ac \u6f22\u5b57 \U0001f30a\r\n".encode()
        cut = chance.randrange(1, len(waiting) + 1)
        writer.frame(Kind.OUT, waiting[:cut], at_ms * MS)
        sent, waiting = sent + waiting[:cut], waiting[cut:]
    writer.frame(Kind.OUT, waiting, at_ms * MS)
    found = list(read(io.BytesIO(writer.take())))
    _header, *two = _json(asciicast_v2(found))
    _header, *three = _json(asciicast_v3(found))
    for events in (two, three):
        assert "".join(data for _at, code, data in events if code == "o").encode() == sent + waiting
        assert [data for _at, code, data in events if code == "r"] == [f"{columns}x{rows}" for columns, rows in sizes]
    assert two[-1][0] == at_ms / 1000
    assert abs(sum(at for at, _code, _data in three) - two[-1][0]) < 0.001
