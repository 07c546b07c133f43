"""The steps of a live grant as the journal had them at start: text, until somebody needs the steps themselves.

Reading ten thousand grants' steps takes a second in which nobody is ended; looking whether a word is in them does not.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

from agent.journal.records import step_of
from agent.model import Step

NumberedStep: TypeAlias = tuple[int, Step]
_reading = threading.Lock()  # one for all: steps are told apart by identity while they are undone, so they are read once


class KeptSteps(Sequence[NumberedStep]):
    """``(seq, step)`` in the order applied. Thread-safe; reading never fails (see :func:`agent.journal.records.step_of`)."""

    __slots__ = ("_count", "_steps", "_texts")

    def __init__(self, texts: Sequence[tuple[int, str]]) -> None:
        self._texts: Sequence[tuple[int, str]] = texts
        self._steps: list[NumberedStep] | None = None
        self._count = len(texts)

    def may_say(self, name: str) -> bool:
        """False: no step has a member of that name. Each is written by ``json.dumps``, which never escapes an ASCII name."""
        word = f'"{name}"'
        return any(word in text for _, text in self._texts)

    def _read(self) -> list[NumberedStep]:
        if self._steps is None:
            with _reading:
                if self._steps is None:
                    self._steps = [(seq, step_of(text)) for seq, text in self._texts]
        return self._steps

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> NumberedStep: ...
    @overload
    def __getitem__(self, index: slice) -> list[NumberedStep]: ...
    def __getitem__(self, index: int | slice) -> NumberedStep | list[NumberedStep]:
        return self._read()[index]

    def __iter__(self) -> Iterator[NumberedStep]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list has none


def read(steps: Sequence[NumberedStep]) -> None:
    """Read them now, so that nobody waits for it later."""
    for _ in steps:
        return


def may_say(steps: Sequence[NumberedStep], name: str) -> bool:
    """Whether any step may have a member of that name; steps that are read already are for the caller to look at."""
    return not isinstance(steps, KeptSteps) or steps.may_say(name)
