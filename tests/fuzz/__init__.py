"""Fuzzers: one file a target, coverage-guided by atheris under ``make fuzz``, their seeds replayed by the unit tests.

A target is a module ``fuzz_NAME`` with ``check(data)``: it hands the bytes to one boundary of Tidegate and raises on anything
but what that boundary promises. Only documented errors may come out; what is accepted must mean exactly what was asked. Its
seeds, and every input that once failed, lie in ``seeds/NAME/``. Nothing here needs atheris but :mod:`tests.fuzz.one`.
"""

import importlib
from pathlib import Path
from typing import Protocol, cast

SEEDS = Path(__file__).with_name("seeds")


class Target(Protocol):
    """What a ``fuzz_NAME`` module has. ``MAX_LEN``: bytes of the longest input; ``WORDS``: pieces worth trying."""

    MAX_LEN: int
    WORDS: tuple[str, ...]

    def check(self, data: bytes) -> None:
        """Raises on anything that is not promised."""


def names() -> list[str]:
    """Every target, by its file."""
    return sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))


def target(name: str) -> Target:
    """The module of that target."""
    return cast(Target, importlib.import_module(f"tests.fuzz.fuzz_{name}"))
