"""Text from outside, made safe to show on one line of a terminal, a log or an answer."""

import unicodedata

# Controls, bidirectional and other invisible formats (CVE-2021-42574), surrogates, private and unassigned, line separators.
_UNSEEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def unseen(character: str) -> bool:
    """Whether one character could move a cursor, end a line, reorder text or hide: no printable text."""
    return unicodedata.category(character) in _UNSEEN_CATEGORIES


def printable(value: str) -> str:
    """``value`` with every unseen character escaped, for a terminal. Nothing else changes, so twice is the same as once."""
    return value if value.isprintable() else "".join(map(_seen, value))  # isprintable() is the stricter


def folded(value: str) -> str:
    """Without case, width or outer space."""
    return unicodedata.normalize("NFKC", value).casefold().strip()


def same_person(one: str, other: str) -> bool:
    """Compared without case, width or outer space: a second spelling of oneself is no second person."""
    return folded(one) == folded(other)


def counted(number: int, noun: str) -> str:
    """``1 rule``, ``2 rules``: for nouns that take a plain s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def one_line(value: str, limit: int = 500) -> str:
    """``value`` with every character that could move a cursor, end a line or reorder text escaped; at most ``limit`` characters.

    A byte that was no UTF-8 in a file's name (``surrogateescape``) becomes ``\\xNN``, other escapes are Python's; a backslash is
    doubled, so no two texts look alike. A cut is shown by ``…``; it never splits an escape.
    """
    if len(value) <= limit and value.isprintable() and "\\" not in value:  # nearly every text; isprintable() is the stricter
        return value
    shown: list[str] = []
    length = 0
    for character in value:
        piece = _escaped(character)
        if length + len(piece) > limit:
            while shown and length > limit - 1:
                length -= len(shown.pop())
            shown.append("…")
            break
        shown.append(piece)
        length += len(piece)
    return "".join(shown)


def _escaped(character: str) -> str:
    return "\\\\" if character == "\\" else _seen(character)


def _seen(character: str) -> str:
    if not unseen(character):
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape's
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
