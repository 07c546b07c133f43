"""The whole of Tidegate in two functions: :meth:`Pipeline.open` and :meth:`Pipeline.shut`.

Opening: take (agent.intake) → verify → decode → judge → plan → intend → apply. Nothing changes before ``intend`` is on disk.
Shutting: close → sever → prove → remove → sweep → receipt. It needs nothing but the host and the steps in memory, so an unreadable
policy, key or journal stops what opens while what shuts goes on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from agent import enforcement, planning, policy, trust
from agent.admitted import Admitted, refuse_taken, refuse_unready, refuse_unrecordable
from agent.audit import AuditEvent, EventKind, Trail
from agent.config import Config
from agent.errors import DeniedError, HostError, JournalError, RefusedError, TidegateError, UnenforceableError
from agent.expiry import notice, residue, story, superseding
from agent.expiry.behind import Behind
from agent.expiry.deadline import Deadline
from agent.expiry.ending import Ending
from agent.expiry.executions import Executions
from agent.expiry.ledger import Ledger
from agent.expiry.live import LiveGrant
from agent.expiry.logged import Logged
from agent.expiry.proving import Prover
from agent.expiry.recordings import Recordings
from agent.expiry.shut import Shut
from agent.expiry.teardown import Teardown
from agent.expiry.tombstones import Tombstones
from agent.host import journald
from agent.host.clock import NS, Clock
from agent.host.contract import Writer
from agent.host.lent import Lent
from agent.host.processes import ProcessTable
from agent.host.threads import together
from agent.journal import EndCause, GrantState, Journal
from agent.journal.orders import CARRIED, TakeOver
from agent.model import Enforcer, Plan, Step
from agent.model.summary import summarise
from agent.planning import uids
from agent.sessions.who import Sessions
from agent.spool import Inbox, Outbox

log = logging.getLogger("tidegate")


@dataclass(slots=True)
class Pipeline:
    """Everything the flow needs, put together by :mod:`agent.assembly`. ``ring`` and ``policies`` may be exchanged at any time."""

    config: Config
    host_id: str
    clock: Clock
    writer: Writer
    enforcers: Mapping[str, Enforcer]
    ring: Callable[[], trust.KeyRing]
    policies: policy.PolicyStore
    host_key: trust.HostKey
    journal: Journal
    ledger: Ledger
    table: ProcessTable
    teardown: Teardown
    prover: Prover
    executions: Executions
    logged: Logged
    ending: Ending
    inbox: Inbox
    outbox: Outbox
    trail: Trail
    behind: Behind
    tombstones: Tombstones
    sessions: Sessions
    recordings: Recordings
    closing: str = ""  # why nothing is opened now (docs/decisions/0025); empty when it may be
    aside: Executor | None = None  # threads for what an opening waits for beside its own work
    unready: dict[str, TidegateError] = field(default_factory=dict)  # enforcer → why it can't be used now

    # Opening

    def open(self, token: bytes) -> LiveGrant:
        """Open what the token grants, or hold it until its time comes. Raises with nothing changed, or everything undone."""
        admitted = self.admit(token)
        if admitted.old is not None:
            return self._replace(admitted, admitted.old, token)
        waits = admitted.grant.nbf * NS > self.clock.wall_ns() or not self._is_fresh(admitted)
        live = self._accept(admitted, token, planned=None if waits else admitted.plan)
        if not waits:
            self._apply(live, admitted.plan.steps)
        return live

    def admit(self, token: bytes, *, own: LiveGrant | None = None) -> Admitted:
        """Decide, changing nothing: verify → decode → replay → judge → plan. ``own``: the pending grant whose time has come.

        Raises:
            RefusedError: with the code and field that say why.
        """
        with self.writer.looking_once():
            return self._decide(token, own)

    def _decide(self, token: bytes, own: LiveGrant | None) -> Admitted:
        if self.closing:
            raise JournalError("closing_only", f"this host only ends grants for now: {self.closing}")
        now_s = self.clock.wall_ns() // NS
        verified = trust.verify(token, self.ring(), typ=trust.TYP_GRANT)
        decoders = policy.decoders(self.enforcers)
        grant = trust.decode(verified, host_id=self.host_id, now_s=now_s, decoders=decoders)
        if own is None:
            self.journal.refuse_replay(grant)
            self.journal.orders.refuse_revoked(grant.iss, grant.jti, grant.sub, grant.iat)
        old = superseding.target(grant, self.ledger) if own is None else None
        # Records as they are: to make something of each takes longer than all else of a decision, on a full host.
        live: list[policy.Live] = [each.record for each in self.ledger.all() if each is not own]
        verdict = policy.judge(
            grant,
            self.policies.policy,
            now_s=now_s,
            live=live,
            is_ours=self._is_ours,
            changeable=lambda want, words, groups: planning.changeable(want, words, groups, self.writer),
        )
        if isinstance(verdict, policy.Denied):
            raise DeniedError(verdict.code, verdict.reason, field=verdict.field)
        refuse_unrecordable(verdict.grant, self.writer.recorder(), journald.why_not(self.writer))
        refuse_unready(verdict.grant, self.unready)
        refuse_taken(verdict.grant, self.ledger.all(), own or old)
        change = None
        if old is not None and old.state is GrantState.OPEN:
            change = planning.replacement(
                old.steps, old.uids, superseding.plan_over(verdict.grant, old, self.enforcers, self.writer)
            )
        plan = change.plan if change else planning.plan(verdict.grant, self.enforcers, self.writer, self._uids())
        admitted = Admitted(verdict.grant, verdict.rule, plan, verdict.not_containable, verdict.fresh_within_s, old, change)
        if old is not None and (grant.nbf > now_s or not self._is_fresh(admitted)):
            reason = "takes another grant's place, so it must begin at once, and any bulletin that it needs be fresh"
            raise UnenforceableError("supersedes_begins_later", reason, field="supersedes")
        return admitted

    def open_pending(self, live: LiveGrant) -> None:
        """The time of a grant that was to begin later has come: decide again, by the keys and policy of now, and open it."""
        if self.ledger.wait_for_nbf(live):
            return
        try:
            admitted = self.admit(live.record.token, own=live)
        except RefusedError as error:
            self.shut([live], EndCause.POLICY, str(error))
            return
        except (HostError, JournalError) as error:
            log.error("grant %s waits, it can't be judged now: %s", live.record.jti, error)
            self.ledger.postpone_opening(live)
            return
        live.fresh_within_s = admitted.fresh_within_s
        if not self._is_fresh(admitted):
            return  # the bulletin that it waits for comes back here (agent.orders.freshen)
        if not self.ledger.begin_opening(live):
            return
        try:
            self.journal.carry([(live.id, live.deadline.boot_id, live.deadline.boot_ns)])
            self.journal.intend(live.id, admitted.plan, self.clock.wall_ns(), fresh_within_s=admitted.fresh_within_s)
        except JournalError as error:
            log.error("grant %s waits, it can't be written down now: %s", live.record.jti, error)
            self.ledger.postpone_opening(live)
            return
        live.steps, live.uids = list(enumerate(admitted.plan.steps)), dict(admitted.plan.uids)
        try:
            self._apply(live, admitted.plan.steps)
        except TidegateError as error:
            log.error("grant %s could not be opened: %s", live.record.jti, error)

    def _replace(self, admitted: Admitted, old: LiveGrant, token: bytes) -> LiveGrant:
        """Put this grant in the old one's place: what is lost is undone first, then what is new is done, then who lost it ends.

        From ``_accept`` on the new one owns the accounts: what fails after it ends them too: no session is left without a grant.
        """
        jti, change = admitted.grant.jti, admitted.change
        if not self.ledger.begin_replacing(old):
            raise superseding.not_open(old)
        over = TakeOver(old.id, change.taken if change else (), f"by grant {jti}", change.narrowed if change else None)
        try:
            live = self._accept(admitted, token, planned=admitted.plan, over=over)
        except Exception:
            self.ledger.give_back(old)
            if old.cause is not None:  # an order found it claimed, and left it to this thread
                self.shut([old], old.cause, old.cause_text)
            raise
        live.notes = {name: value for name, value in old.notes.items() if name in CARRIED}
        self.behind.arm_again(live)  # before the old one's is taken away; opening insists on it
        self.executions.begin(live)  # so that nothing of theirs is between the two
        self.logged.begin(live)
        old.steps, old.uids = list(change.gone if change else ()), {}
        self.ending.begin([old], EndCause.SUPERSEDED, over.told)
        shuts = self.teardown.cut([old], lambda _grants: 0)
        self.clear(shuts)
        trouble = next((error for shut in shuts for error in shut.errors), "")
        leave_no_old = partial(superseding.leave_no_old, live, over.narrowed or (), trouble, self.teardown)
        self._apply(live, change.apply if change else admitted.plan.steps, leave_no_old)
        return live

    def _accept(self, admitted: Admitted, token: bytes, planned: Plan | None, over: TakeOver | None = None) -> LiveGrant:
        grant, now_ns = admitted.grant, self.clock.wall_ns()
        deadline = Deadline.starting_now(grant.exp, self.clock)
        if planned is not None:
            deadline = deadline.opening_now(grant.nbf, self.clock)
        with self.ledger.coming_in:
            self.journal.orders.refuse_revoked(grant.iss, grant.jti, grant.sub, grant.iat)  # the order came while it was judged
            if admitted.old is not None and admitted.old.cause is not None:  # the same, for the one that it replaces
                raise superseding.not_open(admitted.old)
            record = self.journal.accept(
                grant,
                token=token,
                summary=summarise(grant),
                rule=admitted.rule,
                received_ns=now_ns,
                boot=(deadline.boot_id, deadline.boot_ns),
                plan=planned,
                not_containable=admitted.not_containable,
                fresh_within_s=admitted.fresh_within_s,
                over=over,
            )
            live = LiveGrant(record, deadline, record.state, fresh_within_s=admitted.fresh_within_s)
            if planned is not None:
                live.steps, live.uids, live.opener = list(enumerate(planned.steps)), dict(planned.uids), True
            self.ledger.add(live)
            if admitted.old is not None and over is not None:
                superseding.give_place(admitted.old, over, grant.jti)
        self.trail.emit([story.event(live, EventKind.GRANT_ACCEPTED, now_ns)])
        return live

    def _apply(self, live: LiveGrant, steps: Sequence[Step], then: Callable[[], None] = lambda: None) -> None:
        """Run the steps; whatever stops them, undo what was done before the error goes on."""

        def go_on() -> None:
            live.must_go_on(self.clock, "was being opened")

        began_ns = self.clock.boot_ns()
        try:
            go_on()
            with self.journal.noted_together(live.id), self._meanwhile(live, steps):
                self.executions.begin(live)
                self.logged.begin(live)
                self.logged.insist(live)
                residue.take_baseline(live, self.writer, self.journal)
                self.prover.before(live, steps)
            enforcement.apply(steps, self.enforcers, self.writer, lambda _step: go_on())
            then()
            opened_ns = self.clock.wall_ns()
            self.journal.opened(live.id, opened_ns)
            self.ledger.opened(live, opened_ns)
            go_on()
        except Exception as error:
            live.opener = False
            self.shut([live], EndCause.FAILED, str(error))
            if isinstance(error, JournalError):  # the grant was taken and undone: that is its answer, and no reason to wait
                raise HostError(error.code, error.reason) from error
            raise
        self.trail.emit(story.opened(live, opened_ns, steps, took_ns=self.clock.boot_ns() - began_ns))
        self.prover.opened(live)

    # Shutting

    def shut(
        self, grants: Sequence[LiveGrant], cause: EndCause, text: str = "", *, claimed: Sequence[LiveGrant] | None = None
    ) -> list[Shut]:
        """End these grants now, together. Never raises: what is left of one keeps it live, and it is tried again."""
        shuts = self.cut(grants, cause, text, claimed=claimed)
        self.clear(shuts)
        return shuts

    def cut(
        self, grants: Sequence[LiveGrant], cause: EndCause, text: str = "", *, claimed: Sequence[LiveGrant] | None = None
    ) -> list[Shut]:
        """The first half: claim → note an order → close → sever. Bounded in time; :meth:`clear` is owed to what it returns.

        ``claimed``: those of them that the caller has claimed.
        """
        if claimed is None:
            claimed = self.ledger.begin_shutting(list(grants), cause, text)
        self.ending.begin(claimed, cause, text)
        shuts = self.teardown.cut(claimed, notice.tell_the_end, undoing=[live for live in grants if live.cancel and live.opener])
        self.ending.closed(shuts)
        return shuts

    def clear(self, shuts: Sequence[Shut]) -> None:
        """The second half: prove → remove → sweep → last seals → receipt. As long as it takes; nobody else's end waits for it."""
        closing = self.prover.closing(shuts)
        self.teardown.clear(shuts)
        self.prover.closed(closing)
        self.recordings.settle([shut.live for shut in shuts])
        over = [shut for shut in shuts if shut.ended_ns is not None]
        self.executions.finish(over)
        self.logged.finish(over)
        self.ending.finish(shuts)
        self.behind.disarm([shut.live for shut in shuts if shut.live.state is GrantState.ENDED])

    def sweep(self, tenants: Mapping[int, str], lent: Sequence[Lent] = ()) -> None:
        """Look again after the end (uid → login, empty when another grant has the login by now), and end what has turned up."""
        logins = {**{each.uid: each.login for each in lent}, **tenants}
        for uid, severed in self.teardown.sweep(dict(tenants), lent).items():
            at_ns, detail = self.clock.wall_ns(), {"killed": list(severed.killed), "survivors": list(severed.survivors)}
            self.trail.emit([AuditEvent(EventKind.RESIDUE_FOUND, at_ns, login=logins[uid], uid=uid, ok=False, detail=detail)])

    # Helpers of both ways

    def _meanwhile(self, live: LiveGrant, steps: Sequence[Step]) -> AbstractContextManager[None]:
        """What waits for systemd and for a program's answer, and must be done when the first step is: beside what does not."""
        return together(self.aside, partial(self.behind.arm, live), partial(enforcement.ahead, steps, self.enforcers, self.writer))

    def _uids(self) -> Callable[[str], int]:
        """Reserves one UID after the other for a plan; nothing is written until the plan is journaled."""
        last, spoken_for = self.journal.last_uid(), self.journal.spoken_for_uids()
        free = uids.free_uids(self.config, last, spoken_for, self.writer, lambda uid: bool(self.table.of({uid: ""})))
        return lambda _login: next(free)

    def _is_ours(self, login: str) -> bool:
        return (user := self.writer.user(login)) is not None and user.ours

    def _is_fresh(self, admitted: Admitted) -> bool:
        return self.ledger.freshness.holds(admitted.grant.iss, admitted.fresh_within_s)
