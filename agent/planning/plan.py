"""One grant, looked at against the host as it is now, as the ordered steps that will open it. Nothing is changed here."""

from collections.abc import Callable, Mapping

from agent.errors import UnenforceableError
from agent.host.contract import Reader
from agent.model import AccountWant, Enforcer, Grant, Plan, PlanContext, Step


def plan(grant: Grant, enforcers: Mapping[str, Enforcer], reader: Reader, reserve_uid: Callable[[str], int]) -> Plan:
    """The steps of an (expanded) grant, account entries first, then by stage.

    ``reserve_uid(login)`` is called once for each new login, and only when nothing else of the grant is refused: a
    refused grant leaves no reservation behind.

    Raises:
        UnenforceableError: an enforcer's own codes, ``no_enforcer``, ``same_target``, ``uid_taken``. ``field`` names the entry.
    """
    logins = [want.identifier for want in grant.wants if isinstance(want, AccountWant)]
    seen = _observe(grant, enforcers, reader)
    # Once with stand-in numbers: whatever is refused, is refused before a real one is spent.
    _steps(grant, enforcers, seen, PlanContext(grant, {login: reader.config.uid_first + n for n, login in enumerate(logins)}))
    uids = {login: reserve_uid(login) for login in logins}
    for login, uid in uids.items():
        if reader.user_by_uid(uid) is not None or reader.group_by_gid(uid) is not None:
            raise UnenforceableError("uid_taken", f"uid {uid}, reserved for {login}, is in use on this host")
    return Plan(grant.jti, _steps(grant, enforcers, seen, PlanContext(grant, uids)), uids)


def _observe(grant: Grant, enforcers: Mapping[str, Enforcer], reader: Reader) -> list[object]:
    """What each entry's enforcer sees, in the grant's order."""
    for index, want in enumerate(grant.wants):
        if want.type not in enforcers:
            field = f"authorization_details[{index}]"
            raise UnenforceableError("no_enforcer", f"nothing on this host enforces {want.type!r}", field=field)
    return [enforcers[want.type].observe(want, reader) for want in grant.wants]


def _steps(grant: Grant, enforcers: Mapping[str, Enforcer], seen: list[object], context: PlanContext) -> tuple[Step, ...]:
    """Pure: account entries first, since a refused account explains the refusals after it; then stably by stage."""
    steps: list[Step] = []
    for index in sorted(range(len(grant.wants)), key=lambda i: not isinstance(grant.wants[i], AccountWant)):
        want = grant.wants[index]
        try:
            steps += enforcers[want.type].plan(want, seen[index], context)
        except UnenforceableError as error:
            raise UnenforceableError(error.code, error.reason, field=f"authorization_details[{index}]") from error
    _refuse_same_target(steps)
    return tuple(sorted(steps, key=lambda step: step.stage))


def _refuse_same_target(steps: list[Step]) -> None:
    """Two entries that write the same thing would undo each other's half: one membership asked for twice, one file."""
    seen: set[tuple[str, str]] = set()
    for step in steps:
        kind = "membership" if step.action == "membership" else f"{step.enforcer}.{step.action}"
        if (kind, step.target) in seen:
            raise UnenforceableError("same_target", f"two entries ask for {step.target}")
        seen.add((kind, step.target))
