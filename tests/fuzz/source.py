"""Bytes as a source of decisions: what a structured fuzzer takes its choices, numbers and texts from."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

# What has meant something to somebody: shells, sudo, sshd, YAML, tar, terminals, Unicode.
ODD = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "\r",
        "\0",
        "\x1b[2J",
        "\x9b",
        "\x7f",
        "\\",
        "\\\n",
        "'",
        '"',
        '""',
        "#",
        "#0",
        "%sudo",
        "!",
        "*",
        "?",
        "[a]",
    ),
    *(
        "ALL",
        "ALL=(ALL)",
        "NOPASSWD:",
        "Defaults !authenticate",
        ", ALL",
        ",",
        ":",
        "=",
        "^",
        "^.*$",
        "~",
        "$(id)",
        "`id`",
        "..",
        "/../",
    ),
    *(
        "sudoedit",
        "/usr/bin/sudoedit",
        "@include /etc/x",
        "#include /etc/x",
        "command=",
        'command="x"',
        "cert-authority",
        "restrict",
    ),
    *(
        "no-pty",
        "from=",
        "\u202e",
        "\u2028",
        "\ufeff",
        "\ud800",
        "\udc80",
        "é",
        "\U0001f600",
        "0",
        "-1",
        "70000",
        str(1 << 63),
        "NaN",
    ),
)


class Source:
    """Reads from the front; once it is empty everything is zero, empty or the first choice, so every input means something."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """At most so many bytes."""
        found = self._data[self._at : self._at + size]
        self._at += len(found)
        return found

    def number(self, most: int) -> int:
        """0 to ``most``."""
        size = max(1, (most.bit_length() + 7) // 8)
        return int.from_bytes(self.take(size), "big") % (most + 1)

    def flag(self) -> bool:
        """One bit, for the price of a byte."""
        return bool(self.number(1))

    def choice(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[self.number(len(choices) - 1)]

    def bytes_of(self, most: int) -> bytes:
        """A length, then so many bytes."""
        return self.take(self.number(most))

    def text(self, most: int = 40) -> str:
        """Any text, lone surrogates (as in names of files) included; sometimes with an odd piece in it."""
        found = self.bytes_of(most).decode("utf-8", "surrogateescape")
        return found + self.choice(ODD) if self.number(7) == 1 else found

    def mostly(self, good: Sequence[str], most: int = 40) -> str:
        """Mostly one of these, so that what comes after is reached too; else any text, or one of these and any text."""
        kind = self.number(7)
        if kind == 1:
            return self.text(most)
        return self.choice(good) + (self.text(8) if kind == 2 else "")
