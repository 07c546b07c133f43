"""The two clocks a deadline is held against, and one timer for both.

CLOCK_REALTIME is what grants are written in and can be stepped; CLOCK_BOOTTIME runs through suspend and can't. asyncio's own
``call_at`` counts on CLOCK_MONOTONIC, which stands still in suspend and knows nothing of a step, so it is not used for
deadlines. Python has ``os.timerfd_create`` from 3.13 only; timerfd_create(2) is called through ctypes here.
"""

import ctypes
import errno
import os
import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from agent.errors import HostError

NS = 1_000_000_000

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_CLOCK_REALTIME = 0
_CLOCK_BOOTTIME = 7
_MAXERROR_US = 16_000_000
_libc = ctypes.CDLL(None, use_errno=True)


def rfc3339(wall_ns: int) -> str:
    """A wall time to the microsecond, UTC (RFC 3339)."""
    seconds, rest = divmod(wall_ns, NS)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest // 1000:06d}Z"


class Clock(Protocol):
    """What time it is, two ways, and which boot this is."""

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch (CLOCK_REALTIME)."""

    def boot_ns(self) -> int:
        """Nanoseconds since this boot, suspend included (CLOCK_BOOTTIME)."""

    def boot_id(self) -> str:
        """The kernel's id of this boot: boot clocks compare only within one."""

    def up_ns(self) -> int:
        """For how long this host is up, suspend included. Not always :meth:`boot_ns`: a container has its machine's boot clock."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment on both clocks, to be written down: what the wall clock must show at least from then on, in any boot."""

    wall_ns: int
    boot_id: str = ""
    boot_ns: int = 0

    @classmethod
    def now(cls, clock: Clock, wall_ns: int) -> "Mark":
        """That wall time, and now on the boot clock."""
        return cls(wall_ns, clock.boot_id(), clock.boot_ns())

    def wall_now_ns(self, clock: Clock) -> int:
        """What the wall clock would show by now had nobody set it back.

        In another boot at least all of this boot has gone by since; how long the power was off nobody knows.
        """
        return self.wall_ns + (clock.boot_ns() - self.boot_ns if self.boot_id == clock.boot_id() else clock.up_ns())


class RealClock:
    """This host's clocks."""

    def __init__(self) -> None:
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._began_ns = _began_ns(Path("/proc/1/stat"))

    def wall_ns(self) -> int:
        """See :class:`Clock`."""
        return time.time_ns()

    def boot_ns(self) -> int:
        """See :class:`Clock`."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        """See :class:`Clock`."""
        return self._boot_id

    def up_ns(self) -> int:
        """See :class:`Clock`."""
        return max(0, self.boot_ns() - self._began_ns)


class _Timex(ctypes.Structure):
    """The head of ``struct timex`` (adjtimex(2)), and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("rest", ctypes.c_char * 256),
    )


def synchronised() -> bool | None:
    """Whether the kernel's clock is held by some NTP client, as timedatectl(1) tells it; None where nobody may ask (a container).

    The kernel lets ``maxerror`` grow while nobody corrects the clock; 16 s is where it gives up (NTP_PHASE_LIMIT).
    """
    found = _Timex()  # modes 0: changes nothing, and needs no privilege
    if _libc.adjtimex(ctypes.byref(found)) < 0:
        return None
    error_us: int = found.maxerror
    return error_us < _MAXERROR_US


def _began_ns(stat: Path) -> int:
    """When the first process of this host was started, on the boot clock (proc(5), ``starttime``)."""
    ticks = int(stat.read_bytes().rpartition(b")")[2].split()[19])
    return ticks * NS // os.sysconf("SC_CLK_TCK")


class FakeClock:
    """A clock that tests move by hand. ``step`` moves the wall clock alone, as an admin or NTP would."""

    def __init__(self, wall_ns: int = 1_800_000_000 * NS, boot_ns: int = 1000 * NS) -> None:
        self._wall = wall_ns
        self._boot = boot_ns
        self._id = "boot-1"
        self._began = 0

    def wall_ns(self) -> int:
        """See :class:`Clock`."""
        return self._wall

    def boot_ns(self) -> int:
        """See :class:`Clock`."""
        return self._boot

    def boot_id(self) -> str:
        """See :class:`Clock`."""
        return self._id

    def up_ns(self) -> int:
        """See :class:`Clock`."""
        return self._boot - self._began

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._wall += int(seconds * NS)
        self._boot += int(seconds * NS)

    def step(self, seconds: float) -> None:
        """Set the wall clock by that much; the boot clock does not notice."""
        self._wall += int(seconds * NS)

    def reboot(self) -> None:
        """A new boot: another id, and a boot clock near zero."""
        self._boot = 10 * NS
        self._id = f"{self._id}+"


class DeadlineTimer:
    """Two timerfds, one on each clock; readable when either is due or when the wall clock was set (timerfd_create(2)).

    Both descriptors go to the event loop as readers; :meth:`acknowledge` clears them.
    """

    def __init__(self) -> None:
        self._wall_fd = _timerfd(_CLOCK_REALTIME)
        self._boot_fd = _timerfd(_CLOCK_BOOTTIME)

    @property
    def descriptors(self) -> tuple[int, int]:
        """The wall clock's and the boot clock's descriptor."""
        return self._wall_fd, self._boot_fd

    def arm(self, wall_ns: int | None, boot_ns: int | None) -> None:
        """Wake at the first of these absolute times. A wall time of None still wakes when the clock is set."""
        far_future = 1 << 62
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        _settime(self._wall_fd, flags, far_future if wall_ns is None else max(1, wall_ns))
        _settime(self._boot_fd, _TFD_TIMER_ABSTIME, 0 if boot_ns is None else max(1, boot_ns))

    def acknowledge(self) -> bool:
        """Clear what woke us; True when the wall clock was set (read(2) fails with ECANCELED then)."""
        clock_was_set = False
        for descriptor in self.descriptors:
            try:
                os.read(descriptor, 8)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno != errno.ECANCELED:
                    raise
                clock_was_set = True
        return clock_was_set

    def close(self) -> None:
        """Give both descriptors back."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def _timerfd(clock: int) -> int:
    descriptor = int(_libc.timerfd_create(clock, _TFD_NONBLOCK | _TFD_CLOEXEC))
    if descriptor < 0:
        raise HostError("timer_unavailable", f"timerfd_create: {os.strerror(ctypes.get_errno())}")
    return descriptor


def _settime(descriptor: int, flags: int, at_ns: int) -> None:
    # struct itimerspec: interval (none), then the absolute expiry; all zero disarms.
    spec = struct.pack("qqqq", 0, 0, at_ns // NS, at_ns % NS)
    # ECANCELED: the clock was set since the last read. The timer is armed all the same (fs/timerfd.c: timerfd_setup).
    if _libc.timerfd_settime(descriptor, flags, spec, None) != 0 and ctypes.get_errno() != errno.ECANCELED:
        raise HostError("timer_unavailable", f"timerfd_settime: {os.strerror(ctypes.get_errno())}")
