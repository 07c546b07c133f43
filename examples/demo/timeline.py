"""What happened when, in milliseconds against the deadline T; printed as it goes, kept for the JSON at the end."""

import sys
import time
from dataclasses import dataclass, field

MS = 1_000_000


@dataclass(slots=True)
class Timeline:
    """``deadline_ns`` (wall clock) is set once the grant is signed; lines before it are against the start.

    ``moments`` are those of alice's access, by name, in milliseconds against T: what examples.demo.picture draws.
    """

    quiet: bool = False
    deadline_ns: int = 0
    steps: list[dict[str, object]] = field(default_factory=list)
    moments: dict[str, float] = field(default_factory=dict)

    def against(self, at_ns: int) -> float:
        """Milliseconds after T (before it: negative)."""
        return round((at_ns - self.deadline_ns) / MS, 1)

    def say(self, what: str, *, ok: bool = True, at_ns: int | None = None, moment: str = "") -> None:
        """One line now, or at the moment it was measured; one that held is kept as that ``moment`` of alice's access too."""
        at_ms = self.against(at_ns if at_ns is not None else time.time_ns())
        if moment and ok:
            self.moments[moment] = at_ms
        self.steps.append({"at_ms": at_ms, "what": what, "ok": ok})
        self._print(f"  T{at_ms / 1000:+10.3f} s  {'ok  ' if ok else 'FAIL'}  {what}")

    def title(self, text: str) -> None:
        """A heading, not a step."""
        self._print(text)

    @property
    def passed(self) -> bool:
        """Whether every line held."""
        return all(step["ok"] for step in self.steps)

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr if self.quiet else sys.stdout, flush=True)
