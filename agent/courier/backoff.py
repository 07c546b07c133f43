"""How long to wait before the next try: exponential with full jitter, capped, so that a fleet never comes back as one."""

import os
from collections.abc import Callable

BASE_S = 0.5
CAP_S = 60.0
STABLE_S = 60.0  # a connection that stood so long was a good one
_LEAST_S = 0.05  # no draw makes it a loop without a pause


class Backoff:
    """One chain of tries. ``draw`` gives a number from 0 to 1."""

    def __init__(self, base_s: float = BASE_S, cap_s: float = CAP_S, draw: Callable[[], float] | None = None) -> None:
        self._base, self._cap = base_s, cap_s
        self._draw = draw if draw is not None else _drawn
        self._failures = 0

    def failed(self, stood_s: float = 0.0) -> float:
        """Seconds to wait now; ``stood_s``: how long it had been good until it failed."""
        if stood_s >= STABLE_S:
            self._failures = 0
        most = min(self._cap, self._base * 2.0**self._failures)
        self._failures = min(self._failures + 1, 32)
        return max(_LEAST_S, most * self._draw())

    def worked(self) -> None:
        """It went well: the next failure is the first again."""
        self._failures = 0


def _drawn() -> float:
    return int.from_bytes(os.urandom(4), "big") / 0xFFFFFFFF
