"""The real host: NSS for looking, the account backends, files, homes and tools for changing. Implements contract.Writer."""

import contextlib
import functools
import grp
import pwd
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from agent.config import Config
from agent.errors import HostError
from agent.host import atjobs, chain, command, files, homes, memberships, recorder, setid
from agent.host.accounts import AccountBackend, backends, choose_backend
from agent.host.contract import Account, CommandResult, Group, HomeDisposal, Node, RecorderSeen, User
from agent.host.looking import Looking
from agent.host.remains import HostRemains

_Key = TypeVar("_Key")
_Row = TypeVar("_Row")
NSCD_SOCKETS = (Path("/run/nscd/socket"), Path("/var/run/nscd/socket"))
_SIDE_DOORS = (Path("/var/lib/systemd/linger"), Path("/var/spool/cron/crontabs"))
_NO_GID = 2**31 - 2  # getgrouplist(3) wants a primary group; one that nobody has is easily taken out again


class SystemHost:
    """This machine. ``etc`` is where passwd, group and their kin are, for hosts set up under another root.

    Looking never changes anything; the account backend is probed at the first change, and kept.
    """

    def __init__(self, config: Config, etc: Path = Path("/etc")) -> None:
        self._config = config
        self._etc = etc
        self._all = backends(config, etc)
        self.remains = HostRemains(config)
        self._looking = Looking()

    @property
    def config(self) -> Config:
        """As given."""
        return self._config

    @functools.cached_property
    def backend(self) -> AccountBackend:
        """Where new accounts go. The first look probes userdb with a throwaway record (see choose_backend)."""
        return choose_backend(self._config, self._etc)

    def recorder(self) -> RecorderSeen:
        """See contract.Reader."""
        return recorder.look(self._config)

    def looking_once(self) -> contextlib.AbstractContextManager[None]:
        """See contract.Reader."""
        return self._looking.once()

    def user(self, name: str) -> User | None:
        """See contract.Reader."""
        found = self._looking.asked(_row, pwd.getpwnam, name)
        return None if found is None else self._user(found)

    def user_by_uid(self, uid: int) -> User | None:
        """See contract.Reader."""
        found = self._looking.asked(_row, pwd.getpwuid, uid)
        return None if found is None else self._user(found)

    def group(self, name: str) -> Group | None:
        """See contract.Reader."""
        found = self._looking.asked(_row, grp.getgrnam, name)
        return None if found is None else Group(found.gr_name, found.gr_gid, tuple(found.gr_mem))

    def group_by_gid(self, gid: int) -> Group | None:
        """See contract.Reader."""
        found = self._looking.asked(_row, grp.getgrgid, gid)
        return None if found is None else Group(found.gr_name, found.gr_gid, tuple(found.gr_mem))

    def groups_of(self, name: str) -> frozenset[str]:
        """See contract.Reader. For a name that is no user: the groups that list it all the same."""
        user = self._looking.asked(_row, pwd.getpwnam, name)
        primary = _NO_GID if user is None else user.pw_gid
        gids = set(self._looking.asked(memberships.gids_of, name, primary)) - {_NO_GID}
        names = (self._group_name(gid) for gid in gids)
        return frozenset(name for name in names if name is not None)

    def _group_name(self, gid: int) -> str | None:
        """Of a group of ours by its record, which nss-systemd reads too: asked itself, it looks for members among all records."""
        if self._config.uid_first <= gid <= self._config.uid_last and (name := self._all[0].group_name(gid)):
            return name
        group = self.group_by_gid(gid)
        return group.name if group is not None else None

    def account_left(self, name: str, uid: int) -> tuple[str, ...]:
        """See contract.Reader."""
        return tuple(where for backend in self._all for where in backend.left(name, uid))

    def own_accounts(self) -> tuple[User, ...]:
        """See contract.Reader."""
        found = {(name, uid): (name, uid, home) for backend in self._all for name, uid, home in backend.owned()}
        inside = [row for row in found.values() if self._config.uid_first <= row[1] <= self._config.uid_last]
        return tuple(User(name, uid, uid, home, "", ours=True) for name, uid, home in inside)

    def own_memberships(self) -> tuple[tuple[str, str], ...]:
        """See contract.Reader."""
        return tuple(sorted({pair for backend in self._all for pair in backend.owned_memberships()}))

    def names(self, folder: Path) -> tuple[str, ...]:
        """See contract.Reader."""
        return files.names(folder)

    def exists(self, path: Path) -> bool:
        """See contract.Reader."""
        return files.exists(path)

    def read(self, path: Path, limit: int = files.READ_MAX) -> bytes | None:
        """See contract.Reader."""
        return files.read_bounded(path, limit)

    def identity(self, path: Path) -> tuple[int, ...] | None:
        """See contract.Reader."""
        return files.identity(path)

    def chain(self, path: Path) -> tuple[Node, ...]:
        """See contract.Reader."""
        return chain.chain(path)

    def tool(self, name: str) -> Path | None:
        """See contract.Reader."""
        return command.find_tool(name)

    def check(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 10.0) -> CommandResult:
        """See contract.Reader."""
        return command.run(argv, stdin=stdin, timeout_s=timeout_s)

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """See contract.Writer. A missing folder is made, root's, mode 0755."""
        if not path.parent.exists():
            files.make_folder(path.parent)
        files.clear_unwritten(path)
        files.atomic_write(path, data, mode)

    def remove(self, path: Path) -> None:
        """See contract.Writer. What a killed write of that file left goes with it."""
        files.remove(path)
        if path.parent not in _SIDE_DOORS:  # where nothing of ours is ever written, and each of a hundred ends looks
            files.clear_unwritten(path)

    def create_account(self, account: Account) -> None:
        """See contract.Writer."""
        self.backend.create(account)
        self._forget_cached()

    def set_locked(self, name: str, uid: int, locked: bool) -> None:
        """See contract.Writer. Locking asks every backend; unlocking only the one that holds the account."""
        if locked:
            self._each(lambda backend: backend.set_locked(name, uid, True))
        else:
            owner = next((backend for backend in self._all if backend.owns(name, uid)), self.backend)
            owner.set_locked(name, uid, False)
        self._forget_cached()

    def delete_account(self, name: str, uid: int) -> None:
        """See contract.Writer."""
        self._each(lambda backend: backend.delete(name, uid))
        self._forget_cached()

    def add_membership(self, user: str, group: str) -> None:
        """See contract.Writer."""
        self.backend.add_membership(user, group)
        self._forget_cached()

    def drop_membership(self, user: str, group: str) -> None:
        """See contract.Writer."""
        self._each(lambda backend: backend.drop_membership(user, group))
        self._forget_cached()

    def create_home(self, path: Path, uid: int, gid: int) -> None:
        """See contract.Writer. Where SELinux is on, the tree gets the labels its policy has for it."""
        homes.create_home(path, uid, gid)
        if Path("/sys/fs/selinux/enforce").exists() and command.find_tool("restorecon"):
            command.require(command.run(["restorecon", "-R", str(path)]), f"labels of {path}")

    def dispose_home(self, path: Path, uid: int, archive: bool, label: str) -> HomeDisposal:
        """See contract.Writer."""
        target = self._config.paths.archive / f"{path.name}-{label}.tar.gz" if archive else None
        return homes.dispose_home(path, uid, target)

    def disarm(self, uids: Collection[int], homes: Sequence[Path]) -> list[str]:
        """See contract.Writer and setid.disarm."""
        return setid.disarm([*homes, *setid.SHARED], uids)

    def disarm_group(self, uid: int, gids: Collection[int], since_ns: int) -> list[str]:
        """See contract.Writer and setid.disarm_group."""
        user = self.user_by_uid(uid)
        return setid.disarm_group([*([Path(user.home)] if user else []), *setid.SHARED], uid, gids, since_ns)

    def drop_at_jobs(self, uid: int, gids: Collection[int] | None = None) -> int:
        """See contract.Writer."""
        return atjobs.drop_jobs(uid, gids)

    def settle(self) -> None:
        """See contract.Writer."""
        paths = self._config.paths
        for folder in (paths.home_base, paths.state_db.parent / "memberships", *_SIDE_DOORS, *atjobs.SPOOLS, *setid.SHARED):
            files.sync_folder(folder)

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 30.0) -> CommandResult:
        """See contract.Writer."""
        return command.run(argv, stdin=stdin, timeout_s=timeout_s)

    def _user(self, found: pwd.struct_passwd) -> User:
        in_range = self._config.uid_first <= found.pw_uid <= self._config.uid_last
        ours = in_range and any(backend.owns(found.pw_name, found.pw_uid) for backend in self._all)
        full_name = found.pw_gecos.split(",", 1)[0]
        return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir, found.pw_shell, full_name, ours)

    def _each(self, act: Callable[[AccountBackend], None]) -> None:
        """Do it in every backend, the second one even when the first fails; the first error is raised at the end."""
        errors: list[HostError] = []
        for backend in self._all:
            try:
                act(backend)
            except HostError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    @staticmethod
    def _forget_cached() -> None:
        """Where nscd(8) runs it may have remembered that a name is not there (20 s): sshd would not find a new account."""
        if any(socket.exists() for socket in NSCD_SOCKETS):
            for database in ("passwd", "group"):
                with contextlib.suppress(HostError):
                    command.run(["nscd", "-i", database], timeout_s=5)


def _row(ask: Callable[[_Key], _Row], key: _Key) -> _Row | None:
    """A row of the name service, None where it has none."""
    try:
        return ask(key)
    except KeyError:
        return None
