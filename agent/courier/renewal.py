"""A new certificate at two thirds of the old one's life, over the connection that the old one still opens."""

import time
from collections.abc import Callable
from typing import Protocol

from agent.courier.backoff import Backoff
from agent.courier.identity import store, validity
from agent.courier.places import Places
from agent.courier.status import Status
from agent.courier.transport import Renewed
from agent.errors import ConfigError, CourierError, HostError

_LOOK_S = 3600.0  # a clock that was set is noticed by then
_BASE_S, _CAP_S = 10.0, 1800.0


class Renews(Protocol):
    """What renews: a transport, or :class:`agent.courier.transports.Renewing`."""

    def renew(self, csr: str) -> Renewed:
        """A new certificate for the key of this PEM request."""
        ...


class Renewal:
    """``clock``: seconds since the epoch. Used by one thread."""

    def __init__(self, transport: Renews, places: Places, status: Status, clock: Callable[[], float] = time.time) -> None:
        self._transport, self._places, self._status, self._clock = transport, places, status, clock
        self._backoff = Backoff(_BASE_S, _CAP_S)
        self._not_before = 0.0
        self._renews = True

    def between(self) -> float:
        """Renew if it is time; returns within how many seconds to ask again. Failures are told, and tried again."""
        if not self._renews or not self._places.certificate.exists():
            return _LOOK_S
        try:
            first, last = validity(self._places.certificate)
        except ConfigError as error:
            self._status.problem("certificate", str(error))
            return _LOOK_S
        self._status.certificate(last)
        now = self._clock()
        left = max(first + (last - first) * 2 / 3, self._not_before) - now
        if left > 0:
            return min(left, _LOOK_S)
        try:
            self._renew()
        except NotImplementedError:
            self._renews = False
            self._status.problem("certificate", "this transport renews no certificates: put a new one in place in time")
        except (ConfigError, CourierError, HostError) as error:
            pause = self._backoff.failed()
            self._not_before = now + pause
            ended = " and it has ended: enrol again" if now >= last else ""
            self._status.problem("certificate", f"{error.code}: not renewed yet{ended}: {error.reason}")
            return pause
        return _LOOK_S

    def _renew(self) -> None:
        from agent.courier import requesting  # noqa: PLC0415  # it takes as much memory as all the rest

        old = requesting.certificates(self._places.certificate.read_text(encoding="ascii"), "certificate")[0]
        uri = requesting.uri_of(old)
        request = requesting.new_request(uri)
        found = self._transport.renew(request.csr)
        requesting.checked(request, uri, found.certificate, found.ca, int(self._clock()))
        store(self._places, request.key, found.certificate.encode("ascii"), found.ca.encode("ascii"))
        self._status.problem("certificate", "")
