"""A live grant that another one names: which, that one's plan as if the old had never been, and what is left of the old."""

from collections.abc import Mapping, Sequence
from typing import cast

from agent import planning
from agent.errors import HostError, UnenforceableError
from agent.expiry import notice
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.teardown import Teardown
from agent.host.contract import Reader
from agent.journal import EndCause, GrantState
from agent.journal.orders import TakeOver
from agent.model import Enforcer, Grant, Plan


def target(grant: Grant, ledger: Ledger) -> LiveGrant | None:
    """The live grant of the same issuer and subject that this one supersedes; None when it names none.

    Raises:
        UnenforceableError: ``supersedes_unknown``, ``supersedes_other_subject``, ``supersedes_not_open``.
    """
    if grant.supersedes is None:
        return None
    old = next(ledger.where(lambda record: (record.iss, record.jti) == (grant.iss, grant.supersedes)), None)
    if old is None:
        reason = f"this host has no live grant {grant.supersedes} of that issuer"
        raise UnenforceableError("supersedes_unknown", reason, field="supersedes")
    if old.record.sub != grant.sub:
        raise UnenforceableError("supersedes_other_subject", "the grant it names is another subject's", field="supersedes")
    if old.shutting or old.opener or old.drain or old.state not in {GrantState.OPEN, GrantState.PENDING}:
        raise not_open(old)
    return old


def plan_over(grant: Grant, old: LiveGrant, enforcers: Mapping[str, Enforcer], reader: Reader) -> Plan:
    """The plan on a host where the old grant never was, with the old one's UIDs. Raises as planning does, and for a new login."""

    def same(login: str) -> int:
        if login not in old.uids:
            reason = f"{login} is no account of the grant whose place it takes"
            raise UnenforceableError("supersedes_other_accounts", reason, field="authorization_details")
        return old.uids[login]

    without = planning.Without(reader, [step for _, step in old.steps], old.uids)
    return planning.plan(grant, enforcers, cast(Reader, without), same)


def give_place(old: LiveGrant, over: TakeOver, jti: str) -> None:
    """It is over from here on, by its successor: an order that comes now is about that one."""
    old.state, old.cause, old.cause_text, old.superseded_by = GrantState.SHUTTING, EndCause.SUPERSEDED, over.told, jti


def leave_no_old(live: LiveGrant, narrowed: Sequence[str], trouble: str, teardown: Teardown) -> None:
    """Before a replacement counts as open: whoever lost something is out. Raises HostError ``narrowing_failed``."""
    tenants = {uid: login for login, uid in live.uids.items() if login in narrowed}
    if tenants:
        notice.tell_narrowed(live)
        severed = teardown.end_processes(tenants)
        trouble = trouble or next((name for found in severed.values() for name in found.survivors), "")
    if trouble:
        raise HostError("narrowing_failed", f"what the old grant gave and this one does not could not be ended: {trouble}")


def not_open(old: LiveGrant) -> UnenforceableError:
    """The answer where something else is happening to the old one."""
    reason = f"the grant it names is {old.shown_state}, neither open nor waiting"
    return UnenforceableError("supersedes_not_open", reason, field="supersedes")
