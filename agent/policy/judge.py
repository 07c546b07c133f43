"""Grant and policy → Allowed or Denied. Pure: the time and what is live are passed in, and nothing is raised."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.model import Grant, GroupWant, Recording, RoleWant, SudoWant
from agent.model.grant import AccountWant
from agent.policy import ceilings, entries, roles
from agent.policy.case import Case, Changeable
from agent.policy.model import Allowed, Denied, Entry, Live, Policy, Role, Rule
from agent.policy.privileged import privileged_group

# In this order: what is asked for a whole grant, then each of its entries.
_CHECKS: tuple[Callable[[Case], Denied | None], ...] = (
    ceilings.duration,
    ceilings.ahead,
    ceilings.concurrent,
    ceilings.ticket,
    ceilings.reason,
    ceilings.keyboard,
    ceilings.approvals,
    ceilings.roles_listed,
    entries.all_entries,
)


def judge(
    grant: Grant,
    policy: Policy,
    *,
    now_s: int,
    live: Sequence[Live],
    is_ours: Callable[[str], bool],
    changeable: Changeable = lambda _want, _words, _groups: None,
) -> Allowed | Denied:
    """Whether one rule of the policy allows all of this grant.

    Args:
        grant: as decoded, roles not yet expanded.
        now_s: seconds since the epoch, the one reference time of the whole decision.
        live: grants that are open or waiting; the one this grant ``supersedes`` need not be left out.
        is_ours: whether a login belongs to an account that Tidegate made (another tenant's is never ``existing``).
        changeable: why others than root can change what a command runs on this host; by default nothing is known of its files.

    Returns:
        Allowed by the first rule that allows all, else Denied for the first reason of the closest rule, which is the first
        one whose issuers and subjects match; a code of :data:`agent.policy.codes.DENIALS`.
    """
    candidates = [rule for rule in policy.rules if _meant(rule, grant)]
    if not candidates:
        return _nobody(grant, policy)
    expanded = roles.expand(grant, policy)
    if isinstance(expanded, Denied):
        return expanded
    closest: Denied | None = None
    for rule in candidates:
        case = Case(grant, rule, policy, expanded, now_s, tuple(live), is_ours, changeable)
        denied = next((found for check in _CHECKS if (found := check(case)) is not None), None)
        if denied is None:
            return _allowed(case)
        closest = closest or replace(denied, rule=rule.name)
    return closest or _nobody(grant, policy)


def _meant(rule: Rule, grant: Grant) -> bool:
    return grant.iss in rule.issuers and _subject(rule, grant.sub)


def _subject(rule: Rule, sub: str) -> bool:
    return not rule.subjects or any(pattern.matches(sub) for pattern in rule.subjects)


def _nobody(grant: Grant, policy: Policy) -> Denied:
    if not policy.rules:
        return Denied("no_rule", "this host's policy has no rule, so it allows nothing")
    if not any(grant.iss in rule.issuers for rule in policy.rules):
        return Denied("issuer_not_allowed", f"no rule lets {grant.iss[:100]!a} grant anything", "iss")
    return Denied("subject_not_allowed", f"no rule lets {grant.iss[:100]!a} grant to {grant.sub[:100]!a}", "sub")


def _allowed(case: Case) -> Allowed:
    grant = replace(
        case.grant,
        wants=tuple(entry.want for entry in case.entries),
        recording_required=case.grant.recording_required or case.rule.recording.mode == "required",
        recording=_recording(case),
    )
    told = dict.fromkeys(reason for entry in case.entries for reason in _not_containable(entry, case))
    asked = [case.rule.fresh_within_s, *(role.fresh_within_s for role in _roles_of(case))]
    return Allowed(grant, case.rule.name, tuple(told), min((found for found in asked if found is not None), default=None))


def _recording(case: Case) -> Recording | None:
    """As the rule says; what a grant requires it gets."""
    ceiling = case.rule.recording
    required = case.grant.recording_required or ceiling.mode == "required"
    if ceiling.mode == "off" and not required:
        return None
    return Recording(required, case.grant.recording_input, ceiling.limit, ceiling.pause_s)


def _roles_of(case: Case) -> list[Role]:
    return [
        case.policy.roles[want.name] for want in case.grant.wants if isinstance(want, RoleWant) and want.name in case.policy.roles
    ]


def _not_containable(entry: Entry, case: Case) -> list[str]:
    """Why what the (allowed) entry gives amounts to root, for the receipt."""
    want = entry.want
    if isinstance(want, SudoWant):
        found = [(" ".join(words), case.why_root(want, words)) for words in want.commands]
        return [f"sudo {what} {why}" for what, why in found if why]
    if isinstance(want, AccountWant | GroupWant):
        held = [(group, privileged_group(group, case.policy.extra_privileged_groups)) for group in want.groups]
        return [f"group {group} {why}" for group, why in held if why]
    return []
