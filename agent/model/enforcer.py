"""The protocol of an enforcer: one mechanism, one file in ``enforcers/``, one line in its registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from agent.model.grant import Grant, Want
from agent.model.plan import Residue, Step

if TYPE_CHECKING:  # the recorder has values of the model, and no use for what this brings along
    from agent.host.contract import Reader, Writer


@dataclass(frozen=True, slots=True)
class PlanContext:
    """What a plan may know beside its own want: the whole (expanded) grant and the UIDs reserved for its new logins."""

    grant: Grant
    uids: Mapping[str, int] = field(default_factory=dict)

    def creates(self, login: str) -> bool:
        """Whether this grant itself makes the account ``login``."""
        return login in self.uids


class Enforcer(Protocol):
    """Deciding (decode, plan) is pure; looking takes a Reader; acting takes a Writer and is idempotent both ways.

    ``apply`` may run again over a half-applied step; ``revert`` treats absent as done and never needs anything but the step.
    """

    type: ClassVar[str]

    def prepare(self, writer: Writer) -> None:
        """Put the mechanism's own drop-ins in place, when the daemon starts and when somebody changed them; idempotent.

        Raises:
            HostError: this host can't enforce it now; grants that need it are refused until it can.
        """

    def retire(self, writer: Writer) -> None:
        """Take away what :meth:`prepare` put in place, when Tidegate leaves this host; absent, or not ours by now, means done.

        Raises:
            HostError: it stands still, or the program that reads it could not be told.
        """

    def decode(self, body: Mapping[str, object], field: str) -> Want:
        """One authorization_details object → a typed want. ``field`` prefixes every refusal's field.

        Raises:
            InvalidGrantError: a member is missing, unknown, or out of range.
        """

    def observe(self, want: Any, reader: Reader) -> Any:
        """Look at what is on the host now, changing nothing. The result goes to :meth:`plan`."""

    def plan(self, want: Any, seen: Any, context: PlanContext) -> Sequence[Step]:
        """Steps for this want, given what was seen; pure.

        Raises:
            UnenforceableError: the host can't do this exactly (a name is taken, a group does not exist).
        """

    def apply(self, step: Step, writer: Writer) -> None:
        """Make the change. Raises HostError; the journal then undoes the whole grant."""

    def revert(self, step: Step, writer: Writer) -> None:
        """Undo the change; absent means done. Raises HostError; the undo then stays open and is tried again."""

    def found(self, reader: Reader) -> Sequence[Step]:
        """Steps for all of this mechanism that Tidegate made and that stands on the host, to be undone without a journal."""

    def residue(self, steps: Sequence[Step], reader: Reader) -> Sequence[Residue]:
        """What of these (reverted) steps is still there."""
