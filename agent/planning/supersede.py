"""A grant that takes a live one's place: what of the old steps stands on, what is rewritten, what goes, and who must leave. Pure.

Steps are told apart by what they act on (enforcer, action, target). A sudo file of the old grant is written over with the new
one's text where both are the same login's, so that a rule that is only extended never stops holding for a moment.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from agent.errors import UnenforceableError
from agent.host.contract import Group, Reader, User
from agent.model import Json, Phase, Plan, Step

Key: TypeAlias = tuple[str, str, str]
Numbered: TypeAlias = tuple[int, Step]

_LINE = re.compile(r'expiry-time="[0-9]{14}Z",([a-z,-]*)(?:from="([^"]*)")? (.+)')
_ANYWHERE = "*"
_SAME_OR_REFUSED = frozenset({"create"})


@dataclass(frozen=True, slots=True)
class Replacement:
    """How one grant becomes another.

    ``plan`` is the new grant's, whole, for its own teardown later. ``apply`` are those of its steps that change anything now.
    ``taken`` are numbers of old steps that the new grant owns from now on; ``gone`` are those of the old that are undone.
    ``narrowed``: logins that lose something, so that what they run ends: nobody can tell which of it stood on what is lost.
    """

    plan: Plan
    apply: tuple[Step, ...]
    taken: tuple[int, ...]
    gone: tuple[Numbered, ...]
    narrowed: tuple[str, ...]


def replacement(old: Sequence[Numbered], old_uids: Mapping[str, int], plan: Plan) -> Replacement:
    """The difference of two plans; ``plan`` was made as if nothing of the old stood (see :class:`Without`).

    Raises:
        UnenforceableError: ``supersedes_other_accounts``, ``supersedes_account_differs``.
    """
    if set(plan.uids) != set(old_uids):
        reason = "must have account entries for exactly the logins of the grant whose place it takes"
        raise UnenforceableError("supersedes_other_accounts", reason, field="authorization_details")
    steps = _over_old_rules([step for _, step in old], plan.steps, old_uids)
    before = {_key(step): step for _, step in old}
    after = {_key(step): step for step in steps}
    for key, step in after.items():
        if step.enforcer == "account" and step.action in _SAME_OR_REFUSED and key in before and before[key].data != step.data:
            reason = f"{step.target} stands as it was made: full_name and the account itself can't be changed"
            raise UnenforceableError("supersedes_account_differs", reason, field="authorization_details")
    lost = _lost(before.values(), after.values())
    return Replacement(
        plan=replace(plan, steps=tuple(steps)),
        apply=tuple(step for step in steps if not _stands(step, before.get(_key(step)))),
        taken=tuple(seq for seq, step in old if _key(step) in after),
        gone=tuple((seq, step) for seq, step in old if _key(step) not in after),
        narrowed=tuple(sorted(login for login in old_uids if login in lost)),
    )


def _key(step: Step) -> Key:
    if step.action == "membership":  # an account entry's and a group entry's are the same thing on the host
        return "", "membership", step.target
    return step.enforcer, step.action, step.target


def _stands(step: Step, before: Step | None) -> bool:
    """Whether it is in place already: the same, or a home, whose data only says what becomes of it."""
    return before is not None and (before.data == step.data or (step.enforcer, step.action) == ("account", "home"))


def _over_old_rules(old: Sequence[Step], new: Sequence[Step], tenants: Mapping[str, int]) -> list[Step]:
    """Give each sudo step of the new grant the file of an old one of the same login, one for one.

    Not where a person's own account loses something: that old rule ends whole, and what runs under it with it.
    """
    lost = _lost(old, new)
    rules = [step for step in old if (step.enforcer, step.action) == ("sudo", "rule")]
    free = [step for step in rules if _login(step) in tenants or _login(step) not in lost]
    found: list[Step] = []
    for step in new:
        match = next((each for each in free if _login(each) == _login(step)), None) if step.enforcer == "sudo" else None
        if match is None:
            found.append(step)
            continue
        free.remove(match)
        found.append(replace(step, target=match.target, data={**step.data, "path": match.target}))
    return found


def _lost(old: Collection[Step], new: Collection[Step]) -> set[str]:
    """Logins of which the new steps do not give all that the old ones gave."""
    given = {right for step in new for right in rights(step)}
    return {login for step in old for login, right in rights(step) if not {(login, right), (login, _from_anywhere(right))} & given}


def _from_anywhere(right: str) -> str:
    """A key that is good from anywhere is good from each place."""
    return f"{right.partition(' from ')[0]} from {_ANYWHERE}" if " from " in right else right


def rights(step: Step) -> set[tuple[str, str]]:
    """What one step lets whom do, as ``(login, one right)``; times are none, since a later end takes nothing away."""
    match step.enforcer, step.action:
        case "ssh", "keys" | "principals":
            return {
                (_login(step), right) for line in _text(step.data.get("text")).splitlines() for right in _of_key(step.action, line)
            }
        case "account" | "group", "membership":
            return {(_login(step), f"group {_text(step.data.get('group'))}")}
        case "account", "tenant":
            return {
                (_login(step), f"tenant {word}") for word in re.findall(r'"(?:login|exec|sftp|port-forwarding)"', _actions(step))
            }
        case "sudo", "rule":
            return {(_login(step), f"sudo {who} {words}") for who, words in _sudo(step.data.get("rule"))}
        case _:
            return {(_login(step), f"{step.enforcer}.{step.action}")} if step.phase is Phase.CLOSE else set()


def _of_key(action: str, line: str) -> set[str]:
    """A line as enforcers.ssh writes it; one that is not of that form is a right of its own, lost unless it is there again."""
    found = _LINE.fullmatch(line)
    if found is None:
        return {f"{action} {line}"}
    options, addresses, key = found[1].strip(",").split(","), (found[2] or _ANYWHERE).split(","), f"{action} {found[3]}"
    return {f"{key} may {option}" for option in options if option != "restrict"} | {f"{key} from {place}" for place in addresses}


def _sudo(rule: Json) -> set[tuple[str, str]]:
    found = rule if isinstance(rule, dict) else {}
    run_as, commands = found.get("run_as"), found.get("commands")
    if not isinstance(run_as, list) or not isinstance(commands, list):
        return set()
    return {(str(who), str(words)) for who in run_as for words in commands}


def _actions(step: Step) -> str:
    return _text(step.data.get("text")).partition('"actions": [')[2].partition("]")[0]


def _login(step: Step) -> str:
    rule = step.data.get("rule")
    named = step.data.get("name") or (rule.get("login") if isinstance(rule, dict) else "")
    return _text(named)


def _text(value: Json) -> str:
    return value if isinstance(value, str) else ""


class Without:
    """The host as it would be had an old grant's steps not been applied: what the one in its place is planned against.

    Looks like a Reader; whatever it does not hide it asks the real one.
    """

    def __init__(self, reader: Reader, steps: Sequence[Step], uids: Mapping[str, int]) -> None:
        self._reader = reader
        self._logins = frozenset(uids)
        self._uids = frozenset(uids.values())
        self._paths = frozenset(_text(step.data.get("path")) for step in steps if step.data.get("path"))
        member = [step for step in steps if step.action == "membership"]
        self._memberships = frozenset((_text(step.data.get("name")), _text(step.data.get("group"))) for step in member)

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def user(self, name: str) -> User | None:
        """See contract.Reader."""
        return None if name in self._logins else self._reader.user(name)

    def user_by_uid(self, uid: int) -> User | None:
        """See contract.Reader."""
        return None if uid in self._uids else self._reader.user_by_uid(uid)

    def group(self, name: str) -> Group | None:
        """See contract.Reader."""
        return None if name in self._logins else self._reader.group(name)

    def group_by_gid(self, gid: int) -> Group | None:
        """See contract.Reader."""
        return None if gid in self._uids else self._reader.group_by_gid(gid)

    def groups_of(self, name: str) -> frozenset[str]:
        """See contract.Reader."""
        found = frozenset(group for group in self._reader.groups_of(name) if (name, group) not in self._memberships)
        return found - {name} if name in self._logins else found

    def exists(self, path: object) -> bool:
        """See contract.Reader."""
        return str(path) not in self._paths and self._reader.exists(path)  # type: ignore[arg-type]  # a Path, as everywhere
