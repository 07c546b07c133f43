"""A folder from which nats-server runs a fleet: its configuration, its certificate of our own CA, who may do what."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from agent.host.files import atomic_write
from examples.control_plane.config.fleet import Nats
from examples.control_plane.fleet.access import rendered
from examples.control_plane.nats_config import Tls, server_settings
from examples.control_plane.signing import ca, keys

CERTIFICATE_DAYS = 365
CONFIG, PID = "nats.conf", "nats.pid"


@dataclass(frozen=True, slots=True)
class Broker:
    """``listen``: ADDRESS:PORT; ``names``: all that hosts and the control plane reach it under."""

    folder: Path
    listen: str
    names: tuple[str, ...]
    sync_always: bool = False


def make(found: keys.Keys, settings: Nats, broker: Broker) -> Path:
    """Write the folder; a new certificate each time. Returns the configuration.

    Raises:
        HostError, OSError: it can't be written.
        ValueError: the configuration names no ``accounts_file``.
    """
    folder = broker.folder
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    chain, secret = ca.server_certificate(found.ca, broker.names, CERTIFICATE_DAYS)
    tls = Tls(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    atomic_write(tls.key, secret.encode("ascii"), 0o600)
    atomic_write(tls.certificate, chain.encode("ascii"), 0o644)
    atomic_write(tls.ca, found.ca.pem().encode("ascii"), 0o644)
    if settings.accounts_file is None:
        raise ValueError("nats.accounts_file is missing: the control plane writes there who its hosts are")
    if not settings.accounts_file.exists():  # from then on the control plane writes it, as hosts come and go
        atomic_write(settings.accounts_file, rendered(settings, []).encode("ascii"), 0o644)
    accounts = os.path.relpath(settings.accounts_file, folder)  # which is how nats-server includes
    words = server_settings(store=folder / "store", listen=broker.listen, tls=tls, sync_always=broker.sync_always)
    words["pid_file"] = str(settings.pid_file or folder / PID)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in words.items()]
    config = folder / CONFIG
    atomic_write(config, "\n".join([*lines, f"include {json.dumps(accounts)}", ""]).encode("ascii"), 0o644)
    return config
