"""What stands between a grant that the policy allows and its opening: the host as it is now."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.errors import TidegateError, UnenforceableError
from agent.expiry.live import LiveGrant
from agent.host.contract import RecorderSeen
from agent.model import AccountWant, Grant, Plan, SshWant
from agent.planning import Replacement


@dataclass(frozen=True, slots=True)
class Admitted:
    """A grant that may be opened: roles expanded, allowed by ``rule``, and planned against the host as it is now."""

    grant: Grant
    rule: str
    plan: Plan
    not_containable: tuple[str, ...] = ()  # why what it gives amounts to root
    fresh_within_s: int | None = None  # it stands open only while a bulletin of its issuer is no older than that
    old: LiveGrant | None = None  # the live grant whose place it takes
    change: Replacement | None = None  # how, where anything of the old one stands


def refuse_taken(grant: Grant, live: Iterable[LiveGrant], own: LiveGrant | None) -> None:
    """A login is one grant's until that is over whole: what is undone of the old by its name would be the new one's."""
    wanted = {want.identifier for want in grant.wants if isinstance(want, AccountWant)}
    taken = {login for other in live if other is not own and not wanted.isdisjoint(other.uids) for login in other.uids}
    for index, want in enumerate(grant.wants):
        if isinstance(want, AccountWant) and want.identifier in taken:
            reason = f"{want.identifier} is another live grant's account"
            raise UnenforceableError("account_exists", reason, field=f"authorization_details[{index}].identifier")


def refuse_unready(grant: Grant, unready: Mapping[str, TidegateError]) -> None:
    """``unready``: enforcer → why it can't be used now."""
    for want in grant.wants:
        if want.type in unready:
            raise UnenforceableError("host_not_ready", f"{want.type} can't be enforced here now: {unready[want.type]}")


def refuse_unrecordable(grant: Grant, recorder: RecorderSeen, journal_why: str) -> None:
    """Better no access than access without what the grant asks for. ``journal_why``: why this host's journal can't be followed.

    An account that people made has a login shell of its own: nothing makes its sessions pass the recorder.
    """
    if grant.recording_required and recorder.why:
        reason = f"its sessions must be recorded, which this host can't do: {recorder.why}"
        raise UnenforceableError("recording_unavailable", reason, field="recording.required")
    forwarding = any(isinstance(want, SshWant) and "port-forwarding" in want.actions for want in grant.wants)
    if grant.recording_required and forwarding and journal_why:
        reason = f"what it forwards must be recorded, which this host can't do: {journal_why}"
        raise UnenforceableError("recording_unavailable", reason, field="recording.required")
    made = {want.identifier for want in grant.wants if isinstance(want, AccountWant)}
    others = [want.identifier for want in grant.wants if want.identifier not in made]
    if grant.recording_required and others:
        reason = f"the sessions of {others[0]}, an account of this host's, can't be recorded"
        raise UnenforceableError("recording_unavailable", reason, field="recording.required")
