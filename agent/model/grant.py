"""A grant, as typed, frozen values. Built only by :mod:`agent.trust.decode` and the enforcers' ``decode``."""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class Signer:
    """One key whose signature over the token was verified.

    ``thumbprint`` is the key's RFC 7638 SHA-256 thumbprint, so two names for one key count once.
    """

    kid: str
    thumbprint: str
    issuers: tuple[str, ...]
    approver: str | None = None


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose every signature holds. ``payload`` is still bytes: nothing of it was parsed before."""

    typ: str
    payload: bytes
    signers: tuple[Signer, ...]
    digest: str  # hex SHA-256 of the token as it came in


@dataclass(frozen=True, slots=True)
class AccountWant:
    """A temporary local account. ``home``: ``ephemeral`` (deleted at the end) or ``archive`` (packed away, then deleted)."""

    type: ClassVar[str] = "account"
    identifier: str
    full_name: str = ""
    groups: tuple[str, ...] = ()
    shell: str = "/bin/bash"
    home: str = "ephemeral"


@dataclass(frozen=True, slots=True)
class SshWant:
    """SSH access to ``identifier`` by bare public keys, by certificate principals, or both.

    ``actions``: a subset of login, exec, sftp, port-forwarding. ``source_address``: CIDR or plain addresses; empty is anywhere.
    """

    type: ClassVar[str] = "ssh"
    identifier: str
    keys: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    source_address: tuple[str, ...] = ()
    actions: tuple[str, ...] = ("login", "exec")


@dataclass(frozen=True, slots=True)
class SudoWant:
    """Exactly these commands, as exactly these users. Each command is its words, arguments literal; no arguments means none."""

    type: ClassVar[str] = "sudo"
    identifier: str
    run_as: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class GroupWant:
    """Temporary membership of an account (of this grant, or one that was there before) in groups."""

    type: ClassVar[str] = "group"
    identifier: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoleWant:
    """A name that the host's own policy expands into other wants for ``identifier``."""

    type: ClassVar[str] = "role"
    identifier: str
    name: str


@dataclass(frozen=True, slots=True)
class Recording:
    """How the sessions of a grant are recorded, as its rule says. ``limit``: bytes kept of each stream of a command without a
    terminal. ``pause_s``: how long a session stands still when it can't be recorded, before it is cut; 0 cuts at once.
    """

    required: bool = False
    input: bool = False  # what is typed too, but passwords
    limit: int = 1 << 20
    pause_s: int = 0


Want: TypeAlias = AccountWant | SshWant | SudoWant | GroupWant | RoleWant


@dataclass(frozen=True, slots=True)
class Grant:
    """One signed grant (JWT claims of RFC 7519, scope by RFC 9396). Times are whole seconds since the epoch, UTC."""

    iss: str
    aud: str
    sub: str
    iat: int
    nbf: int
    exp: int
    jti: str
    wants: tuple[Want, ...]
    signers: tuple[Signer, ...]
    digest: str
    reason: str = ""
    ticket: str = ""
    recording_required: bool = False
    recording_input: bool = False
    recording: Recording | None = Recording()  # once judged; None: not recorded
    supersedes: str | None = None
