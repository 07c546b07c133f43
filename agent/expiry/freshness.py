"""How fresh each issuer's word is: the age of its latest bulletin, held on both clocks and across restarts.

A bulletin counts from when it was issued, never from when it came; a wall clock set back makes nothing younger, since the boot
clock goes on; after a reboot the latest wall time ever seen counts. Only a bulletin with a higher ``seq`` makes anything fresher.
"""

import threading
from dataclasses import dataclass, field, replace

from agent.expiry.deadline import Deadline
from agent.host.clock import NS, Clock
from agent.journal.records import HeldBulletin
from agent.model import Bulletin


@dataclass(slots=True)
class Freshness:
    """The latest bulletin of each issuer, in memory. Thread-safe; the journal keeps them (:class:`agent.journal.orders.Orders`)."""

    clock: Clock
    _held: dict[str, HeldBulletin] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, found: list[HeldBulletin], last_wall_ns: int) -> list[HeldBulletin]:
        """At start: take them over; returns those of an earlier boot, now on this one's clock, for the journal."""
        moved = []
        for held in found:
            now = held
            if held.boot_id != self.clock.boot_id():
                wall_ns = max(self.clock.wall_ns(), last_wall_ns, held.wall_ns)
                now = replace(held, wall_ns=wall_ns, boot_id=self.clock.boot_id(), boot_ns=self.clock.boot_ns())
                moved.append(now)
            self.take(now)
        return moved

    def moment(self, bulletin: Bulletin) -> HeldBulletin:
        """A bulletin that has just come, with the moment on both clocks."""
        boot_ns = self.clock.boot_ns()  # before the wall clock: a thread held up between the two makes it older, never younger
        return HeldBulletin(
            bulletin.iss, bulletin.seq, bulletin.iat, bulletin.exp, self.clock.wall_ns(), self.clock.boot_id(), boot_ns
        )

    def take(self, held: HeldBulletin) -> None:
        """It is in the journal: from here on it counts. An older one than is held changes nothing."""
        with self._lock:
            before = self._held.get(held.iss)
            if before is None or held.seq >= before.seq:
                self._held[held.iss] = held

    def all(self) -> list[HeldBulletin]:
        """The latest of each issuer."""
        with self._lock:
            return list(self._held.values())

    def until(self, iss: str, within_s: int) -> Deadline | None:
        """Until when the issuer's word is fresh for whom it may be that old; None when it never said any."""
        with self._lock:
            held = self._held.get(iss)
        if held is None:
            return None
        issued_ns = min(held.iat * NS, held.wall_ns)  # a signer's clock that is ahead of ours gains nothing by it
        wall_ns = min(held.exp * NS, issued_ns + within_s * NS)
        return Deadline(wall_ns, held.boot_ns + wall_ns - held.wall_ns, held.boot_id)

    def holds(self, iss: str, within_s: int | None) -> bool:
        """Whether a grant of that issuer may stand open now; one that needs no bulletin (None) always may."""
        if within_s is None:
            return True
        until = self.until(iss, within_s)
        return until is not None and not until.passed(self.clock)
