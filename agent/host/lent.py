"""What a grant lends to a login (groups, sudo rules), and which processes hold it. Pure: rows of /proc in, marks out.

An account that was there before keeps its other sessions and its own sudo rights; so a process counts by what it holds, not
by whose it is: a lent group among its groups, or that it came out of a lent sudo rule.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

# Root's half of a person's own ways in, which carries the person's login uid and is no command of anybody's.
_WAYS_IN = frozenset({"sshd", "sshd-session", "login", "su", "cron", "crond", "atd", "systemd", "(sd-pam)", "sudo", "polkitd"})
_SU = frozenset({"su", "login", "runuser"})
_COMMAND_CUT = 4096  # sudo cuts SUDO_COMMAND there


@dataclass(frozen=True, slots=True)
class Lent:
    """What one login was lent. ``rules``: (run-as uid, command line). ``alone``: it may run nothing else by sudo.

    ``since_ns`` is when, on the boot clock: what a sudo rule started is no older. 0 where that does not matter.
    """

    login: str
    uid: int
    gids: frozenset[int] = frozenset()
    rules: frozenset[tuple[int, str]] = frozenset()
    alone: bool = False
    since_ns: int = 0

    @property
    def run_as(self) -> frozenset[int]:
        """The uids its rules run commands as."""
        return frozenset(uid for uid, _ in self.rules)

    def matches(self, command: str) -> bool:
        """Whether a command line, as SUDO_COMMAND has it, is one of the rules'. sudo itself compares base names and arguments."""
        return any(_same(command, asked) for _, asked in self.rules)


@dataclass(frozen=True, slots=True)
class Row:
    """One live process as /proc shows it. ``uids``: real, effective, saved, file system; ``gids``: those and the supplementary."""

    pid: int
    ppid: int
    name: str
    uids: tuple[int, ...]
    gids: frozenset[int]
    loginuid: int
    started_ns: int


@dataclass(slots=True)
class Look:
    """How to read more of one process: its argv, and one variable of its environment ("" when absent)."""

    argv: Callable[[int], Sequence[str]]
    variable: Callable[[int, str], str]
    _seen: dict[tuple[int, str], str] = field(default_factory=dict)

    def get(self, pid: int, name: str) -> str:
        """A variable, read once."""
        if (pid, name) not in self._seen:
            self._seen[pid, name] = self.variable(pid, name)
        return self._seen[pid, name]


def merged(lent: Iterable[Lent], others: Iterable[Lent] = ()) -> tuple[Lent, ...]:
    """One for each uid, without what others, which go on, lend to the same uid as well."""
    found: dict[int, Lent] = {}
    for each in lent:
        old = found.get(each.uid)
        found[each.uid] = each if old is None else _both(old, each)
    for other in others:
        if mine := found.get(other.uid):
            rules, gids = mine.rules - other.rules, mine.gids - other.gids
            found[other.uid] = replace(mine, gids=gids, rules=rules, alone=mine.alone and not other.rules)
    return tuple(each for each in found.values() if each.gids or each.rules)


def _both(one: Lent, other: Lent) -> Lent:
    ruled = [lent for lent in (one, other) if lent.rules]
    return replace(
        one,
        gids=one.gids | other.gids,
        rules=one.rules | other.rules,
        alone=bool(ruled) and all(lent.alone for lent in ruled),
        since_ns=min(one.since_ns, other.since_ns),
    )


def holders(rows: Mapping[int, Row], lent: Sequence[Lent], look: Look) -> dict[int, tuple[str, int]]:
    """pid → (mark, uid of the login): ``group`` for a lent group that it carries, ``rule`` for what came out of a lent rule."""
    by_uid = {each.uid: each for each in lent}
    found: dict[int, tuple[str, int]] = {}
    for row in rows.values():
        if (owner := _by_group(row, by_uid)) is not None:
            found[row.pid] = ("group", owner)
    ruled = [each for each in lent if each.rules]
    if ruled:
        found |= {pid: ("rule", uid) for pid, uid in _by_rule(rows, ruled, look).items()}
    return found


