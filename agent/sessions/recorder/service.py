"""The recorder as a whole: puts the parts together, and does what is to be done every second and every ten."""

import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.sessions.recorder.door import Door, listener
from agent.sessions.recorder.keeping import LISTENER, Notify, handed_over
from agent.sessions.recorder.loop import IN, Loop
from agent.sessions.recorder.opening import Opening, Rules
from agent.sessions.recorder.port import Port
from agent.sessions.recorder.resuming import finish_left_over, resume
from agent.sessions.recorder.sealing import SEAL_S, Sealing
from agent.sessions.recorder.session import Parts, Session
from agent.sessions.recorder.store import Store
from agent.sessions.recorder.syncing import SYNC_S, Syncing
from agent.sessions.recorder.tape import Tape
from agent.sessions.recorder.windows import Windows

log = logging.getLogger("tidegate")
_TIDY_S = 60.0
_STUCK_S = 10.0
_DISK = "the disk does not answer"


@dataclass(frozen=True, slots=True)
class Places:
    """``quota`` in bytes for all recordings; ``rules`` says where tenants are and how much one may have."""

    socket: Path
    sessions: Path
    port: Path
    quota: int
    keep_days: float
    rules: Rules
    shipped: Path | None = None


class Service:
    """One recorder, from its start to its end."""

    def __init__(self, places: Places, environ: Mapping[str, str]) -> None:
        self._places = places
        self.loop = loop = Loop()
        live: dict[str, Session] = {}
        store = Store(places.sessions, live, quota=places.quota, keep_days=places.keep_days, shipped=places.shipped)
        self._syncing = Syncing(loop)
        port = Port(loop, places.port)
        sealing = Sealing(loop, port, store, self._syncing)
        self.parts = Parts(loop, port, store, sealing, Windows(), Notify(environ.get("NOTIFY_SOCKET")), live)
        self._watchdog_s = int(environ.get("WATCHDOG_USEC") or "0") / 2e6
        self._handed = handed_over(environ)
        self._bell, bell = socket.socketpair()
        for end in (self._bell, bell):
            end.setblocking(False)
        self._bell_in = bell
        self._door: Door | None = None
        self._beating: set[float] = set()

    def run(self) -> None:
        """Serve until SIGTERM. Raises OSError where the socket or the folder is no good."""
        parts, loop = self.parts, self.loop
        _limits()
        self._syncing.start()
        parts.store.tidy()
        resume(parts, self._handed, self._places.rules.cap)
        finish_left_over(parts, self._places.rules.cap)
        if LISTENER in self._handed:
            served = socket.socket(fileno=self._handed[LISTENER])
            served.setblocking(False)
        else:
            served = listener(self._places.socket)
            parts.notify.keep(LISTENER, served.fileno())
        self._door = Door(loop, served, Opening(parts, self._places.rules))
        self._door.open()
        self._signals()
        self._every(_TIDY_S, parts.store.tidy)
        parts.begun = self._beat
        self._beat()  # for what was gone on with, or is still to be ended
        if self._watchdog_s:
            self._every(self._watchdog_s, lambda: parts.notify.tell("WATCHDOG=1"))
        gc.collect()
        gc.freeze()
        parts.notify.tell("READY=1")
        log.info("recording: %d sessions are gone on with", len(parts.live))
        loop.run()
        self._stop()

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        def again() -> None:
            self.loop.after(seconds, again)
            work()

        self.loop.after(seconds, again)

    def _beat(self) -> None:
        """Sync every second and seal every ten for as long as there is something to: with no session the recorder sleeps."""
        for seconds, work in ((SYNC_S, self._sync), (SEAL_S, self._seal)):
            if self._tapes() and seconds not in self._beating:
                self._beating.add(seconds)
                self.loop.after(seconds, lambda seconds=seconds, work=work: self._beaten(seconds, work))  # type: ignore[misc]

    def _beaten(self, seconds: float, work: Callable[[], object]) -> None:
        self._beating.discard(seconds)
        try:
            work()
        finally:
            self._beat()

    def _signals(self) -> None:
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self.loop.watch(self._bell_in.fileno(), IN, lambda _events: self._bell_in.recv(64) and None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.loop.stop())

    def _tapes(self) -> list[Tape]:
        running = [session.tape for session in self.parts.live.values()]
        return running + [job.tape for job in self.parts.sealing.finishing.values()]

    def _sync(self) -> None:
        self._syncing.sync(self._tapes())
        if self._syncing.stuck_s() > _STUCK_S:
            for session in list(self.parts.live.values()):
                if session.tape.dirty:
                    session.tape.fail(_DISK)

    def _seal(self) -> None:
        self.parts.sealing.seal(session.job for session in self.parts.live.values())

    def _stop(self) -> None:
        """Leave the sessions to the next recorder, or end them where there is none to come."""
        parts = self.parts
        parts.notify.tell("STOPPING=1")
        if self._door:
            self._door.close()
        kept = bool(parts.notify)
        for session in list(parts.live.values()):
            if kept:
                session.keep()
            else:
                session.say("the recorder stops")
                session.end("the recorder was stopped")
        for tape in self._tapes():
            tape.flush()
        self._syncing.sync(self._tapes())
        self._syncing.stop()
        log.info("stopped: %d sessions are left to the next start", len(parts.live) if kept else 0)
        parts.windows.stop()


def _limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0o027)
