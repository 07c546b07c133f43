"""What stands behind a live grant should the agent be dead, stopped or hung at its deadline: a timer of systemd's.

The other backstops (expiry-time, NOTAFTER, TIMEOUT) stand in the files that a grant makes; each step says its own.
"""

import logging
import threading
from collections.abc import Sequence

from agent.errors import JournalError, TidegateError, UnenforceableError
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.host.clock import NS, Clock
from agent.host.timers import Timers
from agent.journal import Journal
from agent.model import Json

log = logging.getLogger("tidegate")
NOTE = "backstops"


class Behind:
    """Arms a timer before a grant's first step, and takes it away after its end. Thread-safe.

    ``word`` is the configuration's: ``required`` opens nothing without its timer, ``best-effort`` says in the receipt that there
    is none, ``auto`` is the first where systemd is PID 1 and the second where it is not.
    """

    def __init__(self, word: str, timers: Timers, journal: Journal, ledger: Ledger, clock: Clock) -> None:
        self._lock = threading.Lock()  # or one thread would take away the timer that another has just found standing
        self._ledger = ledger
        self._word = word
        self._timers = timers
        self._journal = journal
        self._clock = clock

    def arm(self, live: LiveGrant) -> None:
        """Have the timer stand, and note which one; nothing of the grant is open yet.

        Raises:
            UnenforceableError: ``backstop_unavailable``: it does not stand, and it has to.
        """
        absent = self._timers.absent
        trouble = absent or self._set(live)
        if trouble and (self._word == "required" or (self._word == "auto" and not absent)):
            raise UnenforceableError("backstop_unavailable", f"no timer stands behind the grant: {trouble}")
        self._note(live, trouble)

    def arm_again(self, live: LiveGrant) -> None:
        """For one that stands open: never raises, since without a timer the daemon is still there to end it."""
        absent = self._timers.absent
        trouble = absent or self._set(live)
        if trouble and not absent:
            log.error("grant %s has no timer behind it: %s", live.record.jti, trouble)
        self._note(live, trouble)

    def disarm(self, ended: Sequence[LiveGrant]) -> None:
        """These are over. Never raises: a timer that stays finds nothing to do.

        A start that was killed may have set one for the same second of the wall clock and another of the boot clock: it goes too.
        """
        try:
            with self._lock:
                over, mine = {_name(live) for live in ended}, {live.id for live in ended}
                seconds = {live.deadline.wall_ns // NS for live in ended}
                others = (live for live in self._ledger.all() if live.deadline.wall_ns // NS in seconds)
                needed = {_name(live) for live in others if live.id not in mine}
                stale = {name for name in self._timers.standing() if int(name.partition("-")[0]) in seconds}
                self._timers.disarm((over | stale) - needed)
        except TidegateError as error:
            log.warning("timers of ended grants stay until they are due: %s", error)

    def tidy(self) -> None:
        """At a start: take away the timers of no live grant, and of a killed try. Never raises; only the one who arms may call."""
        try:
            with self._lock:
                self._timers.disarm(self._timers.standing() - {_name(live) for live in self._ledger.all()})
        except TidegateError as error:
            log.warning("timers of no grant stay until they are due: %s", error)

    def _set(self, live: LiveGrant) -> str:
        """Why it does not stand; empty when it does."""
        try:
            with self._lock:
                self._timers.arm(_name(live), live.deadline.wall_ns, live.deadline.remaining_ns(self._clock))
        except TidegateError as error:
            return str(error)
        return ""

    def _note(self, live: LiveGrant, trouble: str) -> None:
        stood = [] if trouble else ["a systemd timer runs the teardown should tidegated not"]
        note: Json = {"stood": [*stood], "absent": [f"no timer: {trouble}"] if trouble else []}
        if live.notes.get(NOTE) == note:
            return
        live.notes[NOTE] = note
        try:
            self._journal.note(live.id, NOTE, note)
        except JournalError as error:
            log.error("the backstops of grant %s could not be noted: %s", live.record.jti, error)


def armed(live: LiveGrant) -> bool:
    """Whether a timer was last seen to stand behind it."""
    note = live.notes.get(NOTE)
    return isinstance(note, dict) and bool(note.get("stood"))


def _name(live: LiveGrant) -> str:
    """Grants that end together, on both clocks, have one timer; after a clock was set they may end together on one only."""
    return f"{live.deadline.wall_ns // NS}-{max(0, live.deadline.boot_ns) // NS}"
