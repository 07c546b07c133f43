"""A host's policy as frozen values, and the two answers of judging.

Two kinds of settings. Permissions (commands, groups, roles, existing, principals, whole sections) default to nothing.
Conditions (networks, counts, ticket, reason, approvals) narrow what a permission gives and default to no condition, but for
``max_duration`` and ``max_ahead``: forgetting a line must give less time, not more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeAlias

from agent.errors import DeniedError
from agent.model import Grant, Want
from agent.policy.patterns import NamePattern, TicketPattern

Command: TypeAlias = tuple[str, ...]
Network: TypeAlias = IPv4Network | IPv6Network

DEFAULT_PREFIX = "jit-"
DEFAULT_SHELLS = ("/bin/bash",)
DEFAULT_HOMES = ("ephemeral",)
DEFAULT_ACTIONS = ("login", "exec")
DEFAULT_RUN_AS = ("root",)
DEFAULT_MAX_DURATION_S = 8 * 3600
DEFAULT_RECORDED_BYTES = 1 << 20  # of each stream of a command without a terminal
DEFAULT_MAX_AHEAD_S = 7 * 86400


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in the admin's files a rule or role stands; ``line`` from 1."""

    path: Path
    line: int


@dataclass(frozen=True, slots=True)
class AccountCeiling:
    """Which accounts: new ones (``create``) with ``prefix``, and the ``existing`` ones that sudo and group entries may name."""

    create: bool = True
    prefix: str = DEFAULT_PREFIX
    shells: tuple[str, ...] = DEFAULT_SHELLS
    groups: tuple[str, ...] = ()
    home: tuple[str, ...] = DEFAULT_HOMES
    existing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SshCeiling:
    """Which SSH access. Empty ``source_networks``: from anywhere; else every address of the grant is inside one of them."""

    keys: bool = True
    principals: tuple[NamePattern, ...] = ()
    actions: tuple[str, ...] = DEFAULT_ACTIONS
    source_networks: tuple[Network, ...] = ()
    require_source_address: bool = False


@dataclass(frozen=True, slots=True)
class SudoCeiling:
    """Exactly these commands, word for word, as exactly these users."""

    commands: tuple[Command, ...] = ()
    run_as: tuple[str, ...] = DEFAULT_RUN_AS


@dataclass(frozen=True, slots=True)
class TicketCeiling:
    """A ticket must be there (``required``); one that is there must match ``pattern``."""

    pattern: TicketPattern | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Approvals:
    """How many signatures, and what makes two of them distinct: ``keys``, ``issuers`` or ``approvers``."""

    threshold: int = 1
    distinct: str = "keys"


@dataclass(frozen=True, slots=True)
class RecordingCeiling:
    """``mode``: ``required`` whether or not the grant asks, ``optional`` wherever this host can, ``off`` only where it asks.

    ``input``: keyboard input may be asked for. ``limit`` and ``pause_s``: see :class:`agent.model.Recording`.
    """

    mode: str = "optional"
    input: bool = False
    limit: int = DEFAULT_RECORDED_BYTES
    pause_s: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """One named permission; a grant is allowed when one rule allows all of it. Durations in seconds."""

    name: str
    issuers: tuple[str, ...]
    subjects: tuple[NamePattern, ...] = ()  # none: anyone
    max_duration_s: int = DEFAULT_MAX_DURATION_S  # exp - nbf
    max_ahead_s: int = DEFAULT_MAX_AHEAD_S  # nbf - now
    max_concurrent: int | None = None  # live grants opened by this rule
    max_concurrent_per_subject: int | None = None
    accounts: AccountCeiling | None = None
    ssh: SshCeiling | None = None
    sudo: SudoCeiling | None = None
    groups: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    ticket: TicketCeiling = TicketCeiling()
    reason_required: bool = False
    recording: RecordingCeiling = RecordingCeiling()
    fresh_within_s: int | None = None  # the issuer's latest bulletin may be that old, or the grant is suspended; none: any age
    approvals: Approvals = Approvals()
    privileged_groups: tuple[str, ...] = ()
    root_equivalent: tuple[Command, ...] = ()
    origin: Origin = Origin(Path(), 1)


@dataclass(frozen=True, slots=True)
class Role:
    """Entries that the host adds for a role; their identifier is a stand-in, replaced at expansion."""

    name: str
    entries: tuple[Want, ...]
    fresh_within_s: int | None = None  # as a rule's
    origin: Origin = Origin(Path(), 1)


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules in the order they are tried. The default one allows nothing.

    ``extra_privileged_groups`` and ``extra_root_equivalent`` (program paths) add this host's own to the built-in tables.
    """

    rules: tuple[Rule, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=lambda: MappingProxyType({}))
    extra_privileged_groups: tuple[str, ...] = ()
    extra_root_equivalent: tuple[str, ...] = ()


class Live(Protocol):
    """What counts of a live grant: the journal's record of it has that, and a :class:`LiveGrant`."""

    @property
    def jti(self) -> str: ...
    @property
    def sub(self) -> str: ...
    @property
    def rule(self) -> str: ...


@dataclass(frozen=True, slots=True)
class LiveGrant:
    """A grant that is open or waits for its nbf, and the rule that allowed it."""

    jti: str
    sub: str
    rule: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Yes, by ``rule``. ``grant`` has its roles replaced by their entries and ``recording_required`` as grant or rule ask.

    ``not_containable``: why each root-equivalent command or privileged group in it can't be contained once used; for the receipt.
    ``fresh_within_s``: how old the issuer's latest bulletin may be while it stands open: the least that its rule and roles say.
    """

    grant: Grant
    rule: str
    not_containable: tuple[str, ...] = ()
    fresh_within_s: int | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """No. ``field`` names the entry of the grant where there is one; ``rule`` is the closest rule, None when none came near."""

    code: str
    reason: str
    field: str | None = None
    rule: str | None = None

    def error(self) -> DeniedError:
        """The same as an exception, for callers that refuse by raising."""
        return DeniedError(self.code, self.reason, field=self.field)


@dataclass(frozen=True, slots=True)
class Entry:
    """One want of an expanded grant: where it came from (``authorization_details[2]``), and the role that gave it, if one did."""

    want: Want
    field: str
    role: str | None = None
