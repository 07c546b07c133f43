"""The name service's answers within one decision: each question is asked once. Every look at it may wait for systemd."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


class Looking(threading.local):
    """Of each thread by itself; outside of :meth:`once` nothing is remembered."""

    _answers: dict[tuple[object, ...], object] | None = None

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """From here to the end of the block; one within another is one."""
        if self._answers is not None:
            yield
            return
        self._answers = {}
        try:
            yield
        finally:
            self._answers = None

    def asked(self, ask: Callable[..., _T], *about: object) -> _T:
        """``ask(*about)``, or what it said before within the same block. What it raises is not remembered."""
        if self._answers is None:
            return ask(*about)
        key = (ask, *about)
        if key not in self._answers:
            self._answers[key] = ask(*about)
        return self._answers[key]  # type: ignore[return-value]  # of the same function
