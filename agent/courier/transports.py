"""The ways to a control plane, by the name that courier.yaml has for them. Each is a module with one function ``connect``.

``connect(settings, places, up) -> Transport`` opens nothing yet; ``up(how)`` is to be called, from any thread, each time that the
way is known to be open. A module is imported when it is chosen, so that what it needs costs nobody else.
"""

from collections.abc import Callable, Mapping
from importlib import import_module

from agent.courier.places import Places
from agent.courier.settings import Settings
from agent.courier.transport import Renewed, Transport
from agent.errors import ConfigError

MODULES: Mapping[str, str] = {"https": "agent.courier.https", "nats": "agent.courier.nats"}


def connect(settings: Settings, places: Places, up: Callable[[str], None]) -> Transport:
    """The transport that is configured.

    Raises:
        ConfigError: ``transport_unavailable``, and what the transport says of its settings and files.
    """
    try:
        module = import_module(MODULES[settings.transport])
    except ImportError as error:
        package = f"package tidegate-courier-{settings.transport}"
        reason = f"transport {settings.transport} is not installed here ({error.name} is missing: {package})"
        raise ConfigError("transport_unavailable", reason, path=places.settings, key="transport") from error
    made: Transport = module.connect(settings, places, up)
    return made


class Renewing:
    """Where certificates are renewed: by the transport itself, but for one of NATS beside a ``url``, whose https does it.

    NATS carries what hosts and the control plane say; who may say it is decided where tokens are redeemed, which is https. That
    connection is made once in days, and dropped.
    """

    def __init__(self, settings: Settings, places: Places, transport: Transport) -> None:
        self._transport = transport
        self._https = (settings, places) if settings.transport == "nats" and settings.url is not None else None

    def renew(self, csr: str) -> Renewed:
        """See :meth:`agent.courier.transport.Transport.renew`."""
        if self._https is None:
            return self._transport.renew(csr)
        from agent.courier import https  # noqa: PLC0415  # as the others: it costs who needs it

        settings, places = self._https
        way = https.connect(settings, places, lambda _how: None)
        try:
            return way.renew(csr)
        finally:
            way.close()


def awaits(settings: Settings, places: Places) -> str:
    """What has to be there before it can be tried, and is not; empty when nothing is missing."""
    if settings.nats is not None and settings.nats.credentials is not None:
        return ""
    missing = [str(path) for path in (places.key, places.certificate, places.ca) if not path.exists()]
    return f"{missing[0]} is not there: this host is not enrolled (tidegate enroll)" if missing else ""
