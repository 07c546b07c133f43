"""A new certificate at two thirds of the old one's life, over the connection that the old one still opens."""

import time
from collections.abc import Callable
from typing import Protocol

from agent.courier.backoff import Backoff
from agent.courier.identity import store, validity
from agent.courier.places import Places
from agent.courier.state import read_object, whole, write_object
from agent.courier.status import Status
from agent.courier.transport import Renewed
from agent.errors import ConfigError, CourierError, HostError, TidegateError

RENEWED = "renewed.json"  # when the last one was
_LOOK_S = 3600.0  # a clock that was set is noticed by then
_BASE_S, _CAP_S = 10.0, 1800.0
# Not sooner after the last one, whatever certificate came: a renewal starts the courier anew, and where the clocks differ, each new
# certificate is past its two thirds at once.
_PAUSE_S = 3600.0


class Renews(Protocol):
    """What renews: a transport, or :class:`agent.courier.transports.Renewing`."""

    def renew(self, csr: str) -> Renewed:
        """A new certificate for the key of this PEM request."""
        ...


class Renewal:
    """``clock``: seconds since the epoch; ``steady``: seconds that nobody sets. Used by one thread."""

    def __init__(
        self,
        transport: Renews,
        places: Places,
        status: Status,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport, self._places, self._status, self._clock, self._steady = transport, places, status, clock, steady
        self._renewed = places.folder / RENEWED
        self._backoff = Backoff(_BASE_S, _CAP_S)
        self._not_before = 0.0  # by the steady clock

    def between(self) -> float:
        """Renew if it is time; returns within how many seconds to ask again. Failures are told, and tried again."""
        if not self._places.certificate.exists():
            return _LOOK_S
        try:
            first, last = validity(self._places.certificate)
        except ConfigError as error:
            self._status.problem("certificate", str(error))
            return _LOOK_S
        self._status.certificate(last)
        now = self._clock()
        left = max(first + (last - first) * 2 / 3 - now, self._not_before - self._steady())
        age = now - whole(read_object(self._renewed).get("at"))
        if 0 <= age < _PAUSE_S:  # a clock that was set back since makes no pause longer
            left = max(left, _PAUSE_S - age)
        if left > 0:
            return min(left, _LOOK_S)
        try:
            self._renew()
        except (ConfigError, CourierError, HostError, OSError) as error:
            pause = self._backoff.failed()
            self._not_before = self._steady() + pause
            code, reason = (error.code, error.reason) if isinstance(error, TidegateError) else ("read_failed", str(error))
            ended = " and it has ended: enrol again" if now >= last else ""
            self._status.problem("certificate", f"{code}: not renewed yet{ended}: {reason}")
            return pause
        return _LOOK_S

    def _renew(self) -> None:
        from agent.courier import requesting  # noqa: PLC0415  # it takes as much memory as all the rest

        old = requesting.certificates(self._places.certificate.read_text("ascii", "replace"), "certificate")[0]
        believed = requesting.certificates(self._places.ca.read_text("ascii", "replace"), "CA")
        uri = requesting.uri_of(old)
        request = requesting.new_request(uri)
        found = self._transport.renew(request.csr)
        requesting.checked(request, uri, found.certificate, found.ca, int(self._clock()))
        requesting.succeeds(found.ca, believed)
        write_object(self._renewed, {"at": int(self._clock())})
        store(self._places, request.key, *(requesting.normal(each) for each in (found.certificate, found.ca)))
        self._status.problem("certificate", "")
