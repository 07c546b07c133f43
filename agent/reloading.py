"""Policy, keys and configuration taken up as they change. A bad file keeps the old in force, and is loud about it.

Of the old, only the configuration outlives this process: a policy or key that was not read since the start is not in force.
"""

import logging
from collections.abc import Callable

from agent.audit import AuditEvent, EventKind
from agent.errors import ConfigError
from agent.host.config_store import ConfigStore
from agent.pipeline import Pipeline
from agent.trust import KeyStore

log = logging.getLogger("tidegate")


class Reloading:
    """``problems`` is the daemon's list for ``status``; ``start_anew`` is called when a good configuration says something else."""

    def __init__(
        self,
        configured: ConfigStore,
        keys: KeyStore,
        pipeline: Pipeline,
        problems: dict[str, str],
        start_anew: Callable[[], None],
    ) -> None:
        self._configured = configured
        self._keys = keys
        self._pipeline = pipeline
        self._problems = problems
        self._start_anew = start_anew

    def all(self) -> None:
        """Look at everything once."""
        self.configuration()
        self.policy()
        self.keys()

    def configuration(self) -> None:
        """tidegate.yaml and conf.d."""
        if self._configured.changed():
            self._start_anew()
        self._note("configuration", self._configured.error, "the one before stays in force")

    def policy(self) -> None:
        """policy.d."""
        policies = self._pipeline.policies
        policies.reload()
        error = policies.error
        kept = "the old policy stays in force" if policies.loaded else "no policy is in force: every grant is refused"
        self._note("policy", error, kept)
        kind = EventKind.POLICY_REJECTED if error else EventKind.POLICY_LOADED
        self.tell(kind, ok=error is None, code=error.code if error else "", reason=str(error or policies.folder))

    def keys(self) -> None:
        """trust.d."""
        self._keys.reload()
        kept = "of a file at fault only what was in force since the start counts"
        self._note("keys", self._keys.error, kept if len(self._keys.ring) else "no key is in force: every grant is refused")

    def tell(self, kind: EventKind, *, ok: bool = True, code: str = "", reason: str = "") -> None:
        """An event about the agent itself."""
        self._pipeline.trail.emit([AuditEvent(kind, self._pipeline.clock.wall_ns(), ok=ok, code=code, reason=reason)])

    def _note(self, what: str, error: ConfigError | None, meanwhile: str) -> None:
        if error is None:
            self._problems.pop(what, None)
            log.info("%s loaded", what)
        else:
            self._problems[what] = f"{error}; {meanwhile}"
            log.error("%s not loaded as it is: %s; %s", what, error, meanwhile)
