"""Ten minutes at a terminal with all that makes a player stumble, the same in every run."""

import random

from tests.player.tape import Tape

MINUTES = 10
# Of each length in UTF-8, of each width, and one that is two characters. Terminals agree about all of these.
CHARACTERS = ("\u00e9", "\u00df", "\u20ac", "\u2500", "\u6f22", "\ud55c", "\uff21", "\U0001f30a", "\U00010348", "e\u0301")
# About the width of these they don't: shown and cleared away before anybody looks.
DISPUTED = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u2764\ufe0f",
    "\U0001f1e9\U0001f1ea",
    "\u0e01\u0e33",
    "\u200b",
    "\u00ad",
)
INVALID = (
    b"\xff",
    b"\xc3(",
    b"\xf0\x9f\x8cA",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80",
    b"\xe2\x82\xe2\x82\xac",
    b"\x9b31m",
)
_SIZES = ((100, 30), (132, 43), (40, 12), (80, 24), (81, 25), (200, 60), (61, 20), (97, 31))
_PROMPT = "\x1b[01;32mjit-alice@web-1\x1b[00m:\x1b[01;34m~\x1b[00m$ "


def ten_minutes() -> Tape:
    """The tape, of at least MINUTES."""
    tape, chance = Tape(), random.Random(20261122)
    tape.out("Linux web-1 6.1.0 x86_64\r\n\r\n" + _PROMPT)
    tape.look()
    rounds = 0
    while tape.now_us < MINUTES * 60_000_000 - 30_000_000:
        for scene in (_typing, _cuts, _bytewise, _colours, _progress, _invalid, _editor, _disputed, _sequences):
            scene(tape, chance)
            tape.wait(chance.uniform(50, 3000))
        _resized(tape, _SIZES[rounds % len(_SIZES)], chance)
        _marks(tape, rounds)
        rounds += 1
    tape.wait(30_000)  # nothing at all, for a while
    _typing(tape, chance)
    tape.out("logout\r\n")
    tape.look()
    tape.out("\U0001f30a".encode()[:3], 900)  # it ends within a character
    tape.wait(40)
    return tape


def _line(tape: Tape, text: str) -> None:
    """Text at the left edge, where it has room."""
    tape.out("\r\n" + text)


def _clear(tape: Tape) -> None:
    """What a program that is told of a new size does. Before that each terminal has its own way to break the lines anew."""
    tape.out("\x1b[0m\x1b[H\x1b[2J" + _PROMPT)


def _typing(tape: Tape, chance: random.Random) -> None:
    for key in "ls --color gr\u00fcn":
        tape.out(key, chance.uniform(20, 400))
    tape.out("\x08\x08\x08\x1b[K", 80)
    tape.look()
    tape.out("\r\n\x1b[01;34mbin\x1b[0m  \x1b[01;32mrun\u2500me\x1b[0m  \x1b[31;4mold\x1b[0m\r\n" + _PROMPT)
    tape.look()


def _cuts(tape: Tape, chance: random.Random) -> None:
    """Each character, cut at each of its bytes."""
    for character in CHARACTERS:
        data = character.encode()
        for cut in range(1, len(data)):
            tape.out(b"\r\n<" + data[:cut])
            tape.out(data[cut:] + b"> " + str(cut).encode(), chance.uniform(1, 300))
    tape.look()


def _bytewise(tape: Tape, chance: random.Random) -> None:
    """A line with a byte in each frame."""
    data = ("\r\n" + "".join(chance.sample(CHARACTERS, len(CHARACTERS)))).encode()
    for index in range(len(data)):
        tape.out(data[index : index + 1], chance.uniform(0, 4))
    tape.look()


