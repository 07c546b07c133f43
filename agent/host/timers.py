"""A systemd timer behind each open grant: what ends it should this daemon be dead, stopped or hung at its deadline.

Each timer is due on the wall clock and on the monotonic clock, whichever comes first, and starts the program of
:mod:`agent.host.standby`. Grants that end in the same second have one timer: a thousand processes at once would end nobody.
It is systemd's own, in memory and in /run: nothing of Tidegate has to live for it, and a reboot takes it away
(tidegate-boot.service is for that).
"""

import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from agent.errors import HostError
from agent.host.clock import rfc3339
from agent.host.dbus import PRIVATE_SOCKET, BusError, SystemdBus, Value

# After the deadline: a daemon that lives has killed by then, and is not slowed down; one that is dead is not waited for.
DELAY_NS = 25_000_000
PREFIX = "tidegate-backstop"
_NAME = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")
_EXISTS = "org.freedesktop.systemd1.UnitExists"
_SEEN_S = 5.0
_AT_ONCE = 50
_PATIENT_S = 30.0  # taking away is nobody's end: a loaded host may take its time
_TRANSIENT = Path("/run/systemd/transient")
_SYSTEMD = Path("/run/systemd/system")


class Timers(Protocol):
    """Timers by name: the seconds, on each clock, that they are for. Real below; faked in unit tests."""

    @property
    def absent(self) -> str:
        """Why this host has no such timers; empty when it has."""

    def arm(self, name: str, wall_ns: int, left_ns: int) -> str:
        """Be due at ``wall_ns`` or when ``left_ns`` have passed, whichever is first; returns the unit. One that is set stays.

        Raises:
            HostError: it does not stand.
        """

    def disarm(self, names: Collection[str]) -> None:
        """Take these away; absent is done. Raises HostError."""

    def standing(self) -> set[str]:
        """The names of those that are set, whoever set them; none where that can't be seen."""


class SystemdTimers:
    """Transient timer units (systemd.timer(5)), made over systemd's private socket. Thread-safe: each call has a connection."""

    def __init__(self, socket: Path = PRIVATE_SOCKET, systemd: Path = _SYSTEMD, transient: Path = _TRANSIENT) -> None:
        self._socket = socket
        self._transient = transient
        self._systemd = systemd
        self._armed: set[str] = set()  # by this process, and not taken away since

    @property
    def absent(self) -> str:
        """See :class:`Timers`."""
        return "" if self._systemd.is_dir() else "systemd is not PID 1, so no timer stands behind the agent"

    def arm(self, name: str, wall_ns: int, left_ns: int) -> str:
        """See :class:`Timers`. The monotonic clock stands still in suspend; the program itself looks at the boot clock.

        One that was seen active stands as long as systemd has its file: grants that end together ask for it a thousand times.
        """
        unit = timer_unit(name)
        if name in self._armed and (self._transient / unit).exists():
            return unit
        with SystemdBus(self._socket) as bus:
            until = time.monotonic() + _SEEN_S
            _start(bus, unit, wall_ns, left_ns)
            while (state := bus.state(unit)) != "active":  # the call only queues the job; one that is being stopped goes first
                if time.monotonic() > until:
                    raise HostError("timer_refused", f"{unit} is {state or 'not there'} instead of active")
                if state != "activating":
                    _start(bus, unit, wall_ns, left_ns)
        self._armed.add(name)
        return unit

    def disarm(self, names: Collection[str]) -> None:
        """See :class:`Timers`."""
        left = [] if self.absent else sorted(names)
        self._armed.difference_update(left)
        while left:
            batch, left = left[:_AT_ONCE], left[_AT_ONCE:]
            with SystemdBus(self._socket, _PATIENT_S) as bus:  # each batch with a time limit of its own
                for name in batch:
                    try:
                        bus.call("StopUnit", "ss", timer_unit(name), "replace")
                    except BusError as error:
                        if not error.name.endswith(".NoSuchUnit"):
                            raise

    def standing(self) -> set[str]:
        """See :class:`Timers`."""
        found = (_NAME.fullmatch(path.stem.partition("@")[2]) for path in self._transient.glob(f"{PREFIX}@*.timer"))
        return {match[0] for match in found if match}


def timer_unit(name: str) -> str:
    """The unit's name."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a timer's name: {name!r}")
    return f"{PREFIX}@{name}.timer"  # of which systemd starts the service of the same name, an instance of our template


def properties(wall_ns: int, left_ns: int) -> list[Value]:
    """Of the timer, as StartTransientUnit takes them. Pure."""
    at_ns = wall_ns + DELAY_NS
    calendar = rfc3339(at_ns).replace("T", " ").replace("Z", " UTC")
    left_us = max(1, left_ns + DELAY_NS) // 1000
    return [
        ("Description", ("s", "Tidegate: ends a grant should tidegated not")),
        ("TimersCalendar", ("a(ss)", [("OnCalendar", calendar)])),
        ("TimersMonotonic", ("a(st)", [("OnActiveSec", left_us)])),
        ("AccuracyUSec", ("t", 1)),
        ("RemainAfterElapse", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]


def _start(bus: SystemdBus, unit: str, wall_ns: int, left_ns: int) -> None:
    try:
        bus.call("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", properties(wall_ns, left_ns), [])
    except BusError as error:
        if error.name != _EXISTS:
            raise
        time.sleep(0.001)
