"""A grant's end, held on both clocks: whichever comes first. Pure."""

from dataclasses import dataclass, replace

from agent.host.clock import NS, Clock


@dataclass(frozen=True, slots=True)
class Deadline:
    """``wall_ns`` is the grant's ``exp``; ``boot_ns`` is the same moment on the boot clock, as it stood when the grant came in.

    A wall clock set back can't lengthen a grant (the boot clock ends it), one set forward ends it early, never late. Nor does a
    grant that waited for its beginning gain by a clock set forward and back: see :meth:`opening_now`.
    """

    wall_ns: int
    boot_ns: int
    boot_id: str

    @classmethod
    def starting_now(cls, exp_s: int, clock: Clock) -> "Deadline":
        """For a grant that has just come in and ends at ``exp_s`` (seconds since the epoch)."""
        boot_ns = clock.boot_ns()  # before the wall clock: a thread that is held up between the two ends early, never late
        return cls(exp_s * NS, boot_ns + exp_s * NS - clock.wall_ns(), clock.boot_id())

    def opening_now(self, nbf_s: int, clock: Clock) -> "Deadline":
        """For a grant of this boot that opens now: from here on no longer than from ``nbf_s`` to its end.

        It may have waited for a wall clock that was set forward and is set back again: then more than its lifetime is left on
        the boot clock.
        """
        boot_ns = clock.boot_ns()  # first, as above
        left_ns = self.wall_ns - max(clock.wall_ns(), nbf_s * NS)
        return replace(self, boot_ns=min(self.boot_ns, boot_ns + left_ns))

    def in_this_boot(self, clock: Clock, last_wall_ns: int) -> "Deadline":
        """The same deadline after a reboot: what is left of it at ``last_wall_ns``, the least that it must be by now, at most."""
        if self.boot_id == clock.boot_id():
            return self
        boot_ns = clock.boot_ns()
        return Deadline(self.wall_ns, boot_ns + self.wall_ns - max(clock.wall_ns(), last_wall_ns), clock.boot_id())

    def latest_wall_ns(self, clock: Clock) -> int:
        """What the wall clock would show had nobody set it back since this deadline was held on the boot clock."""
        return max(clock.wall_ns(), self.wall_ns - (self.boot_ns - clock.boot_ns()) if self.boot_id == clock.boot_id() else 0)

    def overdue_ns(self, clock: Clock) -> int:
        """For how long it has passed, by the clock that says more; zero when neither has reached it."""
        return max(0, clock.wall_ns() - self.wall_ns, clock.boot_ns() - self.boot_ns)

    def moved_ns(self, clock: Clock) -> int:
        """How far the wall clock was set since the two were held side by side: forward if positive."""
        boot_ns = clock.boot_ns()
        return (clock.wall_ns() - self.wall_ns) - (boot_ns - self.boot_ns)

    def passed(self, clock: Clock) -> bool:
        """Whether either clock has reached it."""
        return clock.wall_ns() >= self.wall_ns or (self.boot_id == clock.boot_id() and clock.boot_ns() >= self.boot_ns)

    def remaining_ns(self, clock: Clock) -> int:
        """Nanoseconds left by the stricter clock; zero or less once passed."""
        return min(self.wall_ns - clock.wall_ns(), self.boot_ns - clock.boot_ns())