def _colours(tape: Tape, _chance: random.Random) -> None:
    _line(tape, "".join(f"\x1b[{30 + number}m{number}\x1b[{90 + number}m{number}" for number in range(1, 7)) + "\x1b[0m")
    _line(tape, "".join(f"\x1b[38;5;{number}m#" for number in range(17, 40)) + "\x1b[0m")
    _line(tape, "".join(f"\x1b[38;2;{number};{255 - number};77m=" for number in range(0, 250, 10)) + "\x1b[0m")
    _line(tape, "\x1b[1mbold\x1b[22m \x1b[4munder\x1b[24m \x1b[3mitalic\x1b[23m plain")
    tape.look()


def _progress(tape: Tape, chance: random.Random) -> None:
    tape.out("\r\n")
    for percent in range(0, 101, 5):
        tape.out(f"\r{percent:3}% [{'=' * (percent // 5):20}] \u20ac", chance.uniform(10, 200))
    tape.look()
    tape.out("\x1b[2K\rdone\x1b[3C\u2713\x1b[1A\x1b[10Gup\x1b[1B\r\n")
    tape.look()


def _invalid(tape: Tape, chance: random.Random) -> None:
    """Bytes that are no UTF-8, whole and cut."""
    for data in INVALID:
        cut = chance.randrange(len(data))
        tape.out(b"\r\n[" + data[:cut])
        tape.out(data[cut:] + b"]")
    tape.look()


def _editor(tape: Tape, chance: random.Random) -> None:
    """The other screen, with margins, lines put in and out, and a new size on the way."""
    tape.out("\x1b[?1049h\x1b[22;0;0t\x1b[H\x1b[2J\x1b[?25l")
    for size in (None, chance.choice(_SIZES)):
        if size:
            tape.resize(*size)
            tape.out("\x1b[r\x1b[H\x1b[2J")
        for row in range(1, tape.rows):
            tape.out(f"\x1b[{row};1H{row:3} \u6f22\u5b57 gr\u00fcn \U0001f30a {'.' * (tape.columns - 30)}", 1.003)
        tape.out(f"\x1b[{tape.rows};1H\x1b[1m-- INSERT --\x1b[0m\x1b[{tape.rows};{tape.columns - 9}H{tape.columns}x{tape.rows}")
        tape.look()
        tape.out("\x1b[3;8r\x1b[3;1H\x1bM\x1bMscrolled\x1b[8;1H\n\n\x1b[r\x1b[5;3H\x1b[2L\x1b[9;9H\x1b[1M\x1b[2;2H\x1b[2P\x1b[3@")
        tape.look()
    tape.out("\x1b[?25h\x1b[?1049l")
    _clear(tape)
    tape.look()


def _disputed(tape: Tape, chance: random.Random) -> None:
    for text in DISPUTED:
        data = text.encode()
        cut = chance.randrange(1, len(data))
        tape.out(b"\r\n" + data[:cut])
        tape.out(data[cut:])
    _clear(tape)


def _sequences(tape: Tape, chance: random.Random) -> None:
    """Control sequences in pieces."""
    data = b"\r\n\x1b[38;5;200mpink\x1b[0m\x1b]0;a title\x07\x1b[5Cfive"
    while data:
        cut = chance.randrange(1, 4)
        tape.out(data[:cut])
        data = data[cut:]
    tape.look()


def _resized(tape: Tape, size: tuple[int, int], chance: random.Random) -> None:
    """A new size in the middle of a character, and several in one go."""
    wave = "\U0001f30a".encode()
    tape.out(wave[:2])
    tape.resize(*chance.choice(_SIZES))
    tape.out(wave[2:])
    tape.resize(*size)
    _clear(tape)
    tape.out(f"{tape.columns}x{tape.rows}")
    tape.look()


def _marks(tape: Tape, number: int) -> None:
    """The recorder's own words, one of them within a character."""
    tape.out(b"\r\n\xe2\x82")
    tape.event({"type": "gap", "lost_us": 1000 + number, "why": "t\u00e9st"})
    tape.out(b"\xac after the gap")
    tape.event({"type": ("pause", "resume", "limit", "warning")[number % 4], "number": number})
    tape.event({"type": "exec", "argv": ["ls", "--color"]})
    tape.look()
