"""The values that decisions are made over. Frozen; times are whole seconds since the epoch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from agent.trust import canonical
from examples.control_plane.config.policy import Rule, Template


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody who asks or decides. ``login`` is theirs alone, for ever."""

    subject: str
    name: str
    login: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Host:
    """A host that may be asked for. ``token`` names it in URLs and certificates, ``host_id`` is its grants' audience."""

    token: str
    host_id: str
    name: str
    address: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """What somebody asks for, as they said it. ``hosts`` are names; ``extends`` is a request whose place it takes."""

    template: str
    hosts: tuple[str, ...]
    duration_s: int
    reason: str
    ticket: str = ""
    keys: tuple[str, ...] = ()
    source_address: tuple[str, ...] = ()
    break_glass: bool = False
    extends: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the policy makes of it: under which rule, and what the grants would say."""

    rule: Rule
    template: Template
    hosts: tuple[Host, ...]
    asked: Mapping[str, object]

    @property
    def digest(self) -> str:
        """Hex SHA-256 of exactly what is asked: what approvers approve."""
        return hashlib.sha256(canonical(self.asked)).hexdigest()


@dataclass(frozen=True, slots=True)
class Approval:
    """What one approver said. ``verdict``: approved, denied, void."""

    by: str
    verdict: str
    digest: str
    comment: str
    at: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it stands."""

    id: str
    version: int
    subject: str
    name: str
    login: str
    asked: Mapping[str, object]
    digest: str
    template: str
    title: str
    ticket: str
    extends: str
    break_glass: bool
    needed: int
    approver_roles: frozenset[str]
    state: str
    why: str
    asked_at: int
    lapses_at: int
    opened_at: int | None
    ends_at: int | None
    review: str
    approvals: tuple[Approval, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """One signed grant as the control plane knows it."""

    jti: str
    request: str
    host: str
    host_name: str
    host_id: str
    address: str
    subject: str
    login: str
    iat: int
    exp: int
    supersedes: str
    state: str
    code: str
    reason: str
    cause: str
    ended_at: int | None
    receipt: str

    def live(self, now: int) -> bool:
        """Whether it may still stand on its host."""
        return self.exp > now and self.state in ("sent", "accepted", "revoking")
