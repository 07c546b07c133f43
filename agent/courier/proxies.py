"""Which proxy a connection goes through: courier.yaml's, else ``https_proxy`` and ``no_proxy`` of the environment, as in curl."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from agent.courier.settings import Address, Proxy, proxy
from agent.errors import ConfigError, RefusedError


def chosen(to: Address, configured: Proxy | None, environ: Mapping[str, str]) -> Proxy | None:
    """None: go straight there.

    Raises:
        ConfigError: ``proxy_invalid``.
    """
    if configured is not None:
        return configured
    named = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    if not named or _excepted(to, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    try:
        return proxy(named, "https_proxy")
    except RefusedError as error:
        raise ConfigError(error.code, error.reason, path=Path("https_proxy")) from error


def _excepted(to: Address, no_proxy: str) -> bool:
    host = to.host.lower()
    for entry in no_proxy.lower().replace(",", " ").split():
        if entry == "*" or entry in {host, f"{host}:{to.port}"}:
            return True
        suffix = entry.removeprefix("*").lstrip(".")
        if suffix and host.endswith(f".{suffix}"):
            return True
        if "/" in entry and _within(host, entry):
            return True
    return False


def _within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
