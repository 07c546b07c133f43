"""What a recorded terminal may do to the terminal of whoever looks at it: draw, and nothing else."""

import re

import pytest

from agent.sessions.recording.harmless import Harmless
from agent.sessions.recording.plain import LINE_MAX, Plain
from agent.sessions.recording.sequences import SEQUENCE_MAX

_DANGEROUS = {
    "clipboard": b"\x1b]52;c;cm0gLXJmIH4K\x07",
    "clipboard, ended by ST": b"\x1b]52;c;cm0gLXJmIH4K\x1b\\",
    "clipboard, by C1": "\u009d52;c;cm0=\u009c".encode(),
    "clipboard read": b"\x1b]52;c;?\x07",
    "title": b"\x1b]0;rm -rf ~\x07",
    "title report": b"\x1b[21t",
    "icon report": b"\x1b[20t",
    "window size report": b"\x1b[18t",
    "window moved": b"\x1b[3;0;0t",
    "title stack": b"\x1b[22;0t",
    "status report": b"\x1b[5n",
    "cursor report": b"\x1b[6n",
    "private status report": b"\x1b[?6n",
    "cursor report by C1": "\u009b6n".encode(),
    "attributes": b"\x1b[c",
    "attributes 2": b"\x1b[>c",
    "attributes 3": b"\x1b[=0c",
    "identify": b"\x1bZ",
    "version": b"\x1b[>q",
    "parameters": b"\x1b[0x",
    "mode report": b"\x1b[?2026$p",
    "checksum": b"\x1b[1;1;1;1;5;5*y",
    "enquiry": b"\x05",
    "colour report": b"\x1b]11;?\x07",
    "settings report": b'\x1bP$q"p\x1b\\',
    "tmux through": b"\x1bPtmux;\x1b\x1b]52;c;cm0=\x07\x1b\\",
    "sixel": b"\x1bPq#0;2;0;0;0\x1b\\",
    "APC": b"\x1b_Gf=100;AAAA\x1b\\",
    "PM": b"\x1b^x\x1b\\",
    "SOS": b"\x1bXx\x1b\\",
    "printer": b"\x1b[5i",
    "mouse": b"\x1b[?1000h\x1b[?1006h\x1b[?1003h",
    "focus": b"\x1b[?1004h",
    "paste": b"\x1b[?2004h",
    "cursor keys": b"\x1b[?1h",
    "keyboard locked": b"\x1b[2h",
    "keypad": b"\x1b=",
    "kitty keyboard": b"\x1b[>1u",
    "other keys": b"\x1b[>4;2m",
    "frozen": b"\x1b[?2026h",
    "modes restored": b"\x1b[?1000r",
    "scrollback": b"\x1b[3J",
    "link": b"\x1b]8;;http://example.com/\x07",
    "charset": b"\x1b%@",
    "endless repeat": b"\x1b[999999999b",
    "many lines": b"\x1b[99999999L",
    "highlight": b"\x1b[1;1;1;1;1T",
    "eight-bit answers": b"\x1b G",
    "stop": b"\x13",
    "null": b"\x00",
    "delete": b"\x7f",
}

