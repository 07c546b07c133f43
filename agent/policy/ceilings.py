"""Ceilings on a grant as a whole: time, number, ticket, reason, signatures, roles. Each check is pure; None is no objection."""

from collections.abc import Iterable, Sequence

from agent.model import RoleWant, Signer
from agent.policy.case import Case
from agent.policy.model import Denied

_DISTINCT_HINT = {"keys": "distinct keys", "issuers": "keys of distinct issuers", "approvers": "keys of distinct approvers"}


def duration(case: Case) -> Denied | None:
    """exp - nbf within max_duration."""
    asked, most = case.grant.exp - case.grant.nbf, case.rule.max_duration_s
    if asked > most:
        return Denied("duration_too_long", f"asks for {span(asked)}; at most {span(most)}", "exp")
    return None


def ahead(case: Case) -> Denied | None:
    """nbf - now within max_ahead."""
    asked, most = case.grant.nbf - case.now_s, case.rule.max_ahead_s
    if asked > most:
        return Denied("too_far_ahead", f"begins in {span(asked)}; at most {span(most)} ahead", "nbf")
    return None


def concurrent(case: Case) -> Denied | None:
    """Live grants by this rule, in all and of this subject; what this grant replaces (same subject) does not count."""
    grant, rule = case.grant, case.rule
    if rule.max_concurrent is None and rule.max_concurrent_per_subject is None:
        return None
    counted = [
        live
        for live in case.live
        if live.rule == rule.name and live.jti != grant.jti and not (live.jti == grant.supersedes and live.sub == grant.sub)
    ]
    if rule.max_concurrent is not None and len(counted) >= rule.max_concurrent:
        return Denied("too_many_grants", f"{len(counted)} grants are open by this rule; at most {rule.max_concurrent}")
    own = sum(live.sub == grant.sub for live in counted)
    if rule.max_concurrent_per_subject is not None and own >= rule.max_concurrent_per_subject:
        reason = f"{own} grants of this subject are open by this rule; at most {rule.max_concurrent_per_subject}"
        return Denied("too_many_grants_of_subject", reason, "sub")
    return None


def ticket(case: Case) -> Denied | None:
    """A ticket where one is required; the right form where there is one."""
    asked, ceiling = case.grant.ticket, case.rule.ticket
    if not asked:
        return Denied("ticket_required", "names no ticket", "ticket") if ceiling.required else None
    if ceiling.pattern is not None and not ceiling.pattern.matches(asked):
        return Denied("ticket_invalid", f"{asked[:40]!a} is not of the form {ceiling.pattern.text}", "ticket")
    return None


def reason(case: Case) -> Denied | None:
    """A reason where one is required; blanks are none."""
    if case.rule.reason_required and not case.grant.reason.strip():
        return Denied("reason_required", "gives no reason", "reason")
    return None


def keyboard(case: Case) -> Denied | None:
    """What is typed is recorded only where grant and rule both say so."""
    if case.grant.recording_input and not case.rule.recording.input:
        return Denied("input_not_allowed", "asks for the recording of what is typed", "recording.input")
    return None


def approvals(case: Case) -> Denied | None:
    """Enough distinct signatures of those who may grant by this rule; another issuer's key counts for nothing."""
    wanted = case.rule.approvals
    counted = [signer for signer in case.grant.signers if set(signer.issuers) & set(case.rule.issuers)]
    have = distinct(counted, wanted.distinct)
    if have < wanted.threshold:
        reason = f"signed by {have} {_DISTINCT_HINT[wanted.distinct]} that count; needs {wanted.threshold}"
        return Denied("approvals_missing", reason, "signatures")
    return None


def roles_listed(case: Case) -> Denied | None:
    """Each role of the grant stands in the rule."""
    for index, want in enumerate(case.grant.wants):
        if isinstance(want, RoleWant) and want.name not in case.rule.roles:
            return Denied("role_not_allowed", f"role {want.name!a} is not in the rule", f"authorization_details[{index}].name")
    return None


def distinct(signers: Sequence[Signer], by: str) -> int:
    """How many surely different parties signed: signers that share a key, or the named thing, count once, also by way of a third.

    A key that speaks for two issuers could be either, so counting groups that share nothing never counts one party twice.
    """
    groups: list[set[str]] = []
    for signer in signers:
        marks = _marks(signer, by)
        if not marks:
            continue
        touching = [group for group in groups if group & marks]
        groups = [group for group in groups if not group & marks]
        groups.append(marks.union(*touching))
    return len(groups)


def _marks(signer: Signer, by: str) -> set[str]:
    named: Iterable[str] = ()
    if by == "issuers":
        named = signer.issuers
    elif by == "approvers":
        if signer.approver is None:
            return set()
        named = (signer.approver,)
    return {f"key {signer.thumbprint}", *(f"{by} {name}" for name in named)}


def span(seconds: int) -> str:
    """Seconds in the largest unit that divides them: ``8h``, ``90s``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