def _by_group(row: Row, by_uid: Mapping[int, Lent]) -> int | None:
    for uid in row.uids:
        if uid in by_uid and by_uid[uid].gids & row.gids:
            return uid
    # A set-user-id program of another's takes the groups along, and may leave every uid of the person's behind.
    lent = by_uid.get(row.loginuid)
    if lent and lent.gids & row.gids and row.started_ns >= lent.since_ns and row.name not in _WAYS_IN:
        return lent.uid
    return None


def _by_rule(rows: Mapping[int, Row], lent: Sequence[Lent], look: Look) -> dict[int, int]:
    found: dict[int, int] = {}
    by_uid = {each.uid: each for each in lent}
    run_as = frozenset().union(*(each.run_as for each in lent))
    for row in rows.values():  # of a hundred rules that end together only the one or two that a process may be under are tried
        said = look.get(row.pid, "SUDO_UID") if run_as.intersection(row.uids) else ""
        uids = {row.uids[0], row.loginuid, int(said) if said.isascii() and said.isdigit() and len(said) <= 10 else -1}
        for each in [by_uid[uid] for uid in uids if uid in by_uid]:
            if _is_sudo(row, each, look) or _is_command(row, each, look) or _is_orphan(row, each, rows, look):
                found[row.pid] = each.uid
                break
    for pid, uid in tuple(found.items()):  # sudo waits above its command, its monitor between them
        parent = rows.get(rows[pid].ppid)
        while parent and parent.name == "sudo" and parent.pid not in found and parent.uids[1] == 0:
            found[parent.pid] = uid
            parent = rows.get(parent.ppid)
    return _with_descendants(rows, found)


def _is_sudo(row: Row, lent: Lent, look: Look) -> bool:
    """sudo itself, from the moment it is started: its command is the end of its words."""
    if row.name != "sudo" or row.uids[0] != lent.uid or row.uids[1] == lent.uid or row.started_ns < lent.since_ns:
        return False
    words = look.argv(row.pid)
    return any(lent.matches(" ".join(words[start:])) for start in range(1, len(words)))


def _is_command(row: Row, lent: Lent, look: Look) -> bool:
    """What sudo started, and what has its environment from there."""
    if row.started_ns < lent.since_ns or not lent.run_as.intersection(row.uids):
        return False
    return look.get(row.pid, "SUDO_UID") == str(lent.uid) and lent.matches(look.get(row.pid, "SUDO_COMMAND"))


def _is_orphan(row: Row, lent: Lent, rows: Mapping[int, Row], look: Look) -> bool:
    """What emptied its environment and left the tree: known by the login uid, which only root can change.

    The same mark is on all that the person may become by other ways (su, sudo rules of their own), and on root's half of their
    sessions: those go on.
    """
    if row.loginuid != lent.uid or row.started_ns < lent.since_ns or lent.uid in row.uids:
        return False
    if not lent.run_as.intersection(row.uids) or not (lent.alone or not look.get(row.pid, "SUDO_COMMAND")):
        return False
    if 0 in row.uids and (not lent.alone or row.ppid != 1 or row.name in _WAYS_IN):
        return False
    return not _beneath(row, rows)


def _beneath(row: Row, rows: Mapping[int, Row]) -> bool:
    """Whether a process above it is su or its like, run by somebody who had the password."""
    above = rows.get(row.ppid)
    for _ in range(len(rows)):
        if above is None or above.pid == 1:
            return False
        if above.name in _SU and 0 in above.uids:
            return True
        above = rows.get(above.ppid)
    return False


def _with_descendants(rows: Mapping[int, Row], roots: Mapping[int, int]) -> dict[int, int]:
    children: dict[int, list[int]] = defaultdict(list)
    for row in rows.values():
        children[row.ppid].append(row.pid)
    found = dict(roots)
    stack = list(roots)
    while stack:
        pid = stack.pop()
        for child in children[pid]:
            if child not in found:
                found[child] = found[pid]
                stack.append(child)
    return found


def _same(command: str, asked: str) -> bool:
    program, _, arguments = command.partition(" ")
    wanted, _, wanted_arguments = asked.partition(" ")
    full = len(command) >= _COMMAND_CUT and wanted_arguments.startswith(arguments)
    return program.rpartition("/")[2] == wanted.rpartition("/")[2] and (arguments == wanted_arguments or full)
