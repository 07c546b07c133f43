"""What tenants are told on their terminals: how long is left, and why it ended."""

from agent.expiry.live import LiveGrant
from agent.journal import EndCause
from agent.sessions import terminals

_WHY = {
    EndCause.EXPIRED: "your access has ended: its time is up",
    EndCause.REVOKED: "your access has ended: it was revoked",
}


def warn(live: LiveGrant, seconds_left: int) -> int:
    """How long is left; a second before the end, that it is now. Returns how many terminals took it."""
    minutes = f"in {seconds_left // 60} minute{'s' if seconds_left >= 120 else ''}"
    return _tell(live, f"your access ends {minutes if seconds_left >= 60 else 'now: its time is up'}")


def tell_the_end(live: LiveGrant) -> int:
    """Why it ended, just before the terminal goes. Returns how many terminals took it."""
    return _tell(live, _WHY.get(live.cause or EndCause.EXPIRED, "your access has ended"))


def _tell(live: LiveGrant, message: str) -> int:
    return terminals.tell(live.uids.values(), f"Tidegate: {message}")
