"""A grant that is not ended, in memory: all that teardown needs, so that it works though the journal can't be read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agent.errors import UnenforceableError
from agent.expiry.deadline import Deadline
from agent.expiry.kept_steps import NumberedStep, may_say
from agent.host.clock import Clock
from agent.host.lent import Lent, merged
from agent.journal import EndCause, GrantRecord, GrantState
from agent.model import Json, lent_by
from agent.model.lent import LENT


@dataclass(slots=True)
class LiveGrant:
    """``steps`` are ``(seq, step)`` in the order applied. ``cancel`` asks an opening that is under way to undo itself."""

    record: GrantRecord
    deadline: Deadline
    state: GrantState
    steps: Sequence[NumberedStep] = ()
    uids: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Json] = field(default_factory=dict)  # observations by name, as the journal keeps them
    opened_ns: int | None = None
    opener: bool = False  # a thread is applying its steps right now
    cancel: bool = False
    shutting: bool = False  # a thread is taking it down right now
    cause: EndCause | None = None
    cause_text: str = ""
    began_ns: int | None = None  # when its end first began
    overdue_ns: int = 0  # for how long its deadline had passed then
    moved_ns: int = 0  # how far the wall clock had been set by then, while it was live
    doors_ns: int | None = None
    last_process_ns: int | None = None
    killed: list[str] = field(default_factory=list)  # over all attempts, as the receipt names them
    killed_count: int = 0
    fresh_within_s: int | None = None  # it stands open only while a bulletin of its issuer is no older than that
    suspending: bool = False  # a thread is closing and severing it right now
    drain: Deadline | None = None  # no login any more, and its sessions end then: it was revoked with time to leave
    superseded_by: str | None = None
    alive: bool = False  # some process of it outlived the last attempt
    attempts: int = 0
    error: str = ""

    @property
    def id(self) -> int:
        """The journal's id."""
        return self.record.id

    def is_over(self, clock: Clock) -> bool:
        """Whether an opening that is under way has to undo itself: somebody ended the grant, or its time has passed."""
        return self.cancel or self.deadline.passed(clock)

    def must_go_on(self, clock: Clock, doing: str) -> None:
        """Asked before each step of whatever opens it. Raises UnenforceableError ``ended_while_opening``."""
        if self.is_over(clock):
            raise UnenforceableError("ended_while_opening", f"the grant ended while it {doing}")

    def apart(self) -> "LiveGrant":
        """A copy to be cut that shares the steps: the times and numbers of that cut are not those of this one's end."""
        return replace(self, began_ns=None, doors_ns=None, last_process_ns=None, killed=[], killed_count=0)

    @property
    def shown_state(self) -> str:
        """The state as people are told it: one that is being drained is neither open nor shut."""
        return "draining" if self.drain and self.state is GrantState.OPEN else self.state.value

    @property
    def archives(self) -> bool:
        """Whether a home of it is to be packed away, which takes as long as there is something in it."""
        return any(step.data.get("archive") is True for _, step in self.steps)

    @property
    def lent(self) -> tuple[Lent, ...]:
        """What it lends, one for each uid, by its steps alone; on the boot clock none of it is older than the grant's coming in."""
        if not may_say(self.steps, LENT):
            return ()
        since_ns = self.deadline.boot_ns - (self.deadline.wall_ns - self.record.received_ns)
        return merged(lent for _, step in self.steps if (lent := lent_by(step, since_ns)) is not None)

    @property
    def tenants(self) -> dict[int, str]:
        """UID → login of the accounts this grant made."""
        return {uid: login for login, uid in self.uids.items()}
