"""The courier as a whole: waits for what it needs, runs three threads, and starts itself anew when what it stands on changes."""

import contextlib
import hashlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping

from agent.config import Config
from agent.courier import transports
from agent.courier.events import Events
from agent.courier.identity import settle
from agent.courier.places import Places
from agent.courier.receiving import Drop, Receiver
from agent.courier.recordings import Marks, Shipper
from agent.courier.records import Outgoing, Sender
from agent.courier.renewal import Renewal
from agent.courier.settings import Settings, load_settings
from agent.courier.state import CursorFile
from agent.courier.status import Status
from agent.courier.transport import Transport
from agent.courier.waiting import Bell, News
from agent.errors import ConfigError, HostError, TidegateError
from agent.host.files import clear_unfinished, read_bounded
from agent.host.service import tell_systemd

_SETTLE_S = 0.2  # an editor writes more than once
_JOIN_S = 1.0
_FILE_MAX = 256 * 1024
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
log = logging.getLogger("tidegate.courier")


class Service:
    """One courier, from its start to its end or its new start."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._places = Places.of(config.paths)
        self._stop = threading.Event()
        self._anew = False
        self._signal = 0
        self._bell = Bell()  # of the main thread; rung by signals and by the status
        self._bells = [Bell() for _ in range(3)]
        self._watchdog_s = int(environ.get("WATCHDOG_USEC") or "0") / 3e6
        self._threads: list[threading.Thread] = []
        self._transport: Transport | None = None
        self._status = self._new_status(Settings())

    def run(self) -> bool:
        """Until SIGTERM (False), or until it is to start anew (True). Raises HostError where a folder of its own is missing."""
        self._signals()
        with News(self._bell, {self._places.settings.parent, self._places.folder}) as news:
            clear_unfinished(self._places.folder)
            settle(self._places)
            seen = self._seen()
            self._begin()
            tell_systemd("READY=1")
            self._wait(news, seen)
        tell_systemd("RELOADING=1" if self._anew else "STOPPING=1")
        self._end()
        return self._anew

    # Waiting

    def _wait(self, news: News, seen: bytes) -> None:
        beat = 0.0
        while not self._stop.is_set():
            again = self._status.write()
            now = time.monotonic()
            if self._watchdog_s and now >= beat:
                tell_systemd("WATCHDOG=1")
                beat = now + self._watchdog_s
            timeout = min(again or 3600.0, (beat - now) if self._watchdog_s else 3600.0)
            names = news.wait(max(0.0, timeout))
            self._obey()
            if any(not thread.is_alive() for thread in self._threads) and not self._stop.is_set():
                raise HostError("courier_thread", "a thread of the courier has ended: see the traceback above")
            if (names is None or names & self._watched()) and not self._stop.is_set():
                time.sleep(_SETTLE_S)
                self._changed(seen)

    def _watched(self) -> set[str]:
        places = self._places
        return {path.name for path in (places.settings, places.key, places.certificate, places.ca)}

    def _changed(self, seen: bytes) -> None:
        """A good file that says something else is a reason to start anew; a bad one is told, and the old one stays in force."""
        now = self._seen()
        if now == seen:
            self._status.problem("courier.yaml", "")
            return
        if self._threads:
            try:
                load_settings(self._places.settings)
            except ConfigError as error:
                self._status.problem("courier.yaml", f"{error}; what was read before stays in force")
                return
        self._start_anew("what it stands on has changed")

    def _seen(self) -> bytes:
        digest = hashlib.sha256()
        for path in (self._places.settings, self._places.certificate, self._places.ca):
            with contextlib.suppress(HostError):
                digest.update(repr(read_bounded(path, _FILE_MAX)).encode())
        return digest.digest()

    def _start_anew(self, why: str) -> None:
        log.info("%s: starting anew", why)
        self._anew = True
        self._stop_all()

    # Beginning and ending

    def _begin(self) -> None:
        """Start the threads, or say what is waited for."""
        places = self._places
        try:
            settings = load_settings(places.settings)
            self._status = status = self._new_status(settings)
            missing = transports.awaits(settings, places)
            if missing:
                raise ConfigError("not_enrolled", missing, path=places.settings)
            self._transport = transport = transports.connect(settings, places, status.up)
        except ConfigError as error:
            self._status.problem("waits", str(error))
            tell_systemd("STATUS=waiting: " + str(error)[:200].replace("\n", " "))
            return
        receiving, sending, shipping = self._bells
        drop = Drop(places.inbox, settings.limits)
        cursor = CursorFile(places.folder / "cursor.json")
        events = Events(places.outbox, places.folder / "events.json", status.lost)
        renewal = Renewal(transports.Renewing(settings, places, transport), places, status)
        workers: dict[str, Callable[[], None]] = {
            "receive": Receiver(transport, drop, cursor, status, settings.limits, self._stop, receiving).run,
            "records": Sender(
                transport, Outgoing(places.outbox, events, status), places.outbox, status, self._stop, sending, renewal.between
            ).run,
            "recordings": Shipper(transport, places.sessions, Marks(places.shipped), status, self._stop, shipping).run,
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the threads inherit that: signals come to this one, and wake it
        for name, work in workers.items():
            thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("a fault in the courier")
        finally:
            self._bell.ring()

    def _end(self) -> None:
        until = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._status.write(force=True)

    def _stop_all(self) -> None:
        self._stop.set()
        for bell in (self._bell, *self._bells):
            bell.ring()
        if self._transport is not None:
            with contextlib.suppress(TidegateError, OSError):
                self._transport.close()

    def _signals(self) -> None:
        """A handler runs between any two lines of this thread, which may hold a lock: it notes and rings, no more."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: object) -> None:
        self._signal = number
        self._bell.ring()

    def _obey(self) -> None:
        number, self._signal = self._signal, 0
        if number == signal.SIGHUP:
            self._start_anew("SIGHUP")
        elif number:
            self._stop_all()

    def _new_status(self, settings: Settings) -> Status:
        where = settings.url.url if settings.url else ", ".join(settings.nats.servers) if settings.nats else ""
        return Status(self._places.status, self._places.folder, settings.transport, where, self._bell.ring)


def refuse_root() -> str:
    """Why it must not go on; empty when nothing is wrong."""
    return "must not be run by root: it is the one part with a network" if 0 in {os.geteuid(), os.getuid(), os.getegid()} else ""
