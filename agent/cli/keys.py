"""For `tidegate doctor`: keys, certificates and words of issuers, and how long they still count."""

import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import cast

from agent import policy as policies
from agent import trust
from agent.cli.finding import Finding
from agent.config import Config
from agent.errors import ConfigError
from agent.model.text import counted

# It is renewed at two thirds of its life; past five sixths that has failed for as long as a sixth.
_LATE = 5 / 6


def keys_finding(config: Config) -> Finding:
    """Who may sign for this host. Keys in trust.d have no end of their own. Raises ConfigError."""
    ring = trust.load_keyring(config.paths.trust_dir)
    if not len(ring):
        mend = "put the control plane's public JWK Set there as NAME.jwks"
        detail = f"{config.paths.trust_dir} has no key: nobody can sign a grant for this host"
        return Finding.warn("no_trusted_key", "keys", detail, mend)
    issuers = sorted({issuer for key in ring for issuer in key.issuers})
    return Finding.ok("keys", f"{counted(len(ring), 'key')}, for {', '.join(issuers)}")


def certificate_findings(config: Config, now_s: float | None = None) -> Iterator[Finding]:
    """The courier's client certificate; nothing where there is none, no courier, or where only root may look."""
    try:
        from agent.courier.identity import validity  # noqa: PLC0415  # another package's
        from agent.courier.places import Places  # noqa: PLC0415
    except ModuleNotFoundError:
        return
    path = Places.of(config.paths).certificate
    if not os.access(path, os.R_OK):
        return
    try:
        first, last = validity(path)
    except ConfigError as error:
        yield Finding.warn(error.code, "certificate", str(error), "tidegate enroll makes another")
        return
    now, ends = time.time() if now_s is None else now_s, _day(last)
    mend = "tidegate status says why it is not renewed; with none that is good: tidegate enroll"
    if now >= last:
        detail = f"the courier's ended at {ends}: nothing comes from the control plane, and no revocation"
        yield Finding.warn("certificate_ended", "certificate", detail, mend)
    elif now >= first + (last - first) * _LATE:
        yield Finding.warn("certificate_near_end", "certificate", f"the courier's ends at {ends}, and was to be renewed", mend)
    else:
        yield Finding.ok("certificate", f"the courier's ends at {ends}; it is renewed by itself before")


def bulletin_findings(status: Mapping[str, object], policy: policies.Policy) -> Iterator[Finding]:
    """Issuers whose word has run out, where the policy lets nobody stay without: their grants are suspended."""
    needed = [rule.fresh_within_s for rule in policy.rules] + [role.fresh_within_s for role in policy.roles.values()]
    if not any(needed):
        return
    for held in cast(list[dict[str, object]], status["bulletins"]):
        if held["expired"]:
            detail = f"the last one of {held['issuer']} ran out at {held['expires']}: grants that need a fresh one are suspended"
            mend = "let the control plane send one, and look at what carries it: tidegate status"
            yield Finding.warn("bulletin_expired", "bulletin", detail, mend)


def _day(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
