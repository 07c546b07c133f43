"""The rows of the journal as frozen values, and the reading of what a broken disk may have changed in them."""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.host.clock import Mark
from agent.model import Json, Phase, Stage, Step
from agent.model.text import one_line


class GrantState(StrEnum):
    """The life of a grant. Everything before ENDED is live: something of it may stand on the host."""

    PENDING = "pending"  # accepted, begins in the future
    OPENING = "opening"  # steps are being applied
    OPEN = "open"
    SUSPENDED = "suspended"  # closed and severed, not removed: it may come back
    SHUTTING = "shutting"  # its end has begun; some of it may still stand
    ENDED = "ended"


class StepState(StrEnum):
    """INTEND is written, and fsynced, before the act."""

    INTEND = "intend"
    DONE = "done"
    UNDONE = "undone"
    TAKEN = "taken"  # over by the grant that superseded this one: that one undoes it


class EndCause(StrEnum):
    """Why a grant ended, as receipts and events say it."""

    EXPIRED = "expired"
    REVOKED = "revoked"
    FAILED = "failed"  # could not be opened whole, so it was undone
    POLICY = "policy"  # pending, and no longer allowed when its time came
    SUPERSEDED = "superseded"  # another grant of the same subject took its place


@dataclass(frozen=True, slots=True)
class GrantRecord:
    """One grant as journaled. ``*_ns`` are nanoseconds: wall clock since the epoch, except ``boot_deadline_ns``."""

    id: int
    jti: str
    iss: str
    sub: str
    state: GrantState
    token: bytes
    digest: str
    nbf: int
    exp: int
    reason: str
    ticket: str
    summary: str
    rule: str
    received_ns: int
    boot_id: str
    boot_deadline_ns: int
    opened_ns: int | None = None
    ended_ns: int | None = None
    cause: EndCause | None = None
    cause_text: str = ""
    attempts: int = 0
    last_error: str = ""
    uids: dict[str, int] = field(default_factory=dict)
    logins: tuple[str, ...] = ()
    not_containable: tuple[str, ...] = ()
    iat: int = 0
    fresh_within_s: int | None = None
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class JournaledStep:
    """A step and how far it is."""

    seq: int
    step: Step
    state: StepState
    error: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """A live grant as a start takes it over. ``steps``: ``(seq, text)`` in the order applied, without those another has taken over.

    The texts are :func:`step_of`'s to read, when they are needed.
    """

    record: GrantRecord
    steps: tuple[tuple[int, str], ...]
    notes: dict[str, Json]


@dataclass(frozen=True, slots=True)
class HeldBulletin:
    """The latest bulletin of an issuer. ``wall_ns`` and ``boot_ns`` (of ``boot_id``): one moment on both clocks, when it came."""

    iss: str
    seq: int
    iat: int
    exp: int
    wall_ns: int
    boot_id: str
    boot_ns: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A token that was refused; kept, bounded, for ``tidegate status``."""

    at_ns: int
    source: str
    code: str
    reason: str
    field: str
    jti: str
    sub: str


_READ_APART = frozenset({"uids", "logins", "not_containable", "state", "cause"})
_AS_THEY_ARE = tuple(sorted(set(GrantRecord.__slots__) - _READ_APART))


def record_of(row: sqlite3.Row, uids: Mapping[str, int]) -> GrantRecord:
    """A row of ``grants``, with the UIDs by login that are its own."""
    return GrantRecord(
        **{name: row[name] for name in _AS_THEY_ARE},
        state=GrantState(row["state"]),
        cause=cause_of(row["cause"]),
        uids=dict(uids),
        logins=texts_of(row["logins"]),
        not_containable=texts_of(row["not_containable"]),
    )


def cause_of(text: str | None) -> EndCause | None:
    """Why it ends; a word that can't be read was an order all the same."""
    if not text:
        return None
    try:
        return EndCause(text)
    except ValueError:
        return EndCause.FAILED


def texts_of(text: str) -> tuple[str, ...]:
    """A list of texts; none where it can't be read: only words depend on it, and an end must not."""
    if text == "[]":
        return ()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    return tuple(str(each) for each in found) if isinstance(found, list) else ()


def notes_of(rows: Iterable[tuple[str, str]]) -> dict[str, Json]:
    """Observations by name. One that can't be read is left out: no end waits for it."""
    found: dict[str, Json] = {}
    for name, text in rows:
        with contextlib.suppress(ValueError, RecursionError):
            found[name] = json.loads(text)
    return found


def dump_step(step: Step) -> str:
    """A step as its row has it."""
    return json.dumps(step.to_json(), sort_keys=True, separators=(",", ":"))


def mark_of(text: str) -> Mark | None:
    """A moment on both clocks; none where it can't be read."""
    try:
        wall_ns, boot_id, boot_ns = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    readable = isinstance(wall_ns, int) and isinstance(boot_id, str) and isinstance(boot_ns, int)
    return Mark(wall_ns, boot_id, boot_ns) if readable else None


def step_of(text: str) -> Step:
    """A step that can't be read is one that no enforcer undoes: its grant stays live and loud, and all else of it is undone."""
    try:
        return Step.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = one_line(f"a journaled step can't be read ({type(error).__name__}): {text}", 200)
        return Step("unreadable", "unreadable", Stage.OPEN, Phase.CLOSE, "", what)
