"""A grant's end, held on both clocks: whichever comes first. Pure."""

from dataclasses import dataclass

from agent.host.clock import NS, Clock


@dataclass(frozen=True, slots=True)
class Deadline:
    """``wall_ns`` is the grant's ``exp``; ``boot_ns`` is the same moment on the boot clock, as it stood when the grant came in.

    A wall clock set back can't lengthen a grant (the boot clock ends it), one set forward ends it early, never late.
    """

    wall_ns: int
    boot_ns: int
    boot_id: str

    @classmethod
    def starting_now(cls, exp_s: int, clock: Clock) -> "Deadline":
        """For a grant that has just come in and ends at ``exp_s`` (seconds since the epoch)."""
        boot_ns = clock.boot_ns()  # before the wall clock: a thread that is held up between the two ends early, never late
        return cls(exp_s * NS, boot_ns + exp_s * NS - clock.wall_ns(), clock.boot_id())

    def in_this_boot(self, clock: Clock, last_wall_ns: int) -> "Deadline":
        """The same deadline after a reboot: what was left at ``last_wall_ns``, the latest wall time ever seen, at most."""
        if self.boot_id == clock.boot_id():
            return self
        boot_ns = clock.boot_ns()
        return Deadline(self.wall_ns, boot_ns + self.wall_ns - max(clock.wall_ns(), last_wall_ns), clock.boot_id())

    def latest_wall_ns(self, clock: Clock) -> int:
        """What the wall clock would show had nobody set it back since this deadline was held on the boot clock."""
        return max(clock.wall_ns(), self.wall_ns - (self.boot_ns - clock.boot_ns()) if self.boot_id == clock.boot_id() else 0)

    def passed(self, clock: Clock) -> bool:
        """Whether either clock has reached it."""
        return clock.wall_ns() >= self.wall_ns or (self.boot_id == clock.boot_id() and clock.boot_ns() >= self.boot_ns)

    def remaining_ns(self, clock: Clock) -> int:
        """Nanoseconds left by the stricter clock; zero or less once passed."""
        return min(self.wall_ns - clock.wall_ns(), self.boot_ns - clock.boot_ns())
