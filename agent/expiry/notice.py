"""What tenants are told on their terminals: how long is left, and why it ended."""

from collections.abc import Sequence

from agent.expiry.live import LiveGrant
from agent.journal import EndCause
from agent.sessions import terminals

_WHY = {
    EndCause.EXPIRED: "your access has ended: its time is up",
    EndCause.REVOKED: "your access has ended: it was revoked",
    EndCause.SUPERSEDED: "your access has ended: another grant took its place",
}


def warn(live: LiveGrant, seconds_left: int) -> int:
    """How long is left; a second before the end, that it is now. Returns how many terminals took it."""
    why = "now: it was revoked" if live.drain else "now: its time is up"
    minutes = f"in {seconds_left // 60} minute{'s' if seconds_left >= 120 else ''}"
    return _tell(live, f"your access ends {minutes if seconds_left >= 60 else why}")


def tell_the_end(grants: Sequence[LiveGrant]) -> int:
    """Why each of them ended, just before the terminals go. Returns how many terminals took it."""
    whys = ((live, _WHY.get(live.cause or EndCause.EXPIRED, "your access has ended")) for live in grants)
    return terminals.tell_each({uid: _worded(why) for live, why in whys for uid in live.uids.values()})


def tell_suspended(grants: Sequence[LiveGrant]) -> int:
    """Why they are shut though their time is not up, just before the terminals go."""
    why = "your access is suspended: this host has had no fresh word from who granted it; it opens again when that comes"
    return terminals.tell([uid for live in grants for uid in live.uids.values()], _worded(why))


def tell_drain(live: LiveGrant, seconds_left: int) -> int:
    """It was revoked with time to leave."""
    return _tell(live, f"your access was revoked: no new login is possible, and this session ends in {_span(seconds_left)}")


def tell_narrowed(live: LiveGrant) -> int:
    """Its grant was replaced by one that gives less, so nothing that began under the old one goes on."""
    return _tell(live, "your access was changed and this session ends now; log in again for what is granted still")


def _span(seconds: int) -> str:
    return f"{seconds // 60} minute{'s' if seconds >= 120 else ''}" if seconds >= 60 else f"{seconds} s"


def _tell(live: LiveGrant, message: str) -> int:
    return terminals.tell(live.uids.values(), _worded(message))


def _worded(message: str) -> str:
    return f"Tidegate: {message}"
