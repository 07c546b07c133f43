"""What is known of the recordings of a grant: each seal that this host has put under one, for its receipt."""

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from agent.errors import JournalError, UnenforceableError
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.host.clock import NS, Clock
from agent.journal import Journal
from agent.model import Json
from agent.trust import HostKey

log = logging.getLogger("tidegate")
NOTE = "recordings"
SEAL_TYP = "recording-seal+jwt"
_LISTED_MAX = 1000
_SETTLE_S = 2.0
_LOOK_S = 0.01
_FORMER_S = 60.0


@dataclass(frozen=True, slots=True)
class Seal:
    """Where one recording stood: so many blocks, ``head`` their chain's value (hex), ``size`` in bytes. ``final``: it is over."""

    recording: str
    seq: int
    head: str
    size: int
    final: bool


class Recordings:
    """Signs the recorder's statements about recordings of live grants, and remembers the last one of each. Thread-safe."""

    def __init__(self, host_id: str, clock: Clock, key: HostKey, journal: Journal, ledger: Ledger) -> None:
        self._host_id = host_id
        self._clock = clock
        self._key = key
        self._journal = journal
        self._ledger = ledger
        self._lock = threading.Lock()
        self._running: dict[int, dict[str, int]] = {}  # uid → recordings that are not over, each with its session's first process
        self._former: dict[int, float] = {}  # uid whose grant has ended → until when its last seals are taken

    def of(self, pids: Collection[int]) -> str | None:
        """The recording of a session, by the process that asked for it; None while none is known."""
        with self._lock:
            return next((name for running in self._running.values() for name, pid in running.items() if pid in pids), None)

    def running(self) -> int:
        """How many recordings of live grants are not over."""
        with self._lock:
            return sum(map(len, self._running.values()))

    def seal(self, uid: int, pid: int, jti: str, seal: Seal) -> str:
        """The seal, signed by this host's key: a compact JWS. ``pid`` is the session's first process.

        Raises:
            UnenforceableError: ``no_grant``: this uid is no tenant's now.
        """
        live = self._live(uid)
        claims: dict[str, object] = {
            "iss": self._host_id,
            "iat": self._clock.wall_ns() // NS,
            "recording": seal.recording,
            "jti": jti,
            "seq": seal.seq,
            "head": seal.head,
            "bytes": seal.size,
            "final": seal.final,
        }
        jws = self._key.sign(SEAL_TYP, claims)
        with self._lock:
            running = self._running.setdefault(uid, {})
            if seal.final:
                running.pop(seal.recording, None)
            else:
                running[seal.recording] = pid
            if live is not None:
                self._note(live, seal)
        return jws

    def settle(self, grants: Collection[LiveGrant]) -> None:
        """Wait, for a moment, until the recorder has sealed the last of what these grants' sessions left; never raises."""
        uids = {uid for live in grants for uid in live.tenants}
        self._wait(lambda: not any(self._running.get(uid) for uid in uids))
        with self._lock:
            now = time.monotonic()
            self._former = {uid: until for uid, until in self._former.items() if until > now} | dict.fromkeys(uids, now + _FORMER_S)
            for uid in uids:
                self._running.pop(uid, None)

    def _wait(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + _SETTLE_S
        while not done() and time.monotonic() < end:
            time.sleep(_LOOK_S)

    def _live(self, uid: int) -> LiveGrant | None:
        """Whose it is; one grant may have taken another's place since the recording began. None shortly after the end."""
        live = self._ledger.by_uid().get(uid)
        if live is None and self._former.get(uid, 0.0) <= time.monotonic():
            raise UnenforceableError("no_grant", f"uid {uid} is no tenant's now")
        return live

    def _note(self, live: LiveGrant, seal: Seal) -> None:
        noted = live.notes.get(NOTE)
        found: dict[str, Json] = dict(noted) if isinstance(noted, dict) else {}
        new = seal.recording not in found
        if new and len(found) >= _LISTED_MAX:
            return
        found[seal.recording] = {"blocks": seal.seq + 1, "head": seal.head, "bytes": seal.size, "whole": seal.final}
        live.notes[NOTE] = found
        if not new and not seal.final:
            return  # written down at its begin and its end: a start in between finds the recording's own seals
        try:
            self._journal.note(live.id, NOTE, found)
        except JournalError as error:
            log.error("the recordings of grant %s could not be noted: %s", live.record.jti, error)


def listed(live: LiveGrant) -> list[Json]:
    """For the receipt: each recording with the last seal's chain value; ``whole`` once it was sealed to its end."""
    noted = live.notes.get(NOTE)
    if not isinstance(noted, dict):
        return []
    return [{"recording": name, **value} for name, value in sorted(noted.items()) if isinstance(value, dict)]
