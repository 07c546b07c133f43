"""What a grant will change on this host: ordered steps, each JSON, each enough for its own undoing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TypeAlias

Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None
JsonObject: TypeAlias = Mapping[str, Json]


class Stage(IntEnum):
    """When a step is applied. Everything is created locked, so a crash half-way leaves no way in."""

    CREATE = 1
    GRANT = 2
    OPEN = 3


class Phase(StrEnum):
    """When a step is undone: CLOSE is what lets people in (first, in milliseconds), REMOVE what sessions stand on."""

    CLOSE = "close"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Step:
    """One change. ``data`` holds all that apply and revert need, and is journaled before the act.

    ``summary`` is one line for ``tidegate plan`` and the receipt; it says what, never how.
    """

    enforcer: str
    action: str
    stage: Stage
    phase: Phase
    target: str
    summary: str
    data: JsonObject = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """All fields, as the journal, the receipt and ``plan --json`` show them."""
        return {
            "enforcer": self.enforcer,
            "action": self.action,
            "stage": self.stage.name.lower(),
            "phase": self.phase.value,
            "target": self.target,
            "summary": self.summary,
            "data": dict(self.data),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Json]) -> "Step":
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on anything else."""
        data = value["data"]
        if not isinstance(data, dict):
            raise TypeError("a step's data is an object")
        return cls(
            enforcer=str(value["enforcer"]),
            action=str(value["action"]),
            stage=Stage[str(value["stage"]).upper()],
            phase=Phase(str(value["phase"])),
            target=str(value["target"]),
            summary=str(value["summary"]),
            data=data,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one grant in the order they are applied; teardown goes through them backwards, CLOSE before REMOVE.

    ``uids`` maps each login the plan creates to the UID reserved for it.
    """

    jti: str
    steps: tuple[Step, ...]
    uids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Residue:
    """Something found after teardown that should not be there, or is not ours to delete.

    ``uid``: whose it is; None concerns every account of the grant. ``of_host``: the host's own, though otherwise than when the
    grant opened: it is told, never touched, and keeps no UID from coming back.
    """

    kind: str
    where: str
    detail: str = ""
    removed: bool = False
    uid: int | None = None
    of_host: bool = False

    def to_json(self) -> dict[str, Json]:
        """As the receipt shows it."""
        return {"kind": self.kind, "where": self.where, "detail": self.detail, "removed": self.removed}
