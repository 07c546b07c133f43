"""A host in memory, for unit tests: implements contract.Writer, answers commands from a table, and fails when told to."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.config import Config
from agent.errors import HostError
from agent.host.contract import Account, CommandResult, Group, HomeDisposal, Node, RecorderSeen, User
from agent.host.fake_remains import FakeRemains

Answer = Callable[[Sequence[str], bytes | None], CommandResult]


class KilledError(BaseException):
    """The process died here (SIGKILL): nothing after it ran. No ``except Exception`` catches it, as none would."""


@dataclass
class FakeHost:
    """State in dicts. Two hosts with equal :meth:`snapshot` are the same host.

    ``commands``: tool name → answer; a tool that is not in it is missing. ``fail_at`` = n makes the n-th changing call
    (from 1) fail: by HostError before it takes effect, or with ``kill`` by KilledError before or (``after``) after it.
    """

    config: Config = field(default_factory=Config)
    users: dict[str, User] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    files: dict[Path, tuple[bytes, int]] = field(default_factory=dict)
    homes: dict[Path, int] = field(default_factory=dict)
    archives: list[str] = field(default_factory=list)
    locked: dict[str, bool] = field(default_factory=dict)
    made: set[tuple[str, str]] = field(default_factory=set)
    nodes: dict[Path, Node] = field(default_factory=dict)
    identities: dict[Path, tuple[int, ...]] = field(default_factory=dict)
    commands: Mapping[str, Answer] = field(default_factory=dict)
    remains: FakeRemains = field(default_factory=FakeRemains)
    recorded_by: RecorderSeen = field(default_factory=lambda: RecorderSeen(uid=998))
    fail_at: int | None = None
    kill: bool = False
    after: bool = False
    calls: list[str] = field(default_factory=list)

    @classmethod
    def with_rows(cls, users: Iterable[User], groups: Iterable[Group], config: Config | None = None) -> "FakeHost":
        """A host that has these users (each with its own group, where none is given) and groups."""
        host = cls(config=config or Config())
        host.users = {user.name: user for user in users}
        host.groups = {user.name: Group(user.name, user.gid) for user in host.users.values()}
        host.groups |= {group.name: group for group in groups}
        return host

    def snapshot(self) -> dict[str, object]:
        """All that a person could find on the host; archives are meant to stay, and are left out."""
        return {
            "users": dict(self.users),
            "groups": {name: replace(group, members=tuple(sorted(group.members))) for name, group in self.groups.items()},
            "files": dict(self.files),
            "homes": dict(self.homes),
            "locked": dict(self.locked),
            "made": set(self.made),
        }

    def recorder(self) -> RecorderSeen:
        """See contract.Reader."""
        return self.recorded_by

    def looking_once(self) -> AbstractContextManager[None]:
        """See contract.Reader. A fake host answers at once."""
        return nullcontext()

    def user(self, name: str) -> User | None:
        """See contract.Reader."""
        return self.users.get(name)

    def user_by_uid(self, uid: int) -> User | None:
        """See contract.Reader."""
        return next((user for user in self.users.values() if user.uid == uid), None)

    def group(self, name: str) -> Group | None:
        """See contract.Reader."""
        return self.groups.get(name)

    def group_by_gid(self, gid: int) -> Group | None:
        """See contract.Reader."""
        return next((group for group in self.groups.values() if group.gid == gid), None)

    def groups_of(self, name: str) -> frozenset[str]:
        """See contract.Reader."""
        user = self.users.get(name)
        own = self.group_by_gid(user.gid) if user else None
        listed = {group.name for group in self.groups.values() if name in group.members}
        return frozenset(listed | ({own.name} if own else set()))

    def account_left(self, name: str, uid: int) -> tuple[str, ...]:
        """See contract.Reader."""
        user, group = self.users.get(name), self.groups.get(name)
        found = [f"user {name}"] if user and user.uid == uid else []
        found += [f"group {name}"] if group and group.gid == uid else []
        return tuple(found + [f"{group.name} lists {name}" for group in self.groups.values() if found and name in group.members])

    def own_accounts(self) -> tuple[User, ...]:
        """See contract.Reader."""
        return tuple(user for user in self.users.values() if user.ours)

    def own_memberships(self) -> tuple[tuple[str, str], ...]:
        """See contract.Reader."""
        return tuple(sorted(self.made))

    def names(self, folder: Path) -> tuple[str, ...]:
        """See contract.Reader."""
        return tuple(sorted({path.relative_to(folder).parts[0] for path in self.files if folder in path.parents}))

    def exists(self, path: Path) -> bool:
        """See contract.Reader. A path is there when it, or something below it, is."""
        return any(path in {known, *known.parents} for known in (*self.files, *self.homes))

    def read(self, path: Path, limit: int = 1 << 20) -> bytes | None:
        """See contract.Reader."""
        if path in self.homes:
            raise HostError("not_a_file", f"{path} is no regular file")
        if path not in self.files:
            return None
        if len(self.files[path][0]) > limit:
            raise HostError("file_too_long", f"{path} is longer than {limit} bytes")
        return self.files[path][0]

    def identity(self, path: Path) -> tuple[int, ...] | None:
        """See contract.Reader. What ``identities`` says: a fake host's tools are answers, which may change at any time."""
        return self.identities.get(path)

    def chain(self, path: Path) -> tuple[Node, ...]:
        """See contract.Reader. Root's alone, but for what ``nodes`` says."""
        found = [*reversed(path.parents), path]
        return tuple(self.nodes.get(part, Node(part, 0, 0, 0o755 if part != path else 0o644, part != path)) for part in found)

    def tool(self, name: str) -> Path | None:
        """See contract.Reader."""
        return Path("/usr/bin") / Path(name).name if Path(name).name in self.commands else None

    def check(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 10.0) -> CommandResult:
        """See contract.Reader."""
        del timeout_s
        answer = self.commands.get(Path(argv[0]).name)
        if answer is None:
            raise HostError("tool_missing", f"{argv[0]} is not on this host")
        return answer(argv, stdin)

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """See contract.Writer."""
        self._change(f"write {path}", lambda: self.files.update({path: (data, mode)}))

    def remove(self, path: Path) -> None:
        """See contract.Writer."""
        self._change(f"remove {path}", lambda: self.files.pop(path, None))

    def create_account(self, account: Account) -> None:
        """See contract.Writer."""

        def act() -> None:
            found = self.users.get(account.name)
            if (found and found.uid != account.uid) or (not found and account.name in self.groups):
                raise HostError("account_taken", f"{account.name} is there already")
            self.users[account.name] = User(
                account.name, account.uid, account.uid, account.home, account.shell, account.full_name, ours=True
            )
            self.groups[account.name] = Group(account.name, account.uid)
            self.locked[account.name] = True

        self._change(f"create_account {account.name}", act)

    def set_locked(self, name: str, uid: int, locked: bool) -> None:
        """See contract.Writer."""

        def act() -> None:
            found = self.users.get(name)
            if found is not None and found.uid == uid and found.ours:
                self.locked[name] = locked
            elif not locked:
                raise HostError("account_missing", f"no account {name} of uid {uid}")

        self._change(f"set_locked {name} {locked}", act)

    def delete_account(self, name: str, uid: int) -> None:
        """See contract.Writer."""

        def act() -> None:
            found = self.users.get(name)
            if found is None:
                if name in self.groups and self.groups[name].gid == uid:  # what a kill left
                    del self.groups[name]
                return
            if found.uid != uid or not found.ours:
                raise HostError("account_not_ours", f"{name} has another uid than {uid}")
            del self.users[name], self.groups[name]
            self.locked.pop(name, None)
            for user, group in [pair for pair in self.made if pair[0] == name]:
                self._drop(user, group)

        self._change(f"delete_account {name}", act)

    def add_membership(self, user: str, group: str) -> None:
        """See contract.Writer."""

        def act() -> None:
            found = self.groups.get(group)
            if found is None:
                raise HostError("group_missing", f"no group {group}")
            if user not in found.members:
                self.groups[group] = replace(found, members=(*found.members, user))
                self.made.add((user, group))

        self._change(f"add_membership {user} {group}", act)

    def drop_membership(self, user: str, group: str) -> None:
        """See contract.Writer."""
        self._change(f"drop_membership {user} {group}", lambda: self._drop(user, group))

    def create_home(self, path: Path, uid: int, gid: int) -> None:
        """See contract.Writer."""
        del gid

        def act() -> None:
            if self.homes.setdefault(path, uid) != uid:
                raise HostError("home_taken", f"{path} is there already")

        self._change(f"create_home {path}", act)

    def dispose_home(self, path: Path, uid: int, archive: bool, label: str) -> HomeDisposal:
        """See contract.Writer."""
        name = f"{path.name}-{label}.tar.gz"

        def act() -> None:
            if self.homes.get(path) == uid:
                del self.homes[path]
                if archive:
                    self.archives.append(name)

        self._change(f"dispose_home {path}", act)
        left = (f"{path}: owned by uid {self.homes[path]}",) if path in self.homes else ()
        return HomeDisposal(archive=name if name in self.archives else None, left=left)

    def disarm(self, uids: Collection[int], homes: Sequence[Path]) -> list[str]:
        """See contract.Writer. Nothing has set-id bits on a fake host."""
        del uids, homes
        return []

    def disarm_group(self, uid: int, gids: Collection[int], since_ns: int) -> list[str]:
        """See contract.Writer, and above."""
        del uid, gids, since_ns
        return []

    def drop_at_jobs(self, uid: int, gids: Collection[int] | None = None) -> int:
        """See contract.Writer. Nobody's jobs wait on a fake host."""
        del uid, gids
        return 0

    def settle(self) -> None:
        """See contract.Writer. A fake host's memory is its disk."""

    def run(self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float = 30.0) -> CommandResult:
        """See contract.Writer."""
        results: list[CommandResult] = []
        self._change(f"run {argv[0]}", lambda: results.append(self.check(argv, stdin=stdin, timeout_s=timeout_s)))
        return results[0]

    def _drop(self, user: str, group: str) -> None:
        if (user, group) in self.made:
            self.made.discard((user, group))
            found = self.groups[group]
            self.groups[group] = replace(found, members=tuple(name for name in found.members if name != user))

    def _change(self, what: str, act: Callable[[], object]) -> None:
        self.calls.append(what)
        hit = self.fail_at == len(self.calls)
        if hit and not self.kill:
            raise HostError("told_to_fail", f"call {self.fail_at}: {what}")
        if hit and not self.after:
            raise KilledError(what)
        act()
        if hit:
            raise KilledError(what)