_DRAWING = (
    b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b[H\x1b[10;20Hx\x1b[K\x1b[?25l\x1b[?1049h\r\n\t\b\x1b(0q\x1b(B"
    b"\x1b7\x1b8\x1bM\x1b[1;24r\x1b[38;2;1;2;3mz"
)


@pytest.mark.parametrize("name", _DANGEROUS)
def test_nothing_that_does_more_than_draw_passes(name: str) -> None:
    assert Harmless().feed(b"a" + _DANGEROUS[name] + b"z") == "az"


@pytest.mark.parametrize("name", _DANGEROUS)
def test_nor_in_any_pieces(name: str) -> None:
    data = b"a" + _DANGEROUS[name] + b"z"
    for cut in range(len(data)):
        screen = Harmless()
        assert screen.feed(data[:cut]) + screen.feed(data[cut:]) == "az"
    screen = Harmless()
    assert "".join(screen.feed(bytes((byte,))) for byte in data) == "az"


def test_what_draws_passes_as_it_is() -> None:
    assert Harmless().feed(_DRAWING) == _DRAWING.decode()
    screen = Harmless()
    assert "".join(screen.feed(bytes((byte,))) for byte in _DRAWING) == _DRAWING.decode()


def test_one_sequence_hidden_in_another_does_not_pass() -> None:
    for data in (
        b"\x1b\x1b[6n",
        b"\x1b[1\x1b[6n",
        b"\x1b[\x056n",
        b"\x1b]0;x\x1b[6n",
        b"\x1bP\x1b[6n\x1b\\",
        b"\x1b[?1;1000h",
        b"\x1b[\x186n",
    ):
        assert not re.search(r"\x1b\[[0-9?;]*[nh]|\x05|\x1b\]", Harmless().feed(data)), data


def test_of_several_modes_only_those_that_draw_are_set() -> None:
    assert Harmless().feed(b"\x1b[?1000;25;2004h") == "\x1b[?25h"


def test_a_character_cut_in_two_is_put_together_and_what_is_none_is_shown_as_such() -> None:
    screen = Harmless()
    assert screen.feed(b"\xe2\x82") + screen.feed(b"\xac\xff.\x9b6n") == "\u20ac\ufffd.\ufffd6n"


def test_a_string_without_an_end_keeps_no_memory() -> None:
    screen = Harmless()
    for _ in range(200):
        assert screen.feed(b"\x1b]52;c;" + b"A" * 65536) == ""
    assert sum(map(len, screen._sequences._kept)) <= 2 * SEQUENCE_MAX + 16


def test_the_terminal_is_left_as_a_shell_wants_it() -> None:
    screen = Harmless()
    screen.feed(b"\x1b[?1049h\x1b[?25l\x1b[5;10r\x1b[?6h")
    end = screen.end()
    assert end.startswith("\x1b[?1049l\x1b[?6l\x1b7\x1b[r\x1b8")
    for wanted in ("\x1b[?25h", "\x1b[?7h", "\x1b[0m", "\x1b(B", "\x1b[?1000l", "\x1b[?2004l"):
        assert wanted in end
    screen.feed(b"\x1b[?1049l")
    assert "1049" not in screen.end() and "1049" not in Harmless().end()


def test_a_reset_is_softened() -> None:
    assert "\x1bc" not in Harmless().feed(b"\x1bc") and "\x1b[2J" in Harmless().feed(b"\x1bc")


def _lines(*data: bytes) -> list[str]:
    plain = Plain()
    return [line for piece in data for line in plain.feed(piece)] + list(plain.end())


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"no end", ["no end"]),
        (b"50%\r100%\r\n", ["100%"]),
        (b"lsx\b \b -l\r\n", ["ls -l"]),
        (b"\x1b[01;32mjit@web\x1b[0m:~$ \x1b[Kls\r\n", ["jit@web:~$ ls"]),
        (b"\x1b]0;title\x07$ id\r\n", ["$ id"]),
        (b"abc\x1b[2Dx\x1b[Ky\r\n", ["axy"]),
        (b"abd\b\x1b[@c\r\n", ["abcd"]),
        (b"abXc\b\b\x1b[P\r\n", ["abc"]),
        (b"$ vi\r\n\x1b[?1049h\x1b[2Jstuff\r\n\x1b[?1049l$ id\r\n", ["$ vi", "[a program that uses the whole screen]", "$ id"]),
        (b"one\x1b[5;1Htwo\r\n", ["one", "two"]),
        (b"a\tb\r\n", ["a       b"]),
        (b"gr\xc3\xbcn \xff\r\n", ["gr\u00fcn \ufffd"]),
        (b"evil\xe2\x80\xaetxt\x1b[6n\x05\xc2\x9b5n\r\n", ["eviltxt"]),
        (b"\x1b[99999999C", [""]),
    ],
)
def test_text_is_what_a_person_read(said: bytes, read: list[str]) -> None:
    if said.endswith(b"C"):
        assert _lines(said) == []
        return
    assert _lines(said) == read
    assert _lines(*(bytes((byte,)) for byte in said)) == read


def test_a_line_without_an_end_is_broken_and_keeps_no_memory() -> None:
    found = _lines(b"x" * (3 * LINE_MAX))
    assert "".join(found) == "x" * (3 * LINE_MAX) and max(map(len, found)) <= LINE_MAX
