"""What the stages may ask of a host: ``Reader`` changes nothing, ``Writer`` does."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from agent.config import Config as Config  # noqa: PLC0414  (for enforcers, which know no other module of the host's)
from agent.host.found import Found, Progress, Search


@dataclass(frozen=True, slots=True)
class User:
    """A row of the user database, from whichever source NSS found it in. ``ours``: made by Tidegate."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    full_name: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A row of the group database. ``members`` are the explicitly listed ones."""

    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecorderSeen:
    """The uid that records sessions, and why they can't be recorded here; empty when they can."""

    uid: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """An account to be made: user and group of the same name, uid and gid alike, no password."""

    name: str
    uid: int
    full_name: str
    home: str
    shell: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. ``stdout``/``stderr`` are decoded as UTF-8 with replacement, each cut at 1 MiB."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """Whether it exited with 0."""
        return self.returncode == 0


@dataclass(frozen=True, slots=True)
class HomeDisposal:
    """What became of a home: where it was archived (None: deleted), and what could not be removed."""

    archive: str | None = None
    left: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Node:
    """One folder or file on the way to a path. ``mode``: permission bits; ``interpreter``: of a ``#!`` script, else empty."""

    path: Path
    uid: int
    gid: int
    mode: int
    folder: bool
    interpreter: str = ""


class Remains(Protocol):
    """What grants leave behind: taken note of before one opens, looked for after one has ended. Everything is bounded."""

    def baseline(self) -> Mapping[str, object]:
        """What of the host's own a tenant with root's powers might add to, as it is now: JSON, some kilobytes."""

    def changes(self, before: Mapping[str, object], names: Collection[str]) -> list[Found]:
        """What of that differs from an earlier baseline; those that speak of ``names`` say so. None of it is touched."""

    def detach(self, homes: Mapping[Path, int], *, runtime: bool = False) -> list[Found]:
        """Unmount what these tenants (home → uid) mounted: by FUSE anywhere, by whatever means inside their homes.

        With ``runtime`` their runtime folders too, which systemd takes away by itself, where it is there.
        """

    def search(self, order: Search) -> list[Found]:
        """Look for, and remove where ordered, what uids own: files on local file systems, IPC objects.

        Raises HostError when it can't be known; a place that could not be looked at is found as ``unsearched``.
        """

    def progress(self) -> Progress | None:
        """How far the search that runs now is."""

    def stop(self) -> None:
        """End the search that runs, for the daemon stops."""


class Reader(Protocol):
    """Looking at the host. Nothing here changes it; every read is bounded."""

    @property
    def config(self) -> Config:
        """This host's configuration, for its paths and ranges."""

    def recorder(self) -> RecorderSeen:
        """Whether sessions can be recorded here."""

    def looking_once(self) -> AbstractContextManager[None]:
        """Within the block, what this thread asks the name service twice it is answered as the first time: one decision, one look.

        Not for a block that changes accounts.
        """

    def user(self, name: str) -> User | None:
        """The user of that login, whichever database has it."""

    def user_by_uid(self, uid: int) -> User | None:
        """The user of that UID."""

    def group(self, name: str) -> Group | None:
        """The group of that name."""

    def group_by_gid(self, gid: int) -> Group | None:
        """The group of that GID."""

    def groups_of(self, name: str) -> frozenset[str]:
        """Names of every group the user is in now, the primary one included."""

    def account_left(self, name: str, uid: int) -> tuple[str, ...]:
        """What is still there of an account that Tidegate made: records, rows, memberships. Asks the files, not NSS."""

    def own_accounts(self) -> tuple[User, ...]:
        """Every account that Tidegate made and that is there, by its mark; whole or half."""

    def own_memberships(self) -> tuple[tuple[str, str], ...]:
        """``(user, group)`` of every membership that add_membership made and that is there."""

    def names(self, folder: Path) -> tuple[str, ...]:
        """What a folder holds, sorted, at most 10,000; nothing where it can't be listed."""

    def exists(self, path: Path) -> bool:
        """Whether the path is there, as lstat sees it (a dangling symlink is there)."""

    def read(self, path: Path, limit: int = 1 << 20) -> bytes | None:
        """The file's bytes, None when absent. Raises HostError when it is no regular file or longer than ``limit`` bytes."""

    def identity(self, path: Path) -> tuple[int, ...] | None:
        """What tells the file that is there now, symlinks followed, from any other, and from itself once it was changed.

        Device, inode, size, times of change (nobody can set the last of them back). None where it can't be looked at.
        """

    def chain(self, path: Path) -> tuple[Node, ...]:
        """Every folder and file that ``path`` stands on, from ``/``, symlinks followed; it ends early where one is absent.

        Raises HostError ``path_unreadable``.
        """

    def tool(self, name: str) -> Path | None:
        """Absolute path of a tool in root's fixed search path, or None."""

    def check(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 10.0) -> CommandResult:
        """Run a read-only tool; argv[0] is a tool's name or an absolute path. Raises HostError when missing or late."""


class Writer(Reader, Protocol):
    """Changing the host. Every method is idempotent; removing what is absent is done."""

    @property
    def remains(self) -> Remains:
        """What grants leave behind on this host."""

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """Atomically (temporary name, fsync, rename, fsync of the folder) put a root-owned file there."""

    def remove(self, path: Path) -> None:
        """Unlink the file; absent is done; never follows a symlink."""

    def create_account(self, account: Account) -> None:
        """Make user and group, locked: nobody can log in yet. Applying it twice leaves one."""

    def set_locked(self, name: str, uid: int, locked: bool) -> None:
        """Lock or unlock an account of ours. Locking an absent account is done; unlocking one raises HostError."""

    def delete_account(self, name: str, uid: int) -> None:
        """Remove user, group and memberships of ours. Refuses (HostError) when that name now has another UID."""

    def add_membership(self, user: str, group: str) -> None:
        """Put ``user`` in ``group``."""

    def drop_membership(self, user: str, group: str) -> None:
        """Take out a membership that add_membership made; one that was there otherwise stays."""

    def create_home(self, path: Path, uid: int, gid: int) -> None:
        """Make the home from /etc/skel, mode 0700. An unfinished one of the same uid is made whole."""

    def dispose_home(self, path: Path, uid: int, archive: bool, label: str) -> HomeDisposal:
        """Delete the home tree (dirfd, O_NOFOLLOW), first packing it into the archive folder when asked.

        Never touches a tree whose top is owned by another uid.
        """

    def disarm(self, uids: Collection[int], homes: Sequence[Path]) -> list[str]:
        """Take the set-id bits off what these uids own in these homes and the world-writable folders, in a bounded walk."""

    def disarm_group(self, uid: int, gids: Collection[int], since_ns: int) -> list[str]:
        """Take the set-group-id bit off what the uid owns in these groups and has changed since (wall clock); in its home and
        the world-writable folders, in a bounded walk. Returns the paths.
        """

    def drop_at_jobs(self, uid: int, gids: Collection[int] | None = None) -> int:
        """Remove at(1) jobs of the uid, all or those that would run with one of these gids; returns how many. Raises HostError."""

    def settle(self) -> None:
        """Return when every removal so far would outlast a power cut. Raises HostError when the disk won't say so."""

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 30.0) -> CommandResult:
        """Run a tool that changes the host. Raises HostError when missing or late; a non-zero exit is the caller's."""
