"""Temporary membership of an account in groups: of this grant's account, or of one that was there before."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from agent.errors import HostError, UnenforceableError
from agent.host.contract import Config, Reader, User, Writer
from agent.host.lent import Lent
from agent.model import GroupWant, JsonObject, PlanContext, Residue, Step
from agent.model.fields import FieldReader, choice, group_name, login
from agent.model.lent import to_json
from agent.model.plan import Phase, Stage
from enforcers.data import text


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """The account, where it is there already, the groups it is in, the gids of the asked ones, and those that are missing."""

    user: User | None
    member_of: frozenset[str]
    gids: dict[str, int]
    missing_groups: tuple[str, ...]
    reserved: str = ""  # why not, where a group of Tidegate's own is asked for


class GroupEnforcer:
    """``{"type":"group","identifier":...,"groups":[...]}``; a membership that is there already is neither made nor taken away."""

    type: ClassVar[str] = "group"

    def prepare(self, writer: Writer) -> None:
        """Nothing to put in place. A membership needs nothing but the group."""

    def retire(self, writer: Writer) -> None:
        """Nothing to take away."""

    def decode(self, body: object, field: str) -> GroupWant:
        """See Enforcer."""
        reader = FieldReader(body, field, required=("type", "identifier", "groups"))
        reader.one("type", choice(self.type))
        return GroupWant(identifier=reader.one("identifier", login), groups=reader.many("groups", group_name))

    def observe(self, want: GroupWant, reader: Reader) -> GroupSeen:
        """See Enforcer."""
        groups = {name: reader.group(name) for name in want.groups}
        return GroupSeen(
            user=reader.user(want.identifier),
            member_of=reader.groups_of(want.identifier),
            gids={name: group.gid for name, group in groups.items() if group is not None},
            missing_groups=tuple(name for name, group in groups.items() if group is None),
            reserved=own_groups(want.groups, reader.config),
        )

    def plan(self, want: GroupWant, seen: GroupSeen, context: PlanContext) -> Sequence[Step]:
        """See Enforcer. Codes: ``group_missing``, ``group_reserved`` and those of :func:`refuse_account`."""
        refuse_account(want.identifier, seen.user, context)
        if seen.reserved:
            raise UnenforceableError("group_reserved", seen.reserved)
        if seen.missing_groups:
            raise UnenforceableError("group_missing", f"no group {', '.join(seen.missing_groups)} on this host")
        return tuple(
            _step(want.identifier, group, _lent(seen, group, context)) for group in want.groups if group not in seen.member_of
        )

    def apply(self, step: Step, writer: Writer) -> None:
        """See Enforcer."""
        if step.action != "membership":
            raise HostError("unknown_step", f"group has no action {step.action!r}")
        writer.add_membership(text(step.data, "name"), text(step.data, "group"))

    def revert(self, step: Step, writer: Writer) -> None:
        """See Enforcer."""
        if step.action != "membership":
            raise HostError("unknown_step", f"group has no action {step.action!r}")
        writer.drop_membership(text(step.data, "name"), text(step.data, "group"))

    def found(self, reader: Reader) -> Sequence[Step]:
        """See Enforcer. Of accounts that people made; those of our own accounts go with the account."""
        own = {user.name for user in reader.own_accounts()}
        return [_step(name, group, {}) for name, group in reader.own_memberships() if name not in own]

    def residue(self, steps: Sequence[Step], reader: Reader) -> Sequence[Residue]:
        """See Enforcer."""
        return [
            Residue("membership", text(step.data, "name"), f"in group {text(step.data, 'group')}")
            for step in steps
            if text(step.data, "group") in reader.groups_of(text(step.data, "name"))
        ]


def own_groups(asked: Collection[str], config: Config) -> str:
    """Why none of these may be granted; empty when none is Tidegate's own.

    Whoever is in the tenants' group is let in by sshd's block for tenants, and loses every other way in; whoever is in the
    admins' may end everybody's access.
    """
    if config.tenant_group in asked:
        return f"group {config.tenant_group} is every tenant's already, and nobody else's"
    return f"group {config.admin_group} may end every grant, so no grant gives it" if config.admin_group in asked else ""


def _step(name: str, group: str, more: JsonObject) -> Step:
    data: JsonObject = {"name": name, "group": group, **more}
    return Step("group", "membership", Stage.GRANT, Phase.CLOSE, f"{name}:{group}", f"{name} in group {group}", data)


def _lent(seen: GroupSeen, group: str, context: PlanContext) -> JsonObject:
    """What its end needs to know: a person's processes that carry the group die with it, their others go on."""
    if seen.user is None or context.creates(seen.user.name):
        return {}
    return {"lent": to_json(Lent(seen.user.name, seen.user.uid, gids=frozenset({seen.gids[group]})))}


def refuse_account(name: str, user: User | None, context: PlanContext) -> None:
    """The account must be this grant's own, or one that people made; never root by any name, never another grant's.

    Another grant's account may end, and its name be given to somebody else, while this grant lives on.

    Raises:
        UnenforceableError: ``account_missing``, ``account_is_root``, ``account_of_other_grant``.
    """
    if context.creates(name):
        return
    if user is None:
        raise UnenforceableError("account_missing", f"no account {name}, on this host or in this grant")
    if user.uid == 0 or name == "root":
        raise UnenforceableError("account_is_root", f"{name} is root")
    if user.ours:
        raise UnenforceableError("account_of_other_grant", f"{name} is the account of another grant")
