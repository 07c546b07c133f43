"""Where accounts are kept: userdb records in /run where nss-systemd resolves them, else rows of /etc/passwd and its kin."""

import contextlib
import re
from pathlib import Path
from typing import Protocol

from agent.config import Config
from agent.errors import ConfigError, HostError
from agent.host import command, files
from agent.host.contract import Account
from agent.host.passwd import PasswdAccounts
from agent.host.userdb import UserdbAccounts

PROBE = "tidegate-probe"  # no grant can ask for this login: the default policy's prefix is jit-, and enforcers refuse it


class AccountBackend(Protocol):
    """Keeps accounts and memberships. Everything is idempotent; taking away what is absent is done."""

    name: str

    def owns(self, name: str, uid: int) -> bool:
        """Whether this backend holds an account of that name and uid that it made."""

    def owned(self) -> list[tuple[str, int, str]]:
        """``(name, uid, home)`` of every account it made, by its mark."""

    def owned_memberships(self) -> list[tuple[str, str]]:
        """``(user, group)`` of every membership it made."""

    def left(self, name: str, uid: int) -> list[str]:
        """Records, rows and memberships of that name and uid that are there."""

    def create(self, account: Account) -> None:
        """Make user and group, locked. Raises HostError ``account_taken`` when the name has other records here."""

    def set_locked(self, name: str, uid: int, locked: bool) -> None:
        """Lock or unlock; locking an absent one is done. Raises HostError ``account_missing``, ``account_not_ours``."""

    def delete(self, name: str, uid: int) -> None:
        """Remove user, group and every membership of that name. Raises HostError ``account_not_ours`` on another uid."""

    def add_membership(self, user: str, group: str) -> None:
        """Put the user in the group."""

    def drop_membership(self, user: str, group: str) -> None:
        """Take out what add_membership put in, and only that."""


def backends(config: Config, etc: Path = Path("/etc")) -> tuple[UserdbAccounts, PasswdAccounts]:
    """Both backends of this host; teardown asks both, since the choice may have changed since an account was made."""
    state = config.paths.state_db.parent / "memberships"
    return UserdbAccounts(config.paths.userdb), PasswdAccounts(etc, state=state)


def choose_backend(config: Config, etc: Path = Path("/etc")) -> AccountBackend:
    """The backend for new accounts: as configured (``userdb``, ``passwd``), or ``auto``: userdb where it provably works.

    Raises:
        ConfigError: ``unknown_backend``.
        HostError: ``userdb_unresolved``: it was asked for by name, but a probe record is not resolved here.
    """
    userdb, passwd = backends(config, etc)
    match config.account_backend:
        case "passwd":
            return passwd
        case "userdb":
            if not resolves(config, userdb):
                raise HostError("userdb_unresolved", "this host's NSS resolves no userdb records (is libnss-systemd installed?)")
            return userdb
        case "auto":
            named = nsswitch_has_systemd(files.read_bounded(etc / "nsswitch.conf") or b"")
            return userdb if named and resolves(config, userdb) else passwd
        case other:
            raise ConfigError("unknown_backend", f"{other!r} is none of auto, userdb, passwd", path=Path(), key="account_backend")


def nsswitch_has_systemd(text: bytes) -> bool:
    """Whether nsswitch.conf(5) names the ``systemd`` service for users, groups and (where there is a line) initgroups."""
    lines: dict[str, list[str]] = {}
    for line in text.decode(errors="replace").splitlines():
        if found := re.fullmatch(r"\s*(passwd|group|initgroups)\s*:([^#]*)(?:#.*)?", line):
            lines.setdefault(found[1], found[2].split())
    return all("systemd" in lines.get(key, []) for key in ("passwd", "group")) and "systemd" in lines.get("initgroups", ["systemd"])


def resolves(config: Config, userdb: UserdbAccounts) -> bool:
    """Whether a throwaway, locked record is found by name in a new process, its membership too. It is removed again."""
    uid = config.uid_last
    account = Account(PROBE, uid, "Tidegate probe", "/nonexistent", "/usr/sbin/nologin")
    if userdb.left(PROBE, uid):  # by an agent that was killed in here: or the uid would count as taken
        with contextlib.suppress(HostError):
            userdb.delete(PROBE, uid)
    try:
        if command.find_tool("getent") is None or command.run(["getent", "passwd", str(uid)], timeout_s=5).ok:
            return False  # nothing to ask with, or the uid is taken: then nothing is tried on it
        userdb.create(account)
        userdb.add_membership(PROBE, config.tenant_group)
        user = command.run(["getent", "passwd", PROBE], timeout_s=5).stdout
        group = command.run(["getent", "group", config.tenant_group], timeout_s=5).stdout.split(":")
        member = command.run(["getent", "initgroups", PROBE], timeout_s=5).stdout.split()
    except HostError:
        return False
    finally:
        with contextlib.suppress(HostError):
            userdb.delete(PROBE, uid)
    return user.startswith(f"{PROBE}:") and (len(group) < 3 or group[2] in member[1:])
